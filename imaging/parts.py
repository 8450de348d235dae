"""Connected parts of a mask."""

import numpy as np
from numpy.typing import NDArray

LEAST_SHARE = 0.05
"""Share of a mask's pixels below which a part is a speck and does not count."""
TOUCHING = np.ones((3, 3), np.uint8)


def count_parts(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> int:
    """The number of parts of a mask (row, column); 0 is outside.

    Pixels that touch at an edge or a corner belong to one part. Parts below LEAST_SHARE of the mask
    do not count, so there are at most 20.
    """
    from scipy import ndimage

    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0
    region = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    labels, count = ndimage.label(region, TOUCHING)
    if count == 1:
        return 1
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return int(np.count_nonzero(sizes >= LEAST_SHARE * sizes.sum()))
