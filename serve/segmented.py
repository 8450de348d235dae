"""A scan whose slices are measured: what batching hands on to tables and pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.scan import Scan
from wsseg.serve.cut import Recovered


@dataclass(frozen=True)
class Areas:
    """pixel, border: (slice, class); foreground: (slice,) pixels that carry any class.

    pixel counts each mask's pixels, border tells whether the mask touches the picture's edge.
    """

    pixel: NDArray[np.int64]
    border: NDArray[np.bool_]
    foreground: NDArray[np.int64]


@dataclass(frozen=True)
class Segmented:
    """A scan with all of its slices measured.

    labels: (slice, row, column) class number 1..k or 0; where classes overlap the later one wins,
    while `areas` come from each class's own mask. None where nobody asked for them. recovered:
    masks cut to ratios that are on file; None where there is no ratio for any slice. skipped:
    numbers of the slices that cannot show tissue, whose areas are 0 without having been computed.
    outside: numbers of the slices whose values lie outside the range that the model was trained on.
    """

    scan: Scan
    areas: Areas
    labels: NDArray[np.uint8] | None
    recovered: Recovered | None = None
    skipped: frozenset[int] = frozenset()
    outside: frozenset[int] = frozenset()

    def nbytes(self) -> int:
        """Bytes of pixels and label maps that are held."""
        maps = (self.labels, self.recovered.labels if self.recovered else None)
        return self.scan.pixels.nbytes + sum(found.nbytes for found in maps if found is not None)
