"""The cells of cases.csv: text as values, and ratios from fractions, percent or areas."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from wsseg.imaging.content import opened_once
from wsseg.imaging.definitions import Denominator
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import named_file
from wsseg.imaging.fractions import Column, fractions, sizes, unlikely
from wsseg.imaging.reading import pixel_mm2, slice_shape
from wsseg.imaging.stopping import reading_threads
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

SPLITS: dict[str, Split] = {name: name for name in get_args(Split)}
MARK_KINDS: dict[str, MarkKind] = {kind: kind for kind in get_args(MarkKind)}
TAGS = {"0": False, "false": False, "1": True, "true": True}
"""Image tags; spreadsheets write truth values as words."""
LONGEST = 1 << 31
"""Pixels: no side of an image is as long, and a float represents it exactly."""
EXTREMES = 4
"""Outermost pixels of a region: one each at its top, left, bottom and right."""
READERS = 8
SLACK = 1e-6
"""An area may exceed its image by this share of it, as products of rounded lengths do."""


class CellError(ValueError):
    """A cell whose text is not valid in its column; the message is for the report."""


def parse_index(text: str) -> int:
    """Return a 0-based index; 0 for an empty cell."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise CellError(f"{text} is not a whole number from 0")
    return int(text)


def parse_split(text: str) -> Split:
    """Return one of SPLITS, whichever its capitals."""
    if text.casefold() not in SPLITS:
        raise CellError(f"{text or 'an empty cell'} is no split: write {', '.join(SPLITS)}")
    return SPLITS[text.casefold()]


def parse_present(text: str) -> bool | None:
    """Return an image tag from 1, 0, true or false, whichever its capitals; None if empty."""
    if text and text.casefold() not in TAGS:
        raise CellError(f"{text} is no tag: write 1 (in the picture), 0 (not in it), or leave it")
    return TAGS.get(text.casefold())


def parse_mark_kind(text: str) -> MarkKind | None:
    """Return how marks were made; None for an empty cell."""
    if text and text not in MARK_KINDS:
        raise CellError(f"{text} is no kind of mark: write {', '.join(MARK_KINDS)}, or leave it")
    return MARK_KINDS.get(text)


def parse_box(text: str) -> Box | None:
    """Return a box of at least one pixel from a JSON list or a list of one; None if empty."""
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
    """Return the topmost, leftmost, bottommost and rightmost pixel, in any order; () if empty."""
    if not text:
        return ()
    pixels = _json(text)
    if not (
        isinstance(pixels, list)
        and len(pixels) == EXTREMES
        and all(isinstance(pixel, list) and len(pixel) == 2 for pixel in pixels)
        and all(_is_whole(value) and value >= 0 for pixel in pixels for value in pixel)
    ):
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
    """Return the smallest box around pixels [row, column]."""
    rows, columns = zip(*pixels, strict=True)
    return Box(min(rows), min(columns), max(rows) + 1, max(columns) + 1)


def parse_place(text: str) -> Place | None:
    """Return a [row, column] in pixels, fractions allowed; None for an empty cell."""
    if not text:
        return None
    place = _json(text)
    # By their types, because JSON's true and false are instances of int.
    if (
        not isinstance(place, list)
        or len(place) != 2
        or not all(type(value) in (int, float) and 0 <= value < LONGEST for value in place)
    ):
        raise CellError("not [rows, columns] in pixels: write two numbers from 0, as in [31.5, 20]")
    return float(place[0]), float(place[1])


def _json(text: str) -> object:
    """Return the content of a JSON cell; None if it is not JSON."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def _is_whole(value: object) -> bool:
    return type(value) is int


def parse_points(text: str, classes: int) -> tuple[Point, ...]:
    """Return (row, column, label) of each point of a JSON list; () for an empty cell.

    With one class a point may leave out its label. The label 255 marks background.
    """
    if not text:
        return ()
    points = _json(text)
    if not isinstance(points, list):
        raise CellError(
            "not a JSON list: write [[row, column], ...] or [[row, column, class], ...]"
        )
    read = []
    for point in points:
        whole = isinstance(point, list) and all(map(_is_whole, point))
        if not isinstance(point, list) or not whole or len(point) not in (2, 3):
            raise CellError(
                f"point {json.dumps(point)} is not [row, column] or [row, column, class]"
            )
        if len(point) == 2 and classes > 1:
            raise CellError(f"point {point} has no class: write [row, column, class number]")
        row, column, label = point if len(point) == 3 else (*point, 1)
        if not (1 <= label <= classes or label == MARKED_BACKGROUND):
            raise CellError(
                f"point {point} has class {label}: class numbers go from 1 to {classes}, "
                f"and {MARKED_BACKGROUND} marks background"
            )
        read.append((row, column, label))
    return tuple(read)


@dataclass(frozen=True)
class Fractions:
    """A table whose ratio columns hold fractions or nothing.

    doubts: what may not be meant. unsized: lines with a ratio or an area that could not be read,
    which is a fault of its own.
    """

    text: TextTable
    columns: Columns
    faults: tuple[Fault, ...]
    doubts: tuple[str, ...]
    unsized: frozenset[int]


def with_fractions(
    text: TextTable,
    columns: Columns,
    denominators: tuple[Denominator, ...],
    percent: frozenset[str],
) -> Fractions:
    """Read all columns of ratios and areas; cells that cannot be read become empty, and faults.

    percent: columns whose names state that they are in percent. A column of areas is replaced by
    one of ratios, by the size of each row's image and, for mm2, of its pixels.
    """

    def present(kinds: Iterable[str]) -> dict[str, Denominator]:
        return {
            name: denominator
            for kind in kinds
            for name, denominator in zip(columns.of(kind), denominators, strict=True)
            if name in text.header
        }

    ratios, areas = present(RATIOS), present(AREAS)
    filled = {
        name: tuple((row.line, row.cells[name]) for row in text.rows if row.cells[name])
        for name in (*ratios, *areas)
    }
    shares = fractions(
        [
            Column(
                text.name(name),
                filled[name],
                percent=name in percent,
                remedy=percent_name(name),
                bounded=isinstance(denominator, str),  # a ratio to another class may be above 1
                exact=name.partition(":")[0] == "ratio",
            )
            for name, denominator in ratios.items()
        ],
        text.line,
    )
    given = sizes([Column(text.name(name), filled[name]) for name in areas], text.line)
    area_values = dict(zip(areas, given.values, strict=True))
    faults, doubts = [*shares.faults, *given.faults], [*shares.doubts, *given.doubts]
    unfit = [name for name, denominator in areas.items() if denominator != "image"]
    faults += [
        Fault(
            text.line,
            f"{text.name(name)}: an area gives a share of the whole image, and the ratio of this "
            f"class is another: write its ratio",
        )
        for name in unfit
    ]
    if areas and not unfit:
        area_values = _area_shares(text, area_values, faults)
        for name, known in area_values.items():
            doubts += unlikely(Column(text.name(name), ()), known)
    values = dict(zip(ratios, shares.values, strict=True)) | area_values
    renamed = {name: "ratio" + name[len(name.partition(":")[0]) :] for name in areas}
    rows = []
    for row in text.rows:
        cells = dict(row.cells)
        for name, known in values.items():
            cells[name] = repr(known[row.line]) if row.line in known else ""
        rows.append(Row(row.line, {renamed.get(name, name): cell for name, cell in cells.items()}))
    header = tuple(renamed.get(name, name) for name in text.header)
    plain = frozenset(renamed.get(name, name) for name in columns.plain)
    return Fractions(
        replace(text, header=header, rows=tuple(rows)),
        replace(columns, plain=plain),
        tuple(faults),
        tuple(doubts),
        frozenset(line for name in filled for line, _ in filled[name] if line not in values[name]),
    )


def _area_shares(
    text: TextTable, areas: Mapping[str, Mapping[int, float]], faults: list[Fault]
) -> dict[str, dict[int, float]]:
    """Return areas, by column and line, as shares of their images; adds faults.

    An area has no share, and no fault either, if its image or slice cannot be read.
    """
    uses = Counter(row.cells.get("image") for row in text.rows)

    def shares_of(row: Row) -> list[tuple[str, float | str]]:
        return list(_row_shares(text, row, areas, alone=uses[row.cells.get("image")] == 1))

    with reading_threads(READERS) as pool:
        rows = list(pool.map(shares_of, text.rows))
    values: dict[str, dict[int, float]] = {name: {} for name in areas}
    for row, shares in zip(text.rows, rows, strict=True):
        for name, share in shares:
            if isinstance(share, str):
                faults.append(Fault(row.line, f"{text.name(name)}: {share}"))
            else:
                values[name][row.line] = share
    return values


def _row_shares(
    text: TextTable, row: Row, areas: Mapping[str, Mapping[int, float]], *, alone: bool
) -> Iterator[tuple[str, float | str]]:
    """Yield by column the share of each area of a row, or what is wrong with it.

    alone: whether the image is in this row only, so that its file is opened once.
    """
    given = {name: areas[name][row.line] for name in areas if row.line in areas[name]}
    if not given:
        return
    try:
        path = named_file(text.path.parent, row.cells.get("image", ""))
        at, volume = (parse_index(row.cells.get(column, "")) for column in ("slice", "volume"))
        with opened_once(path if alone else None):
            rows, columns = slice_shape(path, slice_index=at, volume=volume)
            pixel_area = pixel_mm2(path, volume)
    except (WssegError, CellError, OSError):
        return
    for name, area in given.items():
        metric = name.partition(":")[0] == "area_mm2"
        pixel, unit = (pixel_area, "mm2") if metric else (1.0, "pixels")
        if pixel is None:
            yield name, "the image does not say how large its pixels are: give area_px or a ratio"
        elif area > (whole := rows * columns * pixel) * (1 + SLACK):
            yield name, f"{area:g} {unit} are more than the whole image, {whole:g}: check its unit"
        else:
            yield name, min(area / whole, 1.0)
