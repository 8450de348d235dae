"""One row of cases.csv, and the table of all of them, after checking."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from wsseg.imaging.label_numbers import PLAIN, Numbering
from wsseg.imaging.table import TextTable

Split = Literal["train", "val", "test"]
MarkKind = Literal["eroded", "disc", "point", "scribble"]
Pixel = tuple[int, int]
"""Row and column, from 0."""
Point = tuple[int, int, int]
"""Row, column and class number."""
Place = tuple[float, float]
"""Row and column in pixels, whole numbers being the centres of pixels."""


class Box(NamedTuple):
    """Edges in pixels, from 0; bottom and right are the first row and column outside."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns that the box spans."""
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True)
class Region:
    """What a case says of one class besides its ratio and marks; None where it says nothing.

    low, high: bounds of the ratio, by the same definition. present: image tag, whether the class
    is in the picture. box: around all its pixels; of the extremes where the table has no box.
    extremes: its outermost pixels in each direction. centroid, spread: mean and standard deviation
    of its pixels' rows and columns, in pixels. mark_kind: how its mark was made; None where that
    is to be told from the mark.
    """

    low: float | None = None
    high: float | None = None
    present: bool | None = None
    box: Box | None = None
    extremes: tuple[Pixel, ...] = ()
    centroid: Place | None = None
    spread: Place | None = None
    mark_kind: MarkKind | None = None

    @property
    def placeless(self) -> bool:
        """Whether nothing in it counts rows or columns."""
        return not self.extremes and (self.box, self.centroid, self.spread) == (None,) * 3

    @property
    def empty(self) -> bool:
        """Whether nothing is said but, perhaps, how a mark was made."""
        return replace(self, mark_kind=None) == Region()


@dataclass(frozen=True)
class Contents:
    """What the files of a case were seen to hold.

    shape: rows and columns of its picture. marked: the numbers in its marks file. drawn: pixels of
    each class in its mask, None without one. fingerprint: equal for files with equal pixels, of
    volumes in their middle slice, and for hardly any others; empty where an earlier case is of the
    same file.
    """

    shape: tuple[int, int] = (1, 1)
    marked: frozenset[int] = frozenset()
    drawn: tuple[int, ...] | None = None
    fingerprint: bytes = b""


@dataclass(frozen=True)
class Case:
    """One slice to learn from or to judge by.

    row: line of the CSV file, the header being line 1. ratios: one per class of the table, in its
    order, fraction of the ratio definition's denominator; None where unknown. regions: one per
    class as well; left out, nothing is known of them. marks, mask: label maps on the image's own
    grid (marks: 0 not marked, class number, 255 marked as background; mask: 0 background, class
    number). points: (row, column, class number) pixels marked inside a class, the extremes of its
    regions among them; number 255 marks background. slice_index, volume: for 3-D and 4-D files,
    0-based. numbering: how marks and mask number the classes in their files. fold: in which of
    several trainings it is judged, from 1; 0 for none. contents: what was found in its files when
    the table was checked.
    """

    row: int
    image: Path
    ratios: tuple[float | None, ...]
    marks: Path | None = None
    points: tuple[Point, ...] = ()
    mask: Path | None = None
    group: str = ""
    split: Split = "train"
    slice_index: int = 0
    volume: int = 0
    regions: tuple[Region, ...] = ()
    numbering: Numbering = PLAIN
    fold: int = 0
    contents: Contents = field(default=Contents(), compare=False)

    @property
    def locates(self) -> bool:
        """Whether it says where any class is: by marks, points, a box or a mask."""
        boxed = any(region.box is not None for region in self.regions)
        return self.marks is not None or bool(self.points) or boxed or self.mask is not None

    def __post_init__(self) -> None:
        if not self.regions:
            object.__setattr__(self, "regions", (Region(),) * len(self.ratios))


@dataclass(frozen=True)
class CaseTable:
    """The checked table. classes: names in class-number order, class 1 first.

    text: its cells, the ratios among them as fractions. doubts: what is allowed but may not be
    what its writer means, one line each.
    """

    path: Path
    sha256: str
    classes: tuple[str, ...]
    cases: tuple[Case, ...]
    text: TextTable
    doubts: tuple[str, ...] = ()

    def part(self, split: Split) -> tuple[Case, ...]:
        """The cases of one split, in table order."""
        return tuple(case for case in self.cases if case.split == split)
