"""The columns of a table of cases, and a case: the contents of its row and of its files."""

import difflib
from collections.abc import Mapping, Sequence
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


def class_denominators(
    classes: tuple[str, ...], ratios: tuple[RatioDefinition, ...]
) -> tuple[Denominator, ...]:
    """Return the denominator of each class's column in the table, in class order.

    A class is trained on the first definition that has it as numerator, and without one on its
    share of the whole image. Raises WssegError for a definition that names an unknown class.
    """
    denominators: dict[str, Denominator] = {}
    for ratio in ratios:
        for name in (ratio.numerator, ratio.denominator):
            if name not in classes and (name == ratio.numerator or name not in (IMAGE, FOREGROUND)):
                raise WssegError(
                    f"ratio {ratio.name} names the class {name}, but the classes are "
                    f"{', '.join(classes)}: correct the ratio or the table's ratio columns"
                )
        denominators.setdefault(ratio.numerator, denominator_of(ratio, classes))
    return tuple(denominators.get(name, "image") for name in classes)


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
"""Columns of one class: by that name if there is a single class, else as name:<class>."""
SIZES = ("ratio", *AREAS)
"""Columns that name the classes before all others."""
PERCENT = {f"{name}_percent": name for name in RATIOS} | {
    name.replace("ratio_", "ratio_percent_"): name for name in RATIOS[1:]
}
"""Names of columns of ratios that are in percent."""
KNOWN = frozenset((*OF_CASE, *OF_CLASS, *PERCENT))
RESERVED = (IMAGE, FOREGROUND, "background")
"""Denominators and the label 0: no class may have their names."""


@dataclass(frozen=True)
class Columns:
    """classes: in the order of their labels. plain: columns of `OF_CLASS` that name no class."""

    classes: tuple[str, ...]
    plain: frozenset[str]

    def of(self, name: str) -> tuple[str, ...]:
        """Return each class's column of a name in `OF_CLASS`; the table need not have them."""
        if name in self.plain:
            return (name,) * len(self.classes)
        return tuple(f"{name}:{class_name}" for class_name in self.classes)


def without_percent(table: TextTable) -> tuple[TextTable, frozenset[str], list[Fault]]:
    """Return the table with all ratio columns named as fractions, those that are in percent, and
    faults for columns that exist in both ways."""
    renamed = {}
    for column in table.header:
        name, colon, class_name = column.partition(":")
        if name in PERCENT:
            renamed[column] = f"{PERCENT[name]}{colon}{class_name}"
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
    written = {renamed.get(name, name): text for name, text in table.written.items()}
    written = {new: name for name, new in renamed.items()} | written
    named = replace(table, header=header, rows=rows, written=written)
    return named, frozenset(renamed.values()), faults


def percent_name(column: str) -> str:
    """Return the name of a ratio column in percent."""
    name, colon, class_name = column.partition(":")
    return f"{name}_percent{colon}{class_name}"


def read_columns(
    header: tuple[str, ...], classes: tuple[str, ...] | None, line: int = 1
) -> tuple[Columns, list[Fault]]:
    """Return the meaning of the columns, and their faults; line: of the header.

    Without `classes`, the classes are named by the columns ratio:<class>, area_px:<class> and
    area_mm2:<class>, in the table's order; without those by the columns name:<class> of the first
    name that has some; else there is one class. Columns that begin with x_ or note are the user's.
    """
    parts = {column: column.partition(":") for column in header}
    per_class = [name for name, _, class_name in parts.values() if class_name and name in OF_CLASS]
    names = classes or _named(SIZES, header) or _named(per_class[:1], header) or (DEFAULT_CLASS,)
    lacking = "image" not in header
    messages = [
        _unknown_message(column, lacking)
        for column, (name, colon, _) in parts.items()
        # A column such as image:kidney names a class, but is one of the whole case.
        if not is_known(column, KNOWN) or column.endswith(":") or (colon and name in OF_CASE)
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
    sizes = [
        [column for column in dict.fromkeys(of_class) if column in header]
        for of_class in zip(*(columns.of(name) for name in SIZES), strict=True)
    ]
    repeated = [f"{' and '.join(both)} both give a size" for both in sizes if len(both) > 1]
    # A column without a class repeats the sizes of all classes: one message is enough.
    repeated = repeated[:1] if columns.plain & set(SIZES) else repeated
    messages += [f"{message}: keep one of them" for message in repeated]
    return columns, [Fault(line, message) for message in messages]


def _named(names: Sequence[str], header: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes that columns of these names name."""
    parts = [column.partition(":") for column in header]
    return tuple(dict.fromkeys(rest for name, _, rest in parts if rest and name in names))


def _unknown_message(column: str, lacking: bool) -> str:
    """Return the message on an unknown column; lacking: whether there is no column image."""
    known = (*OF_CASE, *OF_CLASS, *(f"{name}:<class>" for name in OF_CLASS))
    if lacking and not difflib.get_close_matches(column.lower(), known, n=1):
        return (
            f"unknown column {column}: if it holds the paths of the pictures, call it image; "
            f"--ignore-columns ignores columns"
        )
    if "%" in column and "ratio" in column.casefold():
        return f"unknown column {column}: a ratio in percent is called ratio_percent"
    nearest = difflib.get_close_matches(column.lower(), known, n=1, cutoff=0.0)[0]
    return (
        f"unknown column {column}: the nearest known one is {nearest}; a column of your own begins "
        f"with x_ or note, or is ignored with --ignore-columns"
    )


def _kind_messages(name: str, header: tuple[str, ...], classes: tuple[str, ...]) -> list[str]:
    """Return the faults of the columns of one name in `OF_CLASS`."""
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

Split = Literal["train", "val", "test", "calibrate"]
MarkKind = Literal["eroded", "disc", "point", "scribble"]
Pixel = tuple[int, int]
"""Row and column, from 0."""
Point = tuple[int, int, int]
"""Row, column and label."""
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
    """What a case states of one class besides its ratio and marks; None where it is unknown.

    low, high: bounds of the ratio, by the same definition. present: image tag, whether the class
    is in the image. box: around all its pixels; that of the extremes if the table has no box.
    extremes: its outermost pixels in each direction. centroid, spread: mean and standard deviation
    of its pixels' rows and columns, in pixels. mark_kind: how its mark was made; None if the mark's
    shape decides.
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
        """Whether nothing is stated but, perhaps, how a mark was made."""
        return replace(self, mark_kind=None) == Region()


NOT_MARKED = 0
MARKED_BACKGROUND = 255
"""In weak marks; all other labels are those of classes, from 1."""


@dataclass(frozen=True)
class Look:
    """The values of a slice: their ends, and whether they are colours.

    rgb: whether it has three channels. origin: modality and unit of the header. sample: evenly
    spaced values, of slices from which an intensity window is chosen.
    """

    ends: Ends | None
    colours: Colours
    rgb: bool = False
    origin: Origin = field(default=Origin())
    sample: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ImageFacts:
    """The facts of an image file besides its pixels.

    version: of the file that was read. storage: how values are stored, in words. look: None if the
    slice was not decoded.
    """

    version: Version
    grid: Grid
    storage: str
    look: Look | None = None


@dataclass(frozen=True)
class FileDigest:
    """The sha256 of a file's content, and the version that had it."""

    version: Version
    sha256: bytes


@dataclass(frozen=True)
class Decoded:
    """The pixels of a case in one of its files, as shown, and the version of the file.

    pixels: an image in the smallest type that holds its values, or labels.
    """

    version: Version
    pixels: NDArray[np.generic]


@dataclass(frozen=True)
class Contents:
    """The contents of a case's files, about a kilobyte, so that no file is opened for them again.

    image: None for a case that was not checked. marked: the labels in its marks file. labelled:
    those and the points' together. drawn: pixels of each class in its mask, None without one.
    fingerprint: equal for files with equal pixels (of volumes in their middle slice), and for
    hardly any others; empty if an earlier case has the same file. unnamed: numbers in label files
    that stand for no class. turned_alone: whether an orientation tag turns the image, but not its
    labels. digests: by column, of files that were read as a whole. decoded: by column, pixels that
    are kept until they are read the next time, for as many cases as there is room for.
    """

    image: ImageFacts | None = None
    marked: frozenset[int] = frozenset()
    labelled: frozenset[int] = frozenset()
    drawn: tuple[int, ...] | None = None
    fingerprint: bytes = b""
    unnamed: frozenset[int] = frozenset()
    turned_alone: bool = False
    digests: Mapping[str, FileDigest] = field(default_factory=dict)
    decoded: dict[str, Decoded] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image, as the table counts them."""
        return (1, 1) if self.image is None else self.image.grid.counted


@dataclass(frozen=True)
class Case:
    """One slice for training or evaluation.

    row: line of the CSV file, the header being line 1. ratios: one per class of the table, in its
    order, fraction of the ratio definition's denominator; None where unknown. regions: one per
    class as well; by default nothing is known of them. marks, mask: label maps on the image's own
    grid (marks: 0 not marked, else the label, 255 marked as background; mask: 0 background, else
    the label). points: (row, column, label) of marked pixels, the extremes of its regions among
    them; the label 255 marks background. slice_index, volume: for 3-D and 4-D files, 0-based.
    numbering: how marks and mask number the classes in their files. fold: in which of several
    trainings it is evaluated, from 1; 0 for none. contents: of its files, from the check of the
    table.
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
        """Whether it states where any class is: by marks, points, a box or a mask."""
        boxed = any(region.box is not None for region in self.regions)
        return self.marks is not None or bool(self.points) or boxed or self.mask is not None

    @property
    def labelled(self) -> bool:
        """Whether it states anything of any class."""
        stated = any(ratio is not None for ratio in self.ratios)
        return stated or self.locates or not all(region.empty for region in self.regions)

    def absent(self, class_index: int) -> bool:
        """Return whether it states that a class is not in its image."""
        region = self.regions[class_index]
        return region.present is False or self.ratios[class_index] == 0 or region.high == 0

    def __post_init__(self) -> None:
        if not self.regions:
            object.__setattr__(self, "regions", (Region(),) * len(self.ratios))


@dataclass(frozen=True)
class CaseTable:
    """The checked table.

    classes: names in the order of their labels, from 1. text: its cells, with ratios as fractions.
    doubts: what is allowed but may not be meant, one line each.
    """

    path: Path
    sha256: str
    classes: tuple[str, ...]
    cases: tuple[Case, ...]
    text: TextTable
    doubts: tuple[str, ...] = ()

    def part(self, split: Split) -> tuple[Case, ...]:
        """Return the cases of one split, in table order."""
        return tuple(case for case in self.cases if case.split == split)


def group_key(case: Case) -> tuple[str, str]:
    """Return a key that is equal for the cases of one group.

    Capitals, blanks and the form of accents do not distinguish groups: p1, P1 and "P 1" are one.
    Cases without a group are grouped by their image file.
    """
    if case.group:
        return "group", "".join(plain_text(case.group).casefold().split())
    return "image", str(case.image)


def one_spelling(cases: Sequence[Case]) -> list[tuple[str, str]]:
    """Return the group of each case, by the first of its spellings in alphabetical order."""
    spelt: dict[tuple[str, str], str] = {}
    for case in cases:
        key = group_key(case)
        name = case.group or str(case.image)
        spelt[key] = min(spelt.get(key, name), name)
    return [(group_key(case)[0], spelt[group_key(case)]) for case in cases]
