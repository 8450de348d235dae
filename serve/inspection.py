"""Inspection of a scan before the network: equal slices, scans unlike the training images."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Extent, Seen, Window
from wsseg.imaging.intensity import ends_of, is_beyond, is_flat, thinned
from wsseg.imaging.scan import Scan, colours_of, scan_origin
from wsseg.serve.empty_slices import Skip
from wsseg.serve.manifest import Manifest

OUT_OF_RANGE = "OUT_OF_RANGE"
OTHER_MODALITY = "OTHER_MODALITY"
OTHER_PLANE = "OTHER_PLANE"
UNLIKE_FLAGS = frozenset({OUT_OF_RANGE, OTHER_MODALITY, OTHER_PLANE})
# Images differ in size. At twice the largest or half the smallest, a region is of a size that the
# network never saw.
FAR = 2.0
# No image without air has such values in HU.
AIR = -500.0
# Share of the values of a scan, for a model that does not know the range it was trained on.
WITHIN_WINDOW = 0.01
DIGEST_BYTES = 16  # two slices in a life's work of a clinic meet by chance with odds of 1 : 10^24


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
    the skipped slices. key: of the scan in the journal, "" without one.
    """

    scan: Scan
    empty: frozenset[int]
    digests: tuple[bytes, ...]
    outside: frozenset[int] = frozenset()
    key: str = ""


def inspect(scan: Scan, skip: Skip, likeness: Likeness | None = None) -> InspectedScan:
    """Apply the rule `skip` to all slices of a scan and compute the digests of the others.

    likeness: the comparison with the training images; its flags are added to those of the scan.
    """
    is_empty = skip(scan)
    # One pass: a long scan decodes its slices each time that they are asked for.
    digests = tuple(b"" if is_empty(pixels) else _digest(pixels) for pixels in scan.pixels)
    empty = frozenset(index for index, digest in enumerate(digests) if not digest)
    likeness = likeness or Likeness({})
    # OUT_OF_RANGE is a flag of slices, see `outside`.
    flags = tuple(flag for flag in likeness.flags if flag != OUT_OF_RANGE)
    if flags:
        scan = replace(scan, flags=(*scan.flags, *flags))
    return InspectedScan(scan, empty, digests, likeness.outside - empty)


def _digest(pixels: NDArray[np.float32]) -> bytes:
    # Not for secrecy, but no other kind of hash in the standard library is safe to rely on alone.
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


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
        outside, text = _outside_range(scan, seen, window)
        if sizes := _far_sizes(scan, seen):
            outside, text = (
                frozenset(range(len(scan.pixels))),
                "; ".join(filter(None, (text, sizes))),
            )
        differences[OUT_OF_RANGE] = text
        return Likeness({flag: text for flag, text in differences.items() if text}, outside)

    return rule


def _far_sizes(scan: Scan, seen: Seen) -> str:
    """Which sizes of pixels and slices are far from the trained ones, in words; "" if none is.

    A slice is compared in mm if its pixel size and those of all training images are known, and in
    pixels if not.
    """
    side_px = np.array(scan.pixels.shape[1:3])
    pixel_mm = scan.geometry.pixel_mm
    sizes: list[tuple[str, NDArray[np.float64], Extent | None]] = []
    if pixel_mm is not None and seen.pixel_mm is not None:
        edges = np.array(pixel_mm)
        sizes = [
            ("pixels of {} mm", edges, seen.pixel_mm),
            ("slices of {} mm", side_px * edges, seen.side_mm),
        ]
    else:
        sizes = [("slices of {} pixels", side_px.astype(np.float64), seen.side_px)]
    return "; ".join(
        f"{words.format(' x '.join(f'{length:.4g}' for length in lengths))}, trained on "
        f"{trained.least:.4g} to {trained.most:.4g}"
        for words, lengths, trained in sizes
        if trained and (lengths.min() < trained.least / FAR or lengths.max() > trained.most * FAR)
    )


def _outside_range(scan: Scan, seen: Seen, window: Window) -> tuple[frozenset[int], str]:
    """Indices of the slices outside the trained range, and a text with both ranges; "" if none."""
    if not len(scan.pixels):
        return frozenset(), ""
    all_slices = frozenset(range(len(scan.pixels)))
    if window.kind == "image":
        # Any scale may come. But Hounsfield units are no scale: without air in training there
        # was no CT of a whole body.
        in_hu = scan_origin(scan).unit == "HU" and "HU" not in seen.units
        if in_hu and seen.intensities is not None and seen.intensities.low > AIR:
            text = f"values in HU, trained on {seen.intensities.low:g} and above"
            return all_slices, text
        return frozenset(), ""
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
