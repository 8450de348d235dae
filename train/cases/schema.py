"""The columns of a table of cases, and a case: what its row says and its files hold."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import (
    FOREGROUND,
    IMAGE,
    Denominator,
    RatioDefinition,
    denominator_of,
)
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import Version
from wsseg.imaging.intensity import Ends
from wsseg.imaging.label_values import PLAIN, Numbering
from wsseg.imaging.reading import Grid
from wsseg.imaging.scan import Colours, Origin
from wsseg.imaging.tables import Fault, Row, TextTable, is_known, plain_text

# Which ratio each class is trained on.


def class_denominators(
    classes: tuple[str, ...], ratios: tuple[RatioDefinition, ...]
) -> tuple[Denominator, ...]:
    """The denominator of each class's column in the table, in class order.

    A class is trained on the first definition that has it as numerator, and on its share of the
    whole image where there is none. Raises WssegError for a definition that names an unknown class.
    """
    found: dict[str, Denominator] = {}
    for ratio in ratios:
        for name in (ratio.numerator, ratio.denominator):
            if name not in classes and (name == ratio.numerator or name not in (IMAGE, FOREGROUND)):
                raise WssegError(
                    f"ratio {ratio.name} names the class {name}, but the classes are "
                    f"{', '.join(classes)}: correct the ratio or the table's ratio columns"
                )
        found.setdefault(ratio.numerator, denominator_of(ratio, classes))
    return tuple(found.get(name, "image") for name in classes)


# The columns of cases.csv: which are known, and what the classes are called.

DEFAULT_CLASS = "roi"
OF_CASE = ("image", "marks", "points", "mask", "group", "split", "volume", "slice")
RATIOS = ("ratio", "ratio_low", "ratio_high")
AREAS = ("area_px", "area_mm2")
"""Columns that give a class's ratio by its area."""
OF_CLASS = (
    *RATIOS,
    *AREAS,
    "present",
    "box",
    "extremes",
    "centroid",
    "spread",
    "mark_kind",
)
"""Columns that speak of one class: by that name with a single class, as name:<class> for each."""
SIZES = ("ratio", *AREAS)
"""Columns that name the classes before all others."""
PERCENT = {f"{name}_percent": name for name in RATIOS} | {
    name.replace("ratio_", "ratio_percent_"): name for name in RATIOS[1:]
}
"""Names of columns of ratios that are in percent."""
KNOWN = frozenset((*OF_CASE, *OF_CLASS, *PERCENT))
RESERVED = (IMAGE, FOREGROUND, "background")
"""Denominators and the label 0: a class of that name could not be told from them."""


@dataclass(frozen=True)
class Columns:
    """classes: in class-number order. plain: the columns of `OF_CLASS` that name no class."""

    classes: tuple[str, ...]
    plain: frozenset[str]

    def of(self, name: str) -> tuple[str, ...]:
        """Each class's column of a name out of `OF_CLASS`; the table need not have them."""
        if name in self.plain:
            return (name,) * len(self.classes)
        return tuple(f"{name}:{class_name}" for class_name in self.classes)


def without_percent(table: TextTable) -> tuple[TextTable, frozenset[str], list[Fault]]:
    """The table with every column of ratios called as if it held fractions, those that are in
    percent, and columns that are there in both ways."""
    renamed = {name: _plain(name) for name in table.header if _plain(name) != name}
    header = tuple(renamed.get(name, name) for name in table.header)
    faults = [
        Fault(table.line, f"{name} and {table.name(new)} say the same: keep one of them")
        for name, new in renamed.items()
        if header.count(new) > 1
    ]
    rows = tuple(
        Row(row.line, {renamed.get(name, name): cell for name, cell in row.cells.items()})
        for row in table.rows
    )
    written = {renamed.get(name, name): found for name, found in table.written.items()}
    written = {new: name for name, new in renamed.items()} | written
    named = replace(table, header=header, rows=rows, written=written)
    return named, frozenset(renamed.values()), faults


def percent_name(column: str) -> str:
    """What a column of ratios is called if it is in percent."""
    name, colon, class_name = column.partition(":")
    return f"{name}_percent{colon}{class_name}"


def _plain(column: str) -> str:
    name, colon, class_name = column.partition(":")
    return f"{PERCENT.get(name, name)}{colon}{class_name}"


def read_columns(
    header: tuple[str, ...], classes: tuple[str, ...] | None, line: int = 1
) -> tuple[Columns, list[Fault]]:
    """Tell what the columns mean, and what is wrong with them; line: of the header.

    Without `classes` they are named by the columns ratio:<class>, area_px:<class> and
    area_mm2:<class>, in the table's order, without those by the columns name:<class> of the first
    name that has some, or else there is one class. Columns that begin with x_ or note are the
    user's own.
    """
    names = classes or _naming(header) or (DEFAULT_CLASS,)
    lacking = "image" not in header
    messages = [
        _unknown_message(name, lacking)
        for name in header
        if not is_known(name, KNOWN) or name.endswith(":") or _spoken_for_all(name)
    ]
    messages += [
        f"a class cannot be called {name}: choose another name than {', '.join(RESERVED)}"
        for name in sorted(set(names) & set(RESERVED))
    ]
    for name in OF_CLASS:
        messages += _kind_messages(name, header, names)
    if lacking:
        messages.append("no column named image: it holds the path of each picture")
    columns = Columns(names, frozenset(OF_CLASS) & frozenset(header))
    return columns, [Fault(line, message) for message in (*messages, *_two_sizes(columns, header))]


def _spoken_for_all(column: str) -> bool:
    """Whether it names a class where the column speaks of the whole case, as image:kidney."""
    name, colon, _ = column.partition(":")
    return bool(colon) and name in OF_CASE


def _naming(header: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that the header names."""
    speaking = [name.partition(":")[0] for name in header if _per_class(name)]
    return _named(SIZES, header) or (_named(speaking[:1], header) if speaking else ())


def _named(names: tuple[str, ...] | list[str], header: tuple[str, ...]) -> tuple[str, ...]:
    parts = [column.partition(":") for column in header]
    return tuple(dict.fromkeys(rest for name, _, rest in parts if rest and name in names))


def _per_class(column: str) -> bool:
    name, _, class_name = column.partition(":")
    return name in OF_CLASS and class_name != ""


def _unknown_message(column: str, lacking: bool) -> str:
    """lacking: there is no column image, which may be this one by another name."""
    known = (*OF_CASE, *OF_CLASS, *(f"{name}:<class>" for name in OF_CLASS))
    if lacking and not difflib.get_close_matches(column.lower(), known, n=1):
        return (
            f"unknown column {column}: if it holds the paths of the pictures, call it image; "
            f"--ignore-columns passes columns over"
        )
    if "%" in column and "ratio" in column.casefold():
        return f"unknown column {column}: a ratio in percent is called ratio_percent"
    nearest = difflib.get_close_matches(column.lower(), known, n=1, cutoff=0.0)[0]
    return (
        f"unknown column {column}: the nearest known one is {nearest}; a column of your own begins "
        f"with x_ or note, or is passed over by --ignore-columns"
    )


def _two_sizes(columns: Columns, header: tuple[str, ...]) -> Iterator[str]:
    """Columns that would give a class's ratio twice."""
    for names in zip(*(columns.of(name) for name in SIZES), strict=True):
        given = [name for name in dict.fromkeys(names) if name in header]
        if len(given) > 1:
            yield f"{' and '.join(given)} both give a size: keep one of them"
            if columns.plain & set(SIZES):
                return


def _kind_messages(name: str, header: tuple[str, ...], classes: tuple[str, ...]) -> list[str]:
    """What is wrong with the columns of one name out of `OF_CLASS`."""
    named = _named([name], header)
    messages = [
        f"column {name}:{class_name} names no class: the classes are {', '.join(classes)}; "
        f"name every class by a ratio:<class> column, empty where it is unknown"
        for class_name in named
        if class_name not in classes
    ]
    if name in header and named:
        messages.append(f"both {name} and {name}:<class> columns: keep one kind")
    elif name in header and len(classes) > 1:
        messages.append(
            f"a {name} column with {len(classes)} classes: write {name}:<class>, one column a class"
        )
    return messages


# One row of cases.csv, and the table of all of them, after checking.

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


NOT_MARKED = 0
MARKED_BACKGROUND = 255
"""In weak marks; all other numbers are those of classes, from 1."""


@dataclass(frozen=True)
class Look:
    """The values of a slice: their ends, and whether they are colours worth the name.

    rgb: whether it has three channels. origin: what the header says besides. sample: evenly spaced
    values, kept of those slices alone that an intensity window is chosen by.
    """

    ends: Ends | None
    colours: Colours
    rgb: bool = False
    origin: Origin = field(default=Origin())
    sample: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ImageFacts:
    """What the file of a picture says, besides its pixels.

    version: of the file that said it. storage: how values are stored, in words. look: None where
    the slice was not decoded.
    """

    version: Version
    grid: Grid
    storage: str
    look: Look | None = None


@dataclass(frozen=True)
class FileDigest:
    """The content of a file, told by its sha256, and the version that had it."""

    version: Version
    sha256: bytes


@dataclass(frozen=True)
class Contents:
    """What the files of a case were seen to hold: about a kilobyte, so that none need be opened
    for it again.

    image: None for a case that was not checked. marked: the numbers in its marks file. labelled:
    those and the points' together. drawn: pixels of each class in its mask, None without one.
    fingerprint: equal for files with equal pixels, of volumes in their middle slice, and for hardly
    any others; empty where an earlier case is of the same file. unnamed: numbers in label files
    that stand for no class. turned_alone: an orientation tag turns the picture, but not what is
    drawn on it. digests: by column, of the files that were read as a whole.
    """

    image: ImageFacts | None = None
    marked: frozenset[int] = frozenset()
    labelled: frozenset[int] = frozenset()
    drawn: tuple[int, ...] | None = None
    fingerprint: bytes = b""
    unnamed: frozenset[int] = frozenset()
    turned_alone: bool = False
    digests: Mapping[str, FileDigest] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the picture, as the table counts them."""
        return (1, 1) if self.image is None else self.image.grid.counted


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
    def files(self) -> dict[str, Path]:
        """Its files by their column."""
        named = {"image": self.image, "marks": self.marks, "mask": self.mask}
        return {column: path for column, path in named.items() if path is not None}

    @property
    def counts_pixels(self) -> bool:
        """Whether its row names pixels by their rows and columns."""
        return bool(self.points) or not all(region.placeless for region in self.regions)

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


def group_key(case: Case) -> tuple[str, str]:
    """What the cases of one group have in common.

    Capitals, blanks and the form of accents tell no groups apart: p1, P1 and "P 1" are one.
    Slices of one file belong together even where no group says so.
    """
    if case.group:
        return "group", "".join(plain_text(case.group).casefold().split())
    return "image", str(case.image)


def one_spelling(cases: Sequence[Case]) -> list[tuple[str, str]]:
    """The group of each case, by the first in order of the spellings that it has."""
    spelt: dict[tuple[str, str], str] = {}
    for case in cases:
        key = group_key(case)
        name = case.group or str(case.image)
        spelt[key] = min(spelt.get(key, name), name)
    return [(group_key(case)[0], spelt[group_key(case)]) for case in cases]
