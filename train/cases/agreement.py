"""Whether what a case says agrees with itself, with its picture and its marks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Denominator
from wsseg.train.cases.cells import enclosing
from wsseg.train.cases.schema import MARKED_BACKGROUND, Box, Case, Place, Region

HALF_PIXEL = 0.5
"""Centres of pixels are counted from 0 or from a half, and counts are rounded."""

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Statement:
    """What a case says of one class. number: the class's in label maps."""

    number: int
    name: str
    ratio: float | None
    denominator: Denominator
    region: Region

    @property
    def absent(self) -> list[str]:
        """The cells that say that the class is not in the picture."""
        cells = (("ratio", self.ratio), ("ratio_high", self.region.high))
        said = [f"{column} 0" for column, value in cells if value == 0]
        return ["present 0", *said] if self.region.present is False else said

    @property
    def located(self) -> list[str]:
        """The cells that say that the class is in the picture, but for its ratio and bounds."""
        region = self.region
        said = {
            "present 1": region.present is True,
            "extremes": bool(region.extremes),
            "box": region.box is not None and not region.extremes,
            "centroid": region.centroid is not None,
            "spread": region.spread is not None,
        }
        return [cell for cell, given in said.items() if given]

    @property
    def least(self) -> tuple[str, float] | None:
        """The cell that asks for the largest area, and its value; None without one."""
        cells = (("ratio", self.ratio), ("ratio_low", self.region.low))
        known = [(column, value) for column, value in cells if value is not None]
        return max(known, key=lambda cell: cell[1], default=None)

    @property
    def most(self) -> tuple[str, float] | None:
        """The cell that allows the smallest area, and its value; None without one."""
        cells = (("ratio", self.ratio), ("ratio_high", self.region.high))
        known = [(column, value) for column, value in cells if value is not None]
        return min(known, key=lambda cell: cell[1], default=None)


def statements(
    case: Case, classes: tuple[str, ...], denominators: tuple[Denominator, ...]
) -> tuple[Statement, ...]:
    """What a case says, class by class."""
    return tuple(
        Statement(number, *told)
        for number, told in enumerate(
            zip(classes, case.ratios, denominators, case.regions, strict=True), 1
        )
    )


def against_itself(statement: Statement) -> Iterator[str]:
    """Cells of one row that cannot all be true, whatever the picture."""
    bounds = list(_bounds(statement))
    yield from bounds
    least = statement.least
    sized = [] if least is None or least[1] == 0 else [f"{least[0]} {least[1]:g}"]
    said = sized + statement.located
    # A ratio outside its bounds has been told already.
    if statement.absent and said and not bounds:
        yield (
            f"{statement.absent[0]} says that there is no {statement.name}, but {said[0]} says "
            f"that there is: correct one of them"
        )
    region = statement.region
    if region.extremes and region.box != enclosing(region.extremes):
        yield (
            f"box of {statement.name} is {_edges(region.box)}, but its extremes span "
            f"{_edges(enclosing(region.extremes))}: correct one of them, or leave the box empty"
        )


def _bounds(statement: Statement) -> Iterator[str]:
    name, ratio = statement.name, statement.ratio
    low, high = statement.region.low, statement.region.high
    if low is not None and high is not None and low > high:
        yield f"ratio_low of {name} is {low:g}, above its ratio_high {high:g}: correct one of them"
    elif ratio is not None and low is not None and ratio < low:
        yield f"ratio of {name} is {ratio:g}, below its ratio_low {low:g}: correct one of them"
    elif ratio is not None and high is not None and ratio > high:
        yield f"ratio of {name} is {ratio:g}, above its ratio_high {high:g}: correct one of them"


def _edges(box: Box | None) -> list[int]:
    return list(box or ())


def against_image(statement: Statement, shape: tuple[int, int]) -> Iterator[str]:
    """Statements that a picture of this shape (rows, columns) has no room for."""
    name, box, centroid = statement.name, statement.region.box, statement.region.centroid
    image = Box(0, 0, *shape)
    size = f"the image of {shape[0]} rows and {shape[1]} columns"
    # Extremes outside are told as the points that they are.
    if box is not None and not statement.region.extremes and not _holds(image, box):
        yield (
            f"box of {name}: {_edges(box)} reaches beyond {size}; "
            f"it is [top, left, bottom, right], from 0"
        )
        return
    if centroid is not None and not _holds_place(image, centroid):
        yield f"centroid of {name}: {list(centroid)} lies outside {size}; it is [row, column]"
    elif box is not None and centroid is not None and not _holds_place(box, centroid):
        yield f"centroid of {name}: {list(centroid)} lies outside its box {_edges(box)}"
    yield from _spread(statement, image)
    yield from _room(statement, shape)


def _holds(outer: Box, inner: Box) -> bool:
    return inner.bottom <= outer.bottom and inner.right <= outer.right


def _holds_place(box: Box, place: tuple[float, float]) -> bool:
    starts, ends = (box.top, box.left), (box.bottom, box.right)
    return all(
        start - HALF_PIXEL <= value <= end - HALF_PIXEL
        for start, value, end in zip(starts, place, ends, strict=True)
    )


def _spread(statement: Statement, image: Box) -> Iterator[str]:
    """Numbers within an interval deviate by at most half its length."""
    spread, box = statement.region.spread, statement.region.box
    sides = (box or image).sides
    if spread is not None and any(s > side / 2 for s, side in zip(spread, sides, strict=True)):
        yield (
            f"spread of {statement.name}: {list(spread)} is more than half of "
            f"{'its box' if box else 'the image'}; it is the standard deviation of its rows and "
            f"of its columns, in pixels"
        )


def _room(statement: Statement, shape: tuple[int, int]) -> Iterator[str]:
    """A share of the image that is larger than the box."""
    box, least = statement.region.box, statement.least
    if box is None or least is None or statement.denominator != "image":
        return
    (column, ratio), area = least, box.sides[0] * box.sides[1]
    pixels = ratio * shape[0] * shape[1]
    if pixels > area + HALF_PIXEL:
        yield (
            f"{column} of {statement.name} is {ratio:g}, which is {pixels:.1f} pixels, but its "
            f"box holds {area}: correct one of them"
        )


def against_marks(statement: Statement, marks: Labels) -> Iterator[str]:
    """Marks that leave no room for the ratio, the box or the tag."""
    name, box, most = statement.name, statement.region.box, statement.most
    marked = marks == statement.number
    count = np.count_nonzero(marked)
    # No denominator is larger than the image, so a region is at most ratio * N pixels.
    if most is not None and count > most[1] * marks.size + HALF_PIXEL:
        yield (
            f"marks: {count} pixels are marked as {name}, but its {most[0]} {most[1]:g} leaves "
            f"room for {most[1] * marks.size:.1f}: correct the ratio or the marks"
        )
    elif statement.region.present is False and count:
        yield (
            f"marks: {count} pixels are marked as {name}, but present 0 says that there is none: "
            f"correct the tag or the marks"
        )
    if box is not None:
        within = marks[box.top : box.bottom, box.left : box.right]
        if within.all() and not count:
            yield (
                f"marks: all of the box {_edges(box)} of {name} is marked as something else: "
                f"correct the box or the marks"
            )
        outside = count - np.count_nonzero(marked[box.top : box.bottom, box.left : box.right])
        if outside:
            yield (
                f"marks: {outside} pixels marked as {name} lie outside its box {_edges(box)}: "
                f"correct the box or the marks"
            )


# Whether what a case says agrees with its full mask, as far as two readers agree.

ROUNDING = 0.005
"""A ratio written in whole percent is up to this far from the mask's."""
READER_VARIATION = 0.25
"""Relative difference of a number and a mask that two readers may cause; more means that they
belong to different pictures or that one of them is wrong. For places, of the region's sides."""
ONE_PIXEL = 1.0


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
