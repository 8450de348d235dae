"""Ratios of cases.csv, whatever they are written in: fractions, percent, areas."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from wsseg.imaging.definitions import Denominator
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import named_file
from wsseg.imaging.fractions import Column, ColumnValues, fractions, sizes, unlikely
from wsseg.imaging.reading import pixel_mm2, slice_shape
from wsseg.imaging.tables import Fault, Row, TextTable
from wsseg.train.cases.schema import (
    AREAS,
    MARKED_BACKGROUND,
    RATIOS,
    Box,
    Columns,
    MarkKind,
    Pixel,
    Place,
    Point,
    Split,
    percent_name,
)

# The text of a cell as a value; what cannot be read says so in one line.

SPLITS: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}
MARK_KINDS: dict[str, MarkKind] = {kind: kind for kind in get_args(MarkKind)}
TAGS = {"0": False, "false": False, "1": True, "true": True}
"""Image tags; spreadsheets write what they know to be true or false in words."""
LONGEST = 1 << 31
"""Pixels: no side of an image is as long, and a float holds it exactly."""
EXTREMES = 4
"""Outermost pixels of a region: one each at its top, left, bottom and right."""


class CellError(ValueError):
    """A cell that does not hold what its column asks for; the message is for the report."""


def parse_index(text: str) -> int:
    """A 0-based position; 0 for an empty cell."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise CellError(f"{text} is not a whole number from 0")
    return int(text)


def parse_split(text: str) -> Split:
    """One of train, val and test, in any capitals."""
    if text.casefold() not in SPLITS:
        raise CellError(f"{text or 'an empty cell'} is no split: write train, val or test")
    return SPLITS[text.casefold()]


def parse_present(text: str) -> bool | None:
    """An image tag, 1 or 0, or true or false in any capitals; None for an empty cell."""
    if text and text.casefold() not in TAGS:
        raise CellError(f"{text} is no tag: write 1 (in the picture), 0 (not in it), or leave it")
    return TAGS.get(text.casefold())


def parse_mark_kind(text: str) -> MarkKind | None:
    """How marks were made; None for an empty cell."""
    if text and text not in MARK_KINDS:
        raise CellError(f"{text} is no kind of mark: write {', '.join(MARK_KINDS)}, or leave it")
    return MARK_KINDS.get(text)


def parse_box(text: str) -> Box | None:
    """A box of at least one pixel, as a JSON list or a list of that one list; None for none."""
    if not text:
        return None
    edges = _json(text)
    if isinstance(edges, list) and len(edges) == 1:
        (edges,) = edges
    if not isinstance(edges, list) or len(edges) != 4 or not all(map(_is_whole, edges)):
        raise CellError("not [top, left, bottom, right] in whole pixels: give one box, around all")
    box = Box(*edges)
    if min(box.top, box.left) < 0 or min(box.sides) < 1:
        raise CellError(
            f"{json.dumps(edges)} holds no pixel of the image: write [top, left, bottom, right] "
            f"from 0, bottom and right being the first row and column outside"
        )
    return box


def parse_extremes(text: str) -> tuple[Pixel, ...]:
    """The topmost, leftmost, bottommost and rightmost pixel, in any order; () for an empty cell."""
    if not text:
        return ()
    pixels = _json(text)
    if not isinstance(pixels, list) or len(pixels) != EXTREMES or not all(map(_is_pixel, pixels)):
        raise CellError("not a JSON list of four pixels [row, column], in whole numbers from 0")
    box = enclosing(pixels)
    for row, column in pixels:
        if row not in (box.top, box.bottom - 1) and column not in (box.left, box.right - 1):
            raise CellError(
                f"[{row}, {column}] is outermost in no direction: give the topmost, leftmost, "
                f"bottommost and rightmost pixel, one pixel twice where it is two of them"
            )
    return tuple((row, column) for row, column in pixels)


def enclosing(pixels: Sequence[Sequence[int]]) -> Box:
    """The smallest box around pixels [row, column]."""
    rows, columns = zip(*pixels, strict=True)
    return Box(min(rows), min(columns), max(rows) + 1, max(columns) + 1)


def parse_place(text: str) -> Place | None:
    """A [row, column] in pixels, fractions allowed; None for an empty cell."""
    if not text:
        return None
    place = _json(text)
    if not isinstance(place, list) or len(place) != 2 or not all(map(_is_length, place)):
        raise CellError("not [rows, columns] in pixels: write two numbers from 0, as in [31.5, 20]")
    return float(place[0]), float(place[1])


def _json(text: str) -> object:
    """What a JSON cell holds; None where it is no JSON."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def _is_whole(value: object) -> bool:
    return type(value) is int


def _is_pixel(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_whole, value)):
        return False
    row, column = value
    return bool(row >= 0 and column >= 0)


def _is_length(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and 0 <= value < LONGEST


def parse_points(text: str, classes: int) -> tuple[Point, ...]:
    """(row, column, class number) of each point of a JSON list; () for an empty cell.

    With one class a point may leave out its class number. Number 255 marks background.
    """
    if not text:
        return ()
    points = _json(text)
    if not isinstance(points, list):
        raise CellError(
            "not a JSON list: write [[row, column], ...] or [[row, column, class], ...]"
        )
    return tuple(_point(point, classes) for point in points)


def _point(point: object, classes: int) -> Point:
    whole = isinstance(point, list) and all(map(_is_whole, point))
    if not isinstance(point, list) or not whole or len(point) not in (2, 3):
        raise CellError(f"point {json.dumps(point)} is not [row, column] or [row, column, class]")
    if len(point) == 2 and classes > 1:
        raise CellError(f"point {point} has no class: write [row, column, class number]")
    row, column, number = point if len(point) == 3 else (*point, 1)
    if not (1 <= number <= classes or number == MARKED_BACKGROUND):
        raise CellError(
            f"point {point} has class {number}: class numbers go from 1 to {classes}, "
            f"and {MARKED_BACKGROUND} marks background"
        )
    return row, column, number


READERS = 8
SLACK = 1e-6
"""An area may exceed its image by this part of it: products of rounded lengths do."""


@dataclass(frozen=True)
class Sized:
    """A table whose columns of ratios hold fractions or nothing.

    doubts: what may not be meant. unsized: lines with a ratio or an area that could not be told,
    which is a fault of its own.
    """

    table: TextTable
    columns: Columns
    faults: tuple[Fault, ...]
    doubts: tuple[str, ...]
    unsized: frozenset[int]


def with_fractions(
    table: TextTable,
    columns: Columns,
    denominators: tuple[Denominator, ...],
    percent: frozenset[str],
) -> Sized:
    """Read every column of ratios and areas; cells that cannot be read become empty, and faults.

    percent: the columns whose names say that they are in percent. A column of areas is replaced by
    one of ratios, by the size of each row's image and, for mm2, of its pixels.
    """
    shares = _judged(table, columns, denominators, percent)
    areas = _areas(table, columns, denominators)
    changed = {**shares.values, **areas.values}
    renamed = {
        name: f"ratio{name[name.find(':') :] if ':' in name else ''}" for name in areas.values
    }
    unsized = frozenset(
        line
        for name, values in changed.items()
        for line, _ in _filled(table, name)
        if line not in values
    )
    header = tuple(renamed.get(name, name) for name in table.header)
    rows = tuple(
        Row(
            row.line,
            {
                renamed.get(name, name): _text(changed[name], row.line) if name in changed else cell
                for name, cell in row.cells.items()
            },
        )
        for row in table.rows
    )
    plain = frozenset(renamed.get(name, name) for name in columns.plain)
    return Sized(
        replace(table, header=header, rows=rows),
        replace(columns, plain=plain),
        (*shares.faults, *areas.faults),
        (*shares.doubts, *areas.doubts),
        unsized,
    )


@dataclass(frozen=True)
class _Read:
    """values: by column and line."""

    values: dict[str, dict[int, float]]
    faults: tuple[Fault, ...]
    doubts: tuple[str, ...]


def _text(values: Mapping[int, float], line: int) -> str:
    return repr(values[line]) if line in values else ""


def _filled(table: TextTable, name: str) -> tuple[tuple[int, str], ...]:
    return tuple((row.line, row.cells[name]) for row in table.rows if row.cells[name])


def _judged(
    table: TextTable,
    columns: Columns,
    denominators: tuple[Denominator, ...],
    percent: frozenset[str],
) -> _Read:
    """The columns of ratios as fractions; one to another class may be above 1."""
    bounded = {
        name: isinstance(below, str)
        for kind in RATIOS
        for name, below in zip(columns.of(kind), denominators, strict=True)
        if name in table.header
    }
    asked = [
        Column(
            table.name(name),
            _filled(table, name),
            percent=name in percent,
            remedy=percent_name(name),
            bounded=share,
            exact=name.partition(":")[0] == "ratio",
        )
        for name, share in bounded.items()
    ]
    return _read(list(bounded), fractions(asked, table.line))


def _read(names: list[str], judged: ColumnValues) -> _Read:
    return _Read(dict(zip(names, judged.values, strict=True)), judged.faults, judged.doubts)


def _areas(table: TextTable, columns: Columns, denominators: tuple[Denominator, ...]) -> _Read:
    """The columns of areas as shares of their images."""
    below = {
        name: each
        for kind in AREAS
        for name, each in zip(columns.of(kind), denominators, strict=True)
        if name in table.header
    }
    asked = [Column(table.name(name), _filled(table, name)) for name in below]
    read = _read(list(below), sizes(asked, table.line))
    wrong = [
        Fault(
            table.line,
            f"{table.name(name)}: an area gives a share of the whole image, and the ratio of this "
            f"class is another: write its ratio",
        )
        for name, each in below.items()
        if each != "image"
    ]
    if wrong or not below:
        return replace(read, faults=(*read.faults, *wrong))
    return _shares(table, read)


def _shares(table: TextTable, areas: _Read) -> _Read:
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda row: list(_row_shares(table, row, areas.values)), table.rows))
    values: dict[str, dict[int, float]] = {name: {} for name in areas.values}
    faults = list(areas.faults)
    for row, shares in zip(table.rows, found, strict=True):
        for name, share in shares:
            if isinstance(share, str):
                faults.append(Fault(row.line, f"{table.name(name)}: {share}"))
            elif share is not None:
                values[name][row.line] = share
    doubts = [
        doubt
        for name, shares in values.items()
        for doubt in unlikely(Column(table.name(name), ()), shares)
    ]
    return _Read(values, tuple(faults), (*areas.doubts, *doubts))


def _row_shares(
    table: TextTable, row: Row, areas: Mapping[str, Mapping[int, float]]
) -> Iterator[tuple[str, float | str | None]]:
    """The share of its image of each area of a row, or what is wrong with it; None where the image
    or its slice is at fault."""
    given = {name: areas[name][row.line] for name in areas if row.line in areas[name]}
    for name, area in given.items():
        metric = name.partition(":")[0] == "area_mm2"
        try:
            whole = _image_area(table.path.parent, row, metric=metric)
        except (WssegError, CellError, OSError):
            yield name, None
            continue
        unit = "mm2" if metric else "pixels"
        if whole is None:
            yield name, "the image does not say how large its pixels are: give area_px or a ratio"
        elif area > whole * (1 + SLACK):
            yield name, f"{area:g} {unit} are more than the whole image, {whole:g}: check its unit"
        else:
            yield name, min(area / whole, 1.0)


def _image_area(folder: Path, row: Row, *, metric: bool) -> float | None:
    """The area of a row's picture in pixels, or in mm2 where that is known."""
    path = named_file(folder, row.cells.get("image", ""))
    slice_index, volume = (parse_index(row.cells.get(name, "")) for name in ("slice", "volume"))
    rows, columns = slice_shape(path, slice_index=slice_index, volume=volume)
    pixel = pixel_mm2(path, volume) if metric else 1.0
    return None if pixel is None else rows * columns * pixel
