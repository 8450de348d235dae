"""Inspection of a scan before the network sees it: empty slices, equal slices, unlike scans."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Seen, Window
from wsseg.imaging.intensity import ends_of, is_beyond, is_flat, thinned
from wsseg.imaging.scan import Scan, colours_of, scan_origin
from wsseg.serve.manifest import Manifest

SKIPPED_EMPTY = "SKIPPED_EMPTY"
OUTSIDE_WINDOW = "OUTSIDE_WINDOW"
OTHER_MODALITY = "OTHER_MODALITY"
OTHER_PLANE = "OTHER_PLANE"
UNLIKE_FLAGS = frozenset({OUTSIDE_WINDOW, OTHER_MODALITY, OTHER_PLANE})
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
# Share of the values of a scan, for a model that does not know the range it was trained on.
WITHIN_WINDOW = 0.01
DIGEST_BYTES = 16  # two slices in a life's work of a clinic meet by chance with odds of 1 : 10^24

IsEmpty = Callable[[NDArray[np.float32]], bool]
Skip = Callable[[Scan], IsEmpty]


@dataclass(frozen=True)
class Likeness:
    """How a scan differs from the training images.

    flags: flags of the whole scan, each with a text that says what was found and what was expected.
    outside: indices of the slices whose values lie outside the trained range.
    """

    flags: dict[str, str]
    outside: frozenset[int] = frozenset()


Compare = Callable[[Scan], Likeness]


@dataclass(frozen=True)
class InspectedScan:
    """A scan and what is known of it before the network sees it.

    empty: indices of the slices that are skipped. digests: one digest per slice, equal for slices
    of equal pixels and shape; empty bytes for skipped slices. outside: as in `Likeness`, without
    the skipped slices.
    """

    scan: Scan
    empty: frozenset[int]
    digests: tuple[bytes, ...]
    outside: frozenset[int] = frozenset()


def inspect(scan: Scan, skip: Skip, likeness: Likeness | None = None) -> InspectedScan:
    """Apply the rule `skip` to all slices of a scan and compute the digests of the others.

    likeness: the comparison with the training images; its flags are added to those of the scan.
    """
    is_empty = skip(scan)
    # One pass: a long scan decodes its slices each time that they are asked for.
    digests = tuple(b"" if is_empty(pixels) else _digest(pixels) for pixels in scan.pixels)
    empty = frozenset(index for index, digest in enumerate(digests) if not digest)
    likeness = likeness or Likeness({})
    # OUTSIDE_WINDOW is a flag of slices, see `outside`.
    flags = tuple(flag for flag in likeness.flags if flag != OUTSIDE_WINDOW)
    if flags:
        scan = replace(scan, flags=(*scan.flags, *flags))
    return InspectedScan(scan, empty, digests, likeness.outside - empty)


def _digest(pixels: NDArray[np.float32]) -> bytes:
    # Not for secrecy, but no other kind of hash in the standard library is safe to rely on alone.
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


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


def compare_none(_scan: Scan) -> Likeness:
    """Accept any scan as like the training images."""
    return Likeness({})


def compare_with(manifest: Manifest) -> Compare:
    """A rule that compares a scan with what the manifest says of the training images."""
    seen, window = manifest.training.seen or Seen(), manifest.window

    def rule(scan: Scan) -> Likeness:
        origin = scan_origin(scan)
        colours = colours_of(scan.pixels[len(scan.pixels) // 2]) if len(scan.pixels) else ""
        flags = {
            OTHER_MODALITY: (
                ("modality", origin.modality, seen.modalities),
                ("unit", origin.unit, seen.units),
                ("colours", colours, seen.colours),
            ),
            OTHER_PLANE: (("plane", scan.plane, seen.planes),),
        }
        differences = {
            flag: "; ".join(
                f"{name} {value}, trained on {', '.join(sorted(trained))}"
                for name, value, trained in properties
                # Training images whose files state nothing ("") may have been of any kind.
                if value and trained and value not in trained and "" not in trained
            )
            for flag, properties in flags.items()
        }
        outside, differences[OUTSIDE_WINDOW] = _outside_range(scan, seen, window)
        return Likeness({flag: text for flag, text in differences.items() if text}, outside)

    return rule


def _outside_range(scan: Scan, seen: Seen, window: Window) -> tuple[frozenset[int], str]:
    """Indices of the slices outside the trained range, and a text with both ranges; "" if none."""
    if window.kind == "image" or not len(scan.pixels):
        return frozenset(), ""
    all_slices = frozenset(range(len(scan.pixels)))
    values = [thinned(scan.pixels[index]) for index in range(len(scan.pixels))]
    whole, trained = ends_of(np.concatenate(values)), seen.intensities
    if whole is None:
        return frozenset(), ""
    if trained is None:
        expected = f"the window is {window.low:g} to {window.high:g}"
        within = sum(int(((one >= window.low) & (one <= window.high)).sum()) for one in values)
        misses = within < WITHIN_WINDOW * sum(map(len, values))
        outside = all_slices if misses else frozenset()
    else:
        expected = f"trained on {trained.low:g} to {trained.high:g}"
        outside = all_slices
        if not is_flat(whole, trained, window):
            ends = [ends_of(one) for one in values]
            outside = frozenset(
                i for i, one in enumerate(ends) if one and is_beyond(one, trained, window)
            )
    text = f"values {whole.low:g} to {whole.high:g}, {expected}"
    return outside, text if outside else ""
