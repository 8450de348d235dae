"""Contradictions within a case: in its row, and with its image, its marks and its full mask."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Denominator
from wsseg.train.cases.cells import enclosing
from wsseg.train.cases.schema import MARKED_BACKGROUND, Box, Case, Place, Region

HALF_PIXEL = 0.5
"""Centres of pixels are counted from 0 or from a half, and counts are rounded."""
ONE_PIXEL = 1.0
ROUNDING = 0.005
"""A ratio in whole percent differs from the mask's by up to this much."""
READER_VARIATION = 0.25
"""Relative difference of a number and a mask that two readers may cause; a larger one means that
they belong to different images or that one of them is wrong. For positions, of the region's sides.
"""

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Statement:
    """What a case states of one class. label: of the class in label maps."""

    label: int
    name: str
    ratio: float | None
    denominator: Denominator
    region: Region

    @property
    def absent(self) -> list[str]:
        """The cells that state that the class is not in the image."""
        cells = (("ratio", self.ratio), ("ratio_high", self.region.high))
        zeros = [f"{column} 0" for column, value in cells if value == 0]
        return ["present 0", *zeros] if self.region.present is False else zeros

    @property
    def located(self) -> list[str]:
        """The cells that state that the class is in the image, but for its ratio and bounds."""
        region = self.region
        cells = {
            "present 1": region.present is True,
            "extremes": bool(region.extremes),
            "box": region.box is not None and not region.extremes,
            "centroid": region.centroid is not None,
            "spread": region.spread is not None,
        }
        return [cell for cell, filled in cells.items() if filled]

    @property
    def least(self) -> tuple[str, float] | None:
        """The cell that requires the largest area, and its value; None without one."""
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
    """Return what a case states of each class."""
    columns = zip(classes, case.ratios, denominators, case.regions, strict=True)
    return tuple(Statement(label, *cells) for label, cells in enumerate(columns, 1))


def against_itself(statement: Statement) -> Iterator[str]:
    """Yield cells of one row that cannot all be true, whatever the image."""
    name, ratio, region = statement.name, statement.ratio, statement.region
    low, high = region.low, region.high
    bounds = ""
    if low is not None and high is not None and low > high:
        bounds = f"ratio_low of {name} is {low:g}, above its ratio_high {high:g}"
    elif ratio is not None and low is not None and ratio < low:
        bounds = f"ratio of {name} is {ratio:g}, below its ratio_low {low:g}"
    elif ratio is not None and high is not None and ratio > high:
        bounds = f"ratio of {name} is {ratio:g}, above its ratio_high {high:g}"
    if bounds:
        yield f"{bounds}: correct one of them"
    least = statement.least
    sized = [] if least is None or least[1] == 0 else [f"{least[0]} {least[1]:g}"]
    present = sized + statement.located
    # A ratio outside its bounds has already been reported.
    if statement.absent and present and not bounds:
        yield (
            f"{statement.absent[0]} says that there is no {name}, but {present[0]} says "
            f"that there is: correct one of them"
        )
    if region.extremes and region.box != enclosing(region.extremes):
        yield (
            f"box of {name} is {list(region.box or ())}, but its extremes span "
            f"{list(enclosing(region.extremes))}: correct one of them, or leave the box empty"
        )


def against_image(statement: Statement, shape: tuple[int, int]) -> Iterator[str]:
    """Yield statements that do not fit into an image of this shape (rows, columns)."""
    name, region = statement.name, statement.region
    box, centroid, spread = region.box, region.centroid, region.spread
    image = Box(0, 0, *shape)
    size = f"the image of {shape[0]} rows and {shape[1]} columns"
    # Extremes outside the image are reported as points.
    beyond = box is not None and (box.bottom > image.bottom or box.right > image.right)
    if box is not None and beyond and not region.extremes:
        yield (
            f"box of {name}: {list(box)} reaches beyond {size}; "
            f"it is [top, left, bottom, right], from 0"
        )
        return
    if centroid is not None and not _contains(image, centroid):
        yield f"centroid of {name}: {list(centroid)} lies outside {size}; it is [row, column]"
    elif box is not None and centroid is not None and not _contains(box, centroid):
        yield f"centroid of {name}: {list(centroid)} lies outside its box {list(box)}"
    # Numbers within an interval deviate by at most half its length.
    half_sides = [side / 2 for side in (box or image).sides]
    if spread is not None and any(s > half for s, half in zip(spread, half_sides, strict=True)):
        yield (
            f"spread of {name}: {list(spread)} is more than half of "
            f"{'its box' if box else 'the image'}; it is the standard deviation of its rows and "
            f"of its columns, in pixels"
        )
    if box is not None and statement.least is not None and statement.denominator == "image":
        (column, ratio), area = statement.least, box.sides[0] * box.sides[1]
        pixels = ratio * shape[0] * shape[1]
        if pixels > area + HALF_PIXEL:
            yield (
                f"{column} of {name} is {ratio:g}, which is {pixels:.1f} pixels, but its "
                f"box holds {area}: correct one of them"
            )


def _contains(box: Box, place: Place) -> bool:
    starts, ends = (box.top, box.left), (box.bottom, box.right)
    return all(
        start - HALF_PIXEL <= value <= end - HALF_PIXEL
        for start, value, end in zip(starts, place, ends, strict=True)
    )


def against_marks(statement: Statement, marks: Labels) -> Iterator[str]:
    """Yield marks that contradict the ratio, the box or the tag."""
    name, box, most = statement.name, statement.region.box, statement.most
    marked = marks == statement.label
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
                f"marks: all of the box {list(box)} of {name} is marked as something else: "
                f"correct the box or the marks"
            )
        outside = count - np.count_nonzero(marked[box.top : box.bottom, box.left : box.right])
        if outside:
            yield (
                f"marks: {outside} pixels marked as {name} lie outside its box {list(box)}: "
                f"correct the box or the marks"
            )


def marks_against_mask(marks: Labels, mask: Labels) -> Iterator[str]:
    """Yield marked pixels that have another class in the mask."""
    marked = np.where(marks == MARKED_BACKGROUND, 0, marks)
    wrong = np.count_nonzero((marks != 0) & (marked != mask))
    if wrong:
        yield (
            f"marks: {wrong} marked pixels have another class in the mask: "
            f"correct the marks or the mask"
        )


def against_mask(statement: Statement, mask: Labels, ratio: float | None) -> Iterator[str]:
    """Yield statements on a class that its mask contradicts, beyond what two readers may.

    ratio: the class's ratio in the mask; None if its denominator has no pixel.
    """
    name, stated = statement.name, statement.region
    if ratio is not None:
        slack = ROUNDING + READER_VARIATION * ratio
        cells = (("ratio", statement.ratio), ("ratio_low", stated.low), ("ratio_high", stated.high))
        for column, value in cells:
            if value is None:
                continue
            # Rounding never makes a ratio of nothing larger than 0.
            too_large = column != "ratio_high" and (ratio == 0 < value or value > ratio + slack)
            too_small = column != "ratio_low" and value < ratio - slack
            if too_large or too_small:
                yield (
                    f"{column} of {name} is {value:g}, but its mask shows {ratio:.4g}: "
                    f"correct the one that is wrong"
                )
    region = mask == statement.label
    count = np.count_nonzero(region)
    if count and stated.present is False:
        yield (
            f"mask: {count} pixels are {name}, but present 0 says that there is none: "
            f"correct the tag or the mask"
        )
    elif not count and statement.located:
        yield (
            f"mask: shows no {name}, but {statement.located[0]} says that there is: "
            f"correct one of them"
        )
    elif count:
        yield from _positions_against_mask(name, stated, region)


def _positions_against_mask(name: str, stated: Region, region: NDArray[np.bool_]) -> Iterator[str]:
    """Yield the box, centroid and spread that contradict a region of at least one pixel."""
    box, (centroid, spread) = region_box(region), region_moments(region)
    slacks = [READER_VARIATION * side for side in box.sides]
    checks: tuple[tuple[str, Sequence[float] | None, Sequence[float], list[float]], ...] = (
        ("box", stated.box, box, [ONE_PIXEL + slack for slack in slacks * 2]),
        ("centroid", stated.centroid, centroid, [HALF_PIXEL + slack for slack in slacks]),
        ("spread", stated.spread, spread, [HALF_PIXEL + READER_VARIATION * sd for sd in spread]),
    )
    for column, values, expected, allowed in checks:
        if values and any(
            abs(v - e) > slack for v, e, slack in zip(values, expected, allowed, strict=True)
        ):
            yield (
                f"{column} of {name} is {_rounded(values)}, but its mask shows "
                f"{_rounded(expected)}: correct the one that is wrong"
            )


def _rounded(values: Sequence[float | int]) -> str:
    return f"[{', '.join(f'{round(value, 1):g}' for value in values)}]"


def region_box(region: NDArray[np.bool_]) -> Box:
    """Return the box around a region (row, column) of at least one pixel."""
    rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


class Moments(NamedTuple):
    """Mean and standard deviation of a region's rows and columns, in pixels."""

    centroid: Place
    spread: Place


def region_moments(region: NDArray[np.bool_]) -> Moments:
    """Return the moments of a region of at least one pixel; whole numbers are pixel centres."""
    rows, columns = np.nonzero(region)
    return Moments(
        (float(rows.mean()), float(columns.mean())), (float(rows.std()), float(columns.std()))
    )
