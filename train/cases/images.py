"""What the images of a table are: for the model to tell other scans by, and for a warning of
cases that are unlike the others.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Range, Seen, Window
from wsseg.imaging.intensity import (
    Ends,
    is_beyond,
    is_flat,
    range_of,
    usual_window,
    without_odd,
)
from wsseg.imaging.scan import NO_UNIT, Origin, PlaneName
from wsseg.train.cases.facts import image_facts, look_at
from wsseg.train.cases.schema import Case, Look

# How raw intensities become 0..1, chosen from the training images.

logger = logging.getLogger(__name__)

IMAGES = 64
"""Training images, evenly spread over the table, by which the window is chosen."""
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
    chosen = spread(cases, IMAGES)
    looks = _looks(chosen, sampled=True)
    seen_channels = 3 if any(look.rgb for look in looks) else 1
    seen_window, reason = _choose_window([look.sample for look in looks if look.sample is not None])
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
        return [facts.grid.plane for facts in pool.map(image_facts, cases)]


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


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` items, evenly spread, first and last among them."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def looks_by_row(cases: Sequence[Case]) -> dict[int, Look]:
    """The looks of these cases' images by their rows. Raises ReadError."""
    return dict(zip((case.row for case in cases), _looks(cases), strict=True))


def _looks(cases: Sequence[Case], *, sampled: bool = False) -> list[Look]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(partial(look_at, sampled=sampled), cases))


def see(cases: Sequence[Case], modality: str | None) -> Seen:
    """What training images are, by at most LOOKED_AT of them; their planes by the headers of all.

    modality: of those whose files name none.
    """
    chosen = spread(cases, LOOKED_AT)
    looks = _looks(chosen)
    return Seen(
        planes=Counter(planes_of(cases)),
        modalities=Counter(look.origin.modality or modality or "" for look in looks),
        units=Counter(look.origin.unit for look in looks),
        colours=Counter(look.colours for look in looks),
        intensities=range_of([look.ends for look in looks if look.ends]),
    )


def mixed_origins(cases: Sequence[Case]) -> Iterator[str]:
    """What to say of images of another modality or unit than most, by row; at most some are seen.

    Images whose files do not say are of neither.
    """
    chosen = spread(cases, SUSPECTS)
    named = [(row, look.origin) for row, look in looks_by_row(chosen).items()]
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


def odd_ones(looks: Mapping[int, Look], cases: Sequence[Case], window: Window) -> Iterator[str]:
    """What lies outside the range of all others, in a sentence with its rows; mostly nothing.

    looks: of some or all of the cases, by row. window: of the network; where it is each image's
    own, no scale is odd. An image of little contrast is odd only if it is also stored in another
    way.
    """
    usual = range_of([look.ends for look in looks.values() if look.ends], odd=MANY_ODD)
    if usual is None or window.kind == "image":
        return
    met = usual_window(usual)
    by_row = {case.row: case for case in cases}
    spread_rows = spread(list(looks), LOOKED_AT)
    ((most, _),) = Counter(_storage(by_row[row]) for row in spread_rows).most_common(1)
    odd = [row for row in sorted(looks) if _is_odd(looks[row], usual, met, by_row[row], most)]
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


def _is_odd(look: Look, usual: Range, met: Window, case: Case, most: str) -> bool:
    if look.ends is None:
        return False
    if is_beyond(look.ends, usual, met):
        return True
    return is_flat(look.ends, usual, met) and _storage(case) != most


def _rows(lines: Sequence[int]) -> str:
    rows = ", ".join(str(line) for line in lines[:ROWS_SHOWN])
    return f"line {rows}{', ...' if len(lines) > ROWS_SHOWN else ''}"


def suspects(cases: Sequence[Case]) -> list[Case]:
    """The cases whose values are worth reading in search of odd ones.

    SUSPECTS over the table at most, and LOOKED_AT of each way of storing values that less than half
    of the files have.
    """
    stored: dict[str, list[Case]] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for case, storage in zip(cases, pool.map(_storage, cases), strict=True):
            stored.setdefault(storage, []).append(case)
    chosen = {case.row: case for case in spread(cases, SUSPECTS)}
    for alike in stored.values():
        if len(alike) <= len(cases) / 2:
            chosen |= {case.row: case for case in spread(alike, LOOKED_AT)}
    return [chosen[row] for row in sorted(chosen)]


def doubts(cases: Sequence[Case]) -> Iterator[str]:
    """What of a table's images is unlike the rest, in sentences, by the suspects among them."""
    chosen = suspects(cases)
    looks = looks_by_row(chosen)
    ends = [look.ends for look in looks.values() if look.ends]
    window = Window() if share_scale(ends) else Window(kind="image")
    yield from odd_ones(looks, chosen, window)
    yield from mixed_planes(cases)
    yield from mixed_origins(cases)
