"""In which planes of the body the images of a table lie, and what to say where they are mixed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from wsseg.imaging.slices import read_grid
from wsseg.imaging.turn import PlaneName
from wsseg.train.case import Case

READERS = 4
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
