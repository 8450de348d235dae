"""Whether what a case says agrees with its full mask, as far as two readers agree."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wsseg.train.batch import MARKED_BACKGROUND
from wsseg.train.case import Box, Place
from wsseg.train.case_agreement import HALF_PIXEL, Statement

ROUNDING = 0.005
"""A ratio written in whole percent is up to this far from the mask's."""
READER_VARIATION = 0.25
"""Relative difference of a number and a mask that two readers may cause; more means that they
belong to different pictures or that one of them is wrong. For places, of the region's sides."""
ONE_PIXEL = 1.0

Labels = NDArray[np.uint8]


def marks_against_mask(marks: Labels, mask: Labels) -> Iterator[str]:
    """Marked pixels that the mask gives to another class."""
    said = np.where(marks == MARKED_BACKGROUND, 0, marks)
    wrong = np.count_nonzero((marks != 0) & (said != mask))
    if wrong:
        yield (
            f"marks: {wrong} marked pixels have another class in the mask: "
            f"correct the marks or the mask"
        )


def against_mask(statement: Statement, mask: Labels, drawn: float | None) -> Iterator[str]:
    """Statements on a class that its mask contradicts.

    drawn: the class's ratio in the mask; None where its denominator has no pixel.
    """
    yield from _sizes(statement, drawn)
    region = mask == statement.number
    count = np.count_nonzero(region)
    if count and statement.region.present is False:
        yield (
            f"mask: {count} pixels are {statement.name}, but present 0 says that there is none: "
            f"correct the tag or the mask"
        )
    elif not count and statement.located:
        yield (
            f"mask: shows no {statement.name}, but {statement.located[0]} says that there is: "
            f"correct one of them"
        )
    elif count:
        yield from _places(statement, region)


def _sizes(statement: Statement, drawn: float | None) -> Iterator[str]:
    """The ratio and its bounds against the mask's ratio."""
    if drawn is None:
        return
    name, region = statement.name, statement.region
    slack = ROUNDING + READER_VARIATION * drawn
    for column, value in (("ratio", statement.ratio), ("ratio_low", region.low)):
        # Rounding never makes a ratio of nothing larger than 0.
        if value is not None and (drawn == 0 < value or value > drawn + slack):
            yield _size_message(column, name, value, drawn)
    for column, value in (("ratio", statement.ratio), ("ratio_high", region.high)):
        if value is not None and value < drawn - slack:
            yield _size_message(column, name, value, drawn)


def _size_message(column: str, name: str, value: float, drawn: float) -> str:
    return (
        f"{column} of {name} is {value:g}, but its mask shows {drawn:.4g}: "
        f"correct the one that is wrong"
    )


def _places(statement: Statement, region: NDArray[np.bool_]) -> Iterator[str]:
    """The box, centroid and spread against the mask's; region: at least one pixel."""
    told, box = statement.region, region_box(region)
    centroid, spread = region_moments(region)
    loose = [READER_VARIATION * side for side in box.sides]
    checks = (
        ("box", _floats(told.box), _floats(box), [ONE_PIXEL + slack for slack in loose * 2]),
        ("centroid", told.centroid, centroid, [HALF_PIXEL + slack for slack in loose]),
        ("spread", told.spread, spread, [HALF_PIXEL + READER_VARIATION * sd for sd in spread]),
    )
    for column, said, drawn, slacks in checks:
        if said and not _near(said, drawn, slacks):
            yield (
                f"{column} of {statement.name} is {_rounded(said)}, but its mask shows "
                f"{_rounded(drawn)}: correct the one that is wrong"
            )


def _near(values: Sequence[float], others: Sequence[float], slacks: Sequence[float]) -> bool:
    return all(abs(v - o) <= slack for v, o, slack in zip(values, others, slacks, strict=True))


def _floats(box: Box | None) -> tuple[float, ...]:
    return tuple(map(float, box or ()))


def _rounded(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{round(value, 1):g}' for value in values)}]"


def region_box(region: NDArray[np.bool_]) -> Box:
    """The box around a region (row, column) of at least one pixel."""
    rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def region_moments(region: NDArray[np.bool_]) -> tuple[Place, Place]:
    """Mean and standard deviation of the rows and columns of a region's pixels, in pixels."""
    rows, columns = np.nonzero(region)
    centroid = float(rows.mean()), float(columns.mean())
    return centroid, (float(rows.std()), float(columns.std()))
