"""What the images of a table are: window and channels of the input, planes, origins, intensities.

A model recognises unlike scans by them, and the check of a table reports cases unlike the others.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Extent, Seen, Window
from wsseg.imaging.intensity import (
    Ends,
    is_beyond,
    is_flat,
    range_of,
    usual_window,
    without_odd,
)
from wsseg.imaging.reading import Grid
from wsseg.imaging.scan import NO_UNIT, Origin, PlaneName
from wsseg.imaging.stopping import reading_threads
from wsseg.train.cases.files import image_facts, look_at
from wsseg.train.cases.schema import Case, Look

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

IMAGES = 64
"""Training images, evenly spread over the table, from which the window is chosen."""
SEEN = 64
"""Images, evenly spread over a table, that represent its images."""
SUSPECTS = 24
"""Number of these that are compared with others: the check of a table does not read all of it."""
READERS = 4
ROWS_SHOWN = 8
BYTE = Window(kind="fixed", low=0.0, high=255.0)
PERCENTILES = (0.5, 99.5)
AIR = -500.0
"""Values this low are Hounsfield units of air: a scale without units has no such values."""
GAIN = 1.5
"""Images on one scale have bright ends that are nearly alike. Without a unit, such as in MR, the
gain of the scanner separates them. In doubt, each image's own window is safer."""
MANY_ODD = 0.1
"""Share of images on either side that may be odd while the others are still the rule."""


def choose_input(
    cases: Sequence[Case], *, window: Window | None = None, channels: int | None = None
) -> tuple[Window, int]:
    """Return the intensity window and the number of channels (1 or 3) that suit these images.

    window, channels: of the settings; None leaves the choice to the images. The window is 0..255
    for whole numbers in this range, as in 8-bit images. Otherwise it is the 0.5 to 99.5 percentile
    of all images together if they share a scale (see `share_scale`), and each image's own window if
    not; few images far outside the range of the others do not count. There are 3 channels only if
    an image has colours. At most IMAGES images are read.
    """
    chosen = spread(cases, IMAGES)
    looks = _looks(chosen, sampled=True)
    seen_channels = 3 if any(look.rgb for look in looks) else 1
    samples = [look.sample for look in looks if look.sample is not None]
    seen_window, reason = _choose_window(samples)
    used, used_channels = window or seen_window, channels or seen_channels
    logger.info(
        "input: %d channel%s, window %s (%s)",
        used_channels,
        "s" if used_channels > 1 else "",
        f"{used.low:g}..{used.high:g}" if used.kind == "fixed" else "of each image",
        f"{reason}, seen on {len(chosen)} images" if window is None else "as the settings say",
    )
    return used, used_channels


def _choose_window(samples: Sequence[NDArray[np.float32]]) -> tuple[Window, str]:
    # A few images in another unit or bit depth would stretch the window of all.
    values = np.concatenate(without_odd(samples, odd=MANY_ODD))
    if values.min() >= BYTE.low and values.max() <= BYTE.high and np.all(values == values.round()):
        return BYTE, "8-bit values"
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    bright = [float(np.percentile(sample, PERCENTILES[1])) for sample in samples]
    if low < high and (low <= AIR or _agree(bright)):
        return Window(kind="fixed", low=low, high=high), "percentiles of one common scale"
    return Window(kind="image"), "images differ in scale"


def share_scale(images: Sequence[Ends]) -> bool:
    """Return whether images with these ends are on one scale.

    Most are within 0..255 as 8-bit images are, or some have Hounsfield units of air, or their
    bright ends agree: the 90th percentile of them is at most GAIN times the 10th.
    """
    usual = range_of(images, odd=MANY_ODD)
    if usual is None:
        return False
    if BYTE.low <= usual.low and GAIN < usual.high <= BYTE.high:
        return True
    return usual.low <= AIR or _agree([image.high for image in images])


def _agree(bright: Sequence[float]) -> bool:
    dimmest, brightest = np.percentile(bright, (10, 90))
    return bool(0 < brightest <= GAIN * dimmest)


def _grids(cases: Sequence[Case]) -> list[Grid]:
    """Return the grid of each case's image. Raises ReadError."""
    with reading_threads(READERS) as pool:
        return [facts.grid for facts in pool.map(image_facts, cases)]


def planes_of(cases: Sequence[Case]) -> list[PlaneName]:
    """Return the plane of each case's image, "" if its file does not state it. Raises ReadError."""
    return [grid.plane for grid in _grids(cases)]


def counted_planes(cases: Sequence[Case]) -> str:
    """Return the number of cases in each plane, in words; "" if no file states a plane."""
    counts = Counter(planes_of(cases))
    if set(counts) <= {""}:
        return ""
    return ", ".join(f"{count} {name or 'unknown'}" for name, count in counts.most_common())


def mixed_planes(cases: Sequence[Case]) -> Iterator[str]:
    """Yield sentences on training and validation cases in other planes than most, with rows."""
    planes = planes_of(cases)
    known = [
        (case.row, plane)
        for case, plane in zip(cases, planes, strict=True)
        if plane and case.split != "test"
    ]
    counts = Counter(plane for _, plane in known)
    if len(counts) < 2:
        return
    (usual, most), *_ = counts.most_common(1)
    for plane, count in counts.most_common()[1:]:
        rows = [row for row, other in known if other == plane]
        images = "1 image is" if count == 1 else f"{count} images are"
        yield (
            f"{images} {plane}, {most} {usual}: {_rows(rows)}; a network learns one plane better: "
            "train one for each"
        )


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` items, evenly spread, first and last among them."""
    indices = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[index] for index in indices]


def looks_by_row(cases: Sequence[Case]) -> dict[int, Look]:
    """Return the looks of these cases' images by their rows. Raises ReadError."""
    return dict(zip((case.row for case in cases), _looks(cases), strict=True))


def _looks(cases: Sequence[Case], *, sampled: bool = False) -> list[Look]:
    with reading_threads(READERS) as pool:
        return list(pool.map(partial(look_at, sampled=sampled), cases))


def see(cases: Sequence[Case], modality: str | None) -> Seen:
    """Return what training images are: planes and sizes by all headers, the rest by SEEN of them.

    modality: of images whose files do not state one.
    """
    chosen = spread(cases, SEEN)
    looks = _looks(chosen)
    grids = _grids(cases)
    sizes = [(np.array(grid.shape), grid.geometry.pixel_mm) for grid in grids]
    return Seen(
        planes=Counter(grid.plane for grid in grids),
        modalities=Counter(look.origin.modality or modality or "" for look in looks),
        units=Counter(look.origin.unit for look in looks),
        colours=Counter(look.colours for look in looks),
        intensities=range_of([look.ends for look in looks if look.ends]),
        pixel_mm=_extent([pixel and np.array(pixel) for _, pixel in sizes]),
        side_mm=_extent([pixel and shape * pixel for shape, pixel in sizes]),
        side_px=_extent([shape for shape, _ in sizes]),
    )


def _extent(lengths: Sequence[NDArray[Any] | None]) -> Extent | None:
    """Return the smallest and largest of all lengths; None if those of an image are unknown."""
    known = [each for each in lengths if each is not None]
    if not known or len(known) < len(lengths):
        return None
    return Extent(least=float(np.min(known)), most=float(np.max(known)))


def mixed_origins(cases: Sequence[Case]) -> Iterator[str]:
    """Yield sentences on images of another modality or unit than most, with rows.

    At most SUSPECTS images are read. Images whose files do not state a modality do not count.
    """
    chosen = spread(cases, SUSPECTS)
    named = [(row, look.origin) for row, look in looks_by_row(chosen).items()]
    known = [(row, origin) for row, origin in named if origin.modality]
    (usual, _), *others = Counter(origin for _, origin in known).most_common() or [(Origin(), 0)]
    for other, _ in others:
        rows = [row for row, origin in known if origin == other]
        yield (
            f"{len(rows)} of the {len(known)} images that were checked are {_named(other)}, "
            f"most are {_named(usual)}: {_rows(rows)}; train one network per kind, which learns "
            "better"
        )


def _named(origin: Origin) -> str:
    unit = {"": "", NO_UNIT: " in no unit"}.get(origin.unit, f" in {origin.unit}")
    return f"{origin.modality}{unit}"


def odd_ones(looks: Mapping[int, Look], cases: Sequence[Case], window: Window) -> Iterator[str]:
    """Yield a sentence on images outside the range of all others, with rows, if there are any.

    looks: of some or all of the cases, by row. window: of the network; if it is each image's own,
    no scale is odd. An image of little contrast is odd only if it is also stored in another way.
    """
    usual = range_of([look.ends for look in looks.values() if look.ends], odd=MANY_ODD)
    if usual is None or window.kind == "image":
        return
    display = usual_window(usual)
    by_row = {case.row: case for case in cases}
    spread_rows = spread(list(looks), SEEN)
    ((most, _),) = Counter(_storage(by_row[row]) for row in spread_rows).most_common(1)
    odd = []
    for row in sorted(looks):
        ends = looks[row].ends
        if ends is None:
            continue
        flat = is_flat(ends, usual, display) and _storage(by_row[row]) != most
        if flat or is_beyond(ends, usual, display):
            odd.append(row)
    if odd:
        lows, highs = zip(*(ends for row in odd if (ends := looks[row].ends)), strict=True)
        stored = sorted({_storage(by_row[row]) for row in odd} - {most})
        rows = _rows(odd)
        how = f" (stored as {', '.join(stored)}, most as {most})" if stored else ""
        yield (
            f"{len(odd)} images have values of {min(lows):g} to {max(highs):g}, the others of "
            f"{usual.low:g} to {usual.high:g}{how}: {rows}; save them on one scale"
        )


def _storage(case: Case) -> str:
    return image_facts(case).storage


def _rows(lines: Sequence[int]) -> str:
    rows = ", ".join(str(line) for line in lines[:ROWS_SHOWN])
    return f"line {rows}{', ...' if len(lines) > ROWS_SHOWN else ''}"


def suspects(cases: Sequence[Case]) -> list[Case]:
    """Return the cases whose values are read in search of odd ones.

    These are at most SUSPECTS over the table, and SEEN of each way to store values that at most
    half of the files have.
    """
    stored: dict[str, list[Case]] = {}
    with reading_threads(READERS) as pool:
        for case, storage in zip(cases, pool.map(_storage, cases), strict=True):
            stored.setdefault(storage, []).append(case)
    chosen = {case.row: case for case in spread(cases, SUSPECTS)}
    for alike in stored.values():
        if len(alike) <= len(cases) / 2:
            chosen |= {case.row: case for case in spread(alike, SEEN)}
    return [chosen[row] for row in sorted(chosen)]


def image_doubts(cases: Sequence[Case]) -> Iterator[str]:
    """Yield sentences on the images of a table that are unlike the rest, judged by `suspects`."""
    chosen = suspects(cases)
    looks = looks_by_row(chosen)
    ends = [look.ends for look in looks.values() if look.ends]
    window = Window() if share_scale(ends) else Window(kind="image")
    yield from odd_ones(looks, chosen, window)
    yield from mixed_planes(cases)
    yield from mixed_origins(cases)
