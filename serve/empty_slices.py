"""Slices that cannot show tissue, which are not run through the network."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Window
from wsseg.imaging.scan import Scan

SKIPPED_EMPTY = "SKIPPED_EMPTY"
CT = "CT"
# Values of such scans are not Hounsfield units, whatever the modality says.
NO_UNITS = frozenset({"NOT_HU", "MONOCHROME1"})
# A crop from the inside of a cyst or of fat may have equal pixels; an image of a body does not.
FEWEST_PIXELS = 64 * 64
# Aerated lung lies near -850 HU and may be what is looked for; emphysema is commonly drawn from
# -950 HU down, but never fills a slice: vessels and walls run through it. Air is -1000 HU.
AIR_HU = -950.0
# The mean of so many pixels squared keeps the noise of air (some 30 HU) from passing AIR_HU.
NEIGHBOURHOOD = 5
# A pixel that is one fifth tissue. Below it nobody draws an outline; the noise of air stays there.
SPECK_HU = -800.0

IsEmpty = Callable[[NDArray[np.float32]], bool]
Skip = Callable[[Scan], IsEmpty]


def skip_none(_scan: Scan) -> IsEmpty:
    """Skip no slice."""
    return lambda _pixels: False


def skip_empty(window: Window) -> Skip:
    """A rule that decides, given a scan, which of its slices cannot show tissue."""

    def rule(scan: Scan) -> IsEmpty:
        in_hu = scan.modality == CT and NO_UNITS.isdisjoint(scan.flags)
        return lambda pixels: shows_nothing(pixels, window) or (in_hu and is_air(pixels))

    return rule


def shows_nothing(pixels: NDArray[np.float32], window: Window) -> bool:
    """Whether all pixels of a slice (row, column[, 3]) are equal, so that it has no outline.

    False below FEWEST_PIXELS, and for a value at the top of a fixed window or above, which may be
    tissue that is brighter than the image can show.
    """
    rows, columns = pixels.shape[:2]
    if rows * columns < FEWEST_PIXELS or not (pixels == pixels[0, 0]).all():
        return False
    return window.kind == "image" or bool(pixels[0, 0].min() < window.high)


def is_air(pixels: NDArray[np.float32]) -> bool:
    """Whether a CT slice (row, column), in HU, holds only air and padding.

    Every pixel lies below SPECK_HU, and every NEIGHBOURHOOD x NEIGHBOURHOOD mean below AIR_HU. The
    second condition keeps lung; the first keeps the tip of a nose, a few pixels that a mean would
    dilute. A table in the image is denser than that, so such slices are computed.
    """
    rows, columns = pixels.shape[:2]
    if pixels.ndim != 2 or rows * columns < FEWEST_PIXELS or not (pixels < SPECK_HU).all():
        return False
    # Padding far below air (-2000, -3024) counts as air: it must not pull down the means beside it.
    means = np.pad(np.maximum(pixels, -1000.0).astype(np.float64), NEIGHBOURHOOD // 2, mode="edge")
    for axis in (0, 1):
        means = np.lib.stride_tricks.sliding_window_view(means, NEIGHBOURHOOD, axis).sum(-1)
    return bool((means / NEIGHBOURHOOD**2 < AIR_HU).all())
