"""What the images of a table are: for the model to tell other scans by, and for a warning of
cases that are unlike the others.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Range, Seen, Window
from wsseg.imaging.intensity import (
    Ends,
    ends_of,
    is_beyond,
    is_flat,
    range_of,
    thinned,
    usual_window,
    without_odd,
)
from wsseg.imaging.reading import read_grid, read_slice, slice_origin, stored_as
from wsseg.imaging.scan import NO_UNIT, Colours, Origin, PlaneName, colours_of
from wsseg.train.cases.schema import Case

# How raw intensities become 0..1, chosen from the training images.

logger = logging.getLogger(__name__)

# Images that are looked at, evenly spread over the table, and pixels of each.
IMAGES = 64
PIXELS = 1 << 16
READERS = 4

BYTE = Window(kind="fixed", low=0.0, high=255.0)
PERCENTILES = (0.5, 99.5)
# Values this low are Hounsfield units of air: a scale without units has no such values.
AIR = -500.0
# Images on one scale have bright ends that are nearly alike; without a unit, such as in MR, the
# gain of the scanner moves them apart. Where it is unclear, each image's own window is the safer.
GAIN = 1.5
# Share of images on either side that may be odd while the others are still the rule.
MANY_ODD = 0.1


def choose_input(
    cases: Sequence[Case], *, window: Window | None = None, channels: int | None = None
) -> tuple[Window, int]:
    """The intensity window and the number of channels (1 or 3) that suit these images.

    window, channels: as the settings say; None leaves the choice to the images. Whole numbers
    within 0..255, which 8-bit pictures hold: 0..255. Otherwise the 0.5 to 99.5 percentile of all
    images together if they share a scale, see `share_scale`; few images far outside the range of
    the others do not count. If they share none, each image's own window. 3 channels only if an
    image has colours. At most IMAGES images are looked at.
    """
    places = np.linspace(0, len(cases) - 1, min(IMAGES, len(cases))).round().astype(int)
    chosen = [cases[place] for place in places]
    with ThreadPoolExecutor(READERS) as pool:
        slices = list(pool.map(_read, chosen))
    seen_channels = 3 if any(pixels.ndim == 3 for pixels in slices) else 1
    seen_window, reason = _choose_window([_thinned(pixels) for pixels in slices])
    used, used_channels = window or seen_window, channels or seen_channels
    logger.info(
        "input: %d channel%s, window %s (%s)",
        used_channels,
        "s" if used_channels > 1 else "",
        f"{used.low:g}..{used.high:g}" if used.kind == "fixed" else "of each image",
        f"{reason}, seen on {len(chosen)} images" if window is None else "as the settings say",
    )
    return used, used_channels


def share_scale(images: Sequence[Ends]) -> bool:
    """Whether images of these ends are on one scale.

    Most lie within 0..255 as 8-bit pictures do, or some hold Hounsfield units of air, or their
    bright ends agree: the 90 % highest is at most GAIN times the 10 % highest.
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


def _read(case: Case) -> NDArray[np.float32]:
    return read_slice(case.image, slice_index=case.slice_index, volume=case.volume)


def _thinned(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Evenly spaced values, so that large images cost no more than small ones."""
    values = pixels.ravel()
    return values[:: max(1, len(values) // PIXELS)]


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


# In which planes of the body the images of a table lie, and what to say where they are mixed.

ROWS_SHOWN = 8


def planes_of(cases: Sequence[Case]) -> list[PlaneName]:
    """The plane of each case's image, "" where its file does not say. Raises ReadError."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda case: read_grid(case.image, case.volume).plane, cases))


def counted_planes(cases: Sequence[Case]) -> str:
    """How many cases lie in each plane, in words; "" where no file says."""
    counts = Counter(planes_of(cases))
    if set(counts) <= {""}:
        return ""
    return ", ".join(f"{count} {name or 'unknown'}" for name, count in counts.most_common())


def mixed_planes(cases: Sequence[Case]) -> Iterator[str]:
    """What to say of training and validation cases that lie in other planes than most, by row."""
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
        rows = [row for row, found in known if found == plane]
        shown = ", ".join(map(str, rows[:ROWS_SHOWN]))
        yield (
            f"{_images(count)} {plane}, {most} {usual}: line "
            f"{shown}{', ...' if count > ROWS_SHOWN else ''}; a network learns one plane better: "
            "train one for each"
        )


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count} images are"


LOOKED_AT = 64
"""Images, evenly spread over a table, that say what its images are."""
SUSPECTS = 24
"""Of these, so many that others are held against: a check of a table is not to read it all."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Look:
    """The values of a case's image: ends and a part of them, and whether it has colours."""

    row: int
    ends: Ends | None
    colours: Colours


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` items, evenly spread, first and last among them."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def look_at(cases: Sequence[Case]) -> list[Look]:
    """The images of these cases, read. Raises ReadError."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_look, cases))


def _look(case: Case) -> Look:
    pixels = read_slice(case.image, slice_index=case.slice_index, volume=case.volume)
    return look_of(case.row, pixels)


def look_of(row: int, pixels: NDArray[np.float32]) -> Look:
    """Where the values of a case's image (row, column[, channel]) lie."""
    return Look(row, ends_of(thinned(pixels)), colours_of(pixels))


def see(cases: Sequence[Case], modality: str | None) -> Seen:
    """What training images are, by at most LOOKED_AT of them; their planes by the headers of all.

    modality: of those whose files name none.
    """
    chosen = spread(cases, LOOKED_AT)
    origins, looks = origins_of(chosen), look_at(chosen)
    return Seen(
        planes=Counter(planes_of(cases)),
        modalities=Counter(origin.modality or modality or "" for origin in origins),
        units=Counter(origin.unit for origin in origins),
        colours=Counter(look.colours for look in looks),
        intensities=range_of([look.ends for look in looks if look.ends]),
    )


def origins_of(cases: Sequence[Case]) -> list[Origin]:
    """What the headers of these images say. Raises ReadError."""

    def origin(case: Case) -> Origin:
        return slice_origin(case.image, slice_index=case.slice_index, volume=case.volume)

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(origin, cases))


def mixed_origins(cases: Sequence[Case]) -> Iterator[str]:
    """What to say of images of another modality or unit than most, by row; at most some are seen.

    Images whose files do not say are of neither.
    """
    chosen = spread(cases, SUSPECTS)
    named = [(case.row, origin) for case, origin in zip(chosen, origins_of(chosen), strict=True)]
    known = [(row, origin) for row, origin in named if origin.modality]
    (usual, _), *others = Counter(origin for _, origin in known).most_common() or [(Origin(), 0)]
    for other, _ in others:
        rows = [row for row, origin in known if origin == other]
        yield (
            f"{len(rows)} of {len(known)} images that were looked at are {_named(other)}, most "
            f"{_named(usual)}: {_rows(rows)}; a network learns one kind better: train one for each"
        )


def _named(origin: Origin) -> str:
    unit = {"": "", NO_UNIT: " in no unit"}.get(origin.unit, f" in {origin.unit}")
    return f"{origin.modality}{unit}"


def odd_ones(looks: Sequence[Look], cases: Sequence[Case], window: Window) -> Iterator[str]:
    """What lies outside the range of all others, in a sentence with its rows; mostly nothing.

    looks: of some or all of the cases. window: of the network; where it is each image's own, no
    scale is odd. An image of little contrast is odd only if it is also stored in another way.
    """
    usual = range_of([look.ends for look in looks if look.ends], odd=MANY_ODD)
    if usual is None or window.kind == "image":
        return
    met = usual_window(usual)
    paths = {case.row: case.image for case in cases}
    most = Counter(stored_as(paths[look.row]) for look in spread(looks, LOOKED_AT)).most_common(1)
    odd = [look for look in looks if _is_odd(look, usual, met, paths[look.row], most[0][0])]
    odd.sort(key=lambda look: look.row)
    if odd:
        lows, highs = zip(*(look.ends for look in odd if look.ends), strict=True)
        stored = sorted({stored_as(paths[look.row]) for look in odd} - {most[0][0]})
        rows = _rows([look.row for look in odd])
        how = f" (stored as {', '.join(stored)}, most as {most[0][0]})" if stored else ""
        yield (
            f"{len(odd)} images have values of {min(lows):g} to {max(highs):g}, the others of "
            f"{usual.low:g} to {usual.high:g}{how}: {rows}; save them on one scale"
        )


def _is_odd(look: Look, usual: Range, met: Window, path: Path, most: str) -> bool:
    if look.ends is None:
        return False
    if is_beyond(look.ends, usual, met):
        return True
    return is_flat(look.ends, usual, met) and stored_as(path) != most


def _rows(lines: Sequence[int]) -> str:
    rows = ", ".join(str(line) for line in lines[:ROWS_SHOWN])
    return f"line {rows}{', ...' if len(lines) > ROWS_SHOWN else ''}"


def suspects(cases: Sequence[Case]) -> list[Case]:
    """The cases whose values are worth reading in search of odd ones.

    SUSPECTS over the table at most, and LOOKED_AT of each way of storing values that less than half
    of the files have.
    """
    paths = {case.image: None for case in cases}
    with ThreadPoolExecutor(READERS) as pool:
        stored = dict(zip(paths, pool.map(stored_as, paths), strict=True))
    counts = Counter(stored[case.image] for case in cases)
    chosen = {case.row: case for case in spread(cases, SUSPECTS)}
    for way, count in counts.items():
        if count <= len(cases) / 2:
            alike = [case for case in cases if stored[case.image] == way]
            chosen |= {case.row: case for case in spread(alike, LOOKED_AT)}
    return [chosen[row] for row in sorted(chosen)]


def doubts(cases: Sequence[Case]) -> Iterator[str]:
    """What of a table's images is unlike the rest, in sentences, by the suspects among them."""
    chosen = suspects(cases)
    looks = look_at(chosen)
    ends = [look.ends for look in looks if look.ends]
    window = Window() if share_scale(ends) else Window(kind="image")
    yield from odd_ones(looks, chosen, window)
    yield from mixed_planes(cases)
    yield from mixed_origins(cases)
