"""Whether a scan is like what the model was trained on: told by its header and its values."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Seen, Window
from wsseg.imaging.intensity import Ends, ends_of, is_beyond, is_flat, thinned
from wsseg.imaging.scan import Scan, colours_of, scan_origin
from wsseg.serve.manifest import Manifest

OUTSIDE_WINDOW = "OUTSIDE_WINDOW"
OTHER_MODALITY = "OTHER_MODALITY"
OTHER_PLANE = "OTHER_PLANE"
UNLIKE_FLAGS = frozenset({OUTSIDE_WINDOW, OTHER_MODALITY, OTHER_PLANE})
# Of the values that are looked at, for a model that does not know the range it was trained on.
WITHIN_WINDOW = 0.01


@dataclass(frozen=True)
class Likeness:
    """How a scan differs from the training images.

    flags: of the scan as a whole, each with what was found and what was expected, in words.
    outside: numbers of the slices whose values lie outside the trained range.
    """

    flags: dict[str, str]
    outside: frozenset[int] = frozenset()


Compare = Callable[[Scan], Likeness]


def compare_none(_scan: Scan) -> Likeness:
    """Any scan is like the training images."""
    return Likeness({})


def compare_with(manifest: Manifest) -> Compare:
    """A rule that holds a scan against what a model says of its training images."""
    seen, window = manifest.training.seen or Seen(), manifest.window

    def rule(scan: Scan) -> Likeness:
        flags = {}
        if difference := _other_kind(scan, seen):
            flags[OTHER_MODALITY] = difference
        if difference := _differs({"plane": (scan.plane, seen.planes)}):
            flags[OTHER_PLANE] = difference
        outside, values = _outside(scan, seen, window)
        if outside:
            flags[OUTSIDE_WINDOW] = values
        return Likeness(flags, outside)

    return rule


def _other_kind(scan: Scan, seen: Seen) -> str:
    """How modality, unit and colours differ from all of training; "" where nothing is known to."""
    origin = scan_origin(scan)
    colours = colours_of(scan.pixels[len(scan.pixels) // 2]) if len(scan.pixels) else ""
    return _differs(
        {
            "modality": (origin.modality, seen.modalities),
            "unit": (origin.unit, seen.units),
            "colours": (colours, seen.colours),
        }
    )


def _differs(kinds: dict[str, tuple[str, dict[str, int]]]) -> str:
    """What was found of a scan and is known of all training images to be otherwise, by name."""
    return "; ".join(
        f"{name} {found}, trained on {', '.join(sorted(known))}"
        for name, (found, known) in kinds.items()
        # Images that do not say may have been of any kind.
        if found and known and found not in known and "" not in known
    )


def _outside(scan: Scan, seen: Seen, window: Window) -> tuple[frozenset[int], str]:
    """Numbers of the slices outside the trained range, and how far, in words."""
    if window.kind == "image":
        return frozenset(), ""
    every = range(len(scan.pixels))
    values = [thinned(scan.pixels[index]) for index in every]
    together = ends_of(np.concatenate(values)) if values else None
    if together is None:
        return frozenset(), ""
    words = f"values {together.low:g} to {together.high:g}"
    trained = seen.intensities
    if trained is None:
        expected = f"the window is {window.low:g} to {window.high:g}"
        return frozenset(every if _misses(values, window) else ()), f"{words}, {expected}"
    if is_flat(together, trained, window):
        outside = frozenset(every)
    else:
        ends: list[Ends | None] = [ends_of(of_slice) for of_slice in values]
        outside = frozenset(
            index for index, own in enumerate(ends) if own and is_beyond(own, trained, window)
        )
    expected = f"trained on {trained.low:g} to {trained.high:g}"
    return outside, f"{words}, {expected}"


def _misses(values: list[NDArray[np.float32]], window: Window) -> bool:
    """Whether hardly a value of a whole scan lies within the window."""
    within = sum(int(((of >= window.low) & (of <= window.high)).sum()) for of in values)
    return within < WITHIN_WINDOW * sum(map(len, values))
