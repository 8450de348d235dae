"""What a scan's pixels tell before the network sees them: empty slices, and equal ones."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Window
from wsseg.imaging.scan import Scan
from wsseg.serve.likeness import OUTSIDE_WINDOW, Likeness

# Which slices cannot show any tissue: a rule on pixels alone, learnt from nothing.

SKIPPED_EMPTY = "SKIPPED_EMPTY"
CT = "CT"
# Values of such scans are not Hounsfield units, whatever the modality says.
NO_UNITS = frozenset({"NOT_HU", "MONOCHROME1"})
# A crop from the inside of a cyst or of fat may be of one value; a whole picture of a body is not.
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
    """Run every slice."""
    return lambda _pixels: False


def skip_empty(window: Window) -> Skip:
    """A rule that tells, of a scan, whether one of its slices cannot show tissue."""

    def rule(scan: Scan) -> IsEmpty:
        in_hu = scan.modality == CT and NO_UNITS.isdisjoint(scan.flags)
        return lambda pixels: shows_nothing(pixels, window) or (in_hu and is_air(pixels))

    return rule


def shows_nothing(pixels: NDArray[np.float32], window: Window) -> bool:
    """Whether a slice (row, column[, 3]) is one value throughout: it has no outline to find.

    False below FEWEST_PIXELS, and for a value at the top of a fixed window or above, which may be
    tissue that is brighter than the picture can tell.
    """
    rows, columns = pixels.shape[:2]
    if rows * columns < FEWEST_PIXELS or not (pixels == pixels[0, 0]).all():
        return False
    return window.kind == "image" or bool(pixels[0, 0].min() < window.high)


def is_air(pixels: NDArray[np.float32]) -> bool:
    """Whether a CT slice (row, column), in HU, holds air and padding only.

    Every pixel lies below SPECK_HU, and every NEIGHBOURHOOD x NEIGHBOURHOOD mean below AIR_HU. The
    second keeps lung; the first keeps the tip of a nose, a few pixels that a mean would dilute.
    A table in the picture is denser than that: such slices are run.
    """
    rows, columns = pixels.shape[:2]
    if pixels.ndim != 2 or rows * columns < FEWEST_PIXELS or not (pixels < SPECK_HU).all():
        return False
    return bool((_means(pixels) < AIR_HU).all())


def _means(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Means of all neighbourhoods; at the edges, where they are cut off, the edge is repeated.

    Padding far below air (-2000, -3024) counts as air: it must not pull down what lies beside it.
    """
    reach = NEIGHBOURHOOD // 2
    raised = np.maximum(pixels, -1000.0).astype(np.float64)
    sums = np.pad(raised, reach, mode="edge")
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(sums, NEIGHBOURHOOD, axis)
        sums = windows.sum(-1)
    means: NDArray[np.float64] = sums / NEIGHBOURHOOD**2
    return means


DIGEST_BYTES = 16  # two slices in a life's work of a clinic meet by chance with odds of 1 : 10^24


@dataclass(frozen=True)
class Looked:
    """A scan that was looked at.

    empty: numbers of the slices that are not to be run. digests: of each slice's bytes and shape,
    equal for equal slices; empty bytes for those not to be run. outside: numbers of the slices
    whose values lie outside the trained range.
    """

    scan: Scan
    empty: frozenset[int]
    digests: tuple[bytes, ...]
    outside: frozenset[int] = frozenset()


def look(scan: Scan, skip: Skip, likeness: Likeness | None = None) -> Looked:
    """Find the empty slices by the rule `skip`, and what tells the others apart.

    likeness: how the scan differs from the training images; its flags become the scan's.
    """
    is_empty = skip(scan)
    # One pass: a long scan decodes its slices each time that they are asked for.
    digests = tuple(b"" if is_empty(pixels) else _digest(pixels) for pixels in scan.pixels)
    empty = frozenset(index for index, digest in enumerate(digests) if not digest)
    alike = likeness or Likeness({})
    of_scan = tuple(flag for flag in alike.flags if flag != OUTSIDE_WINDOW)
    if of_scan:
        scan = replace(scan, flags=(*scan.flags, *of_scan))
    return Looked(scan, empty, digests, alike.outside - empty)


def _digest(pixels: NDArray[np.float32]) -> bytes:
    shape = repr(pixels.shape).encode()
    # Not for secrecy, but no other kind of hash in the standard library is safe to rely on alone.
    digest = hashlib.blake2b(shape, digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
