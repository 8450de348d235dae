"""Ratios of cases.csv, whatever they are written in: fractions, percent, areas."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from wsseg.imaging.definitions import Denominator
from wsseg.imaging.errors import WssegError
from wsseg.imaging.file_names import named_file
from wsseg.imaging.fraction_text import Column, Judged, fractions, sizes, unlikely
from wsseg.imaging.slices import pixel_mm2, slice_shape
from wsseg.imaging.table import Row, TextTable
from wsseg.imaging.table_faults import Fault
from wsseg.train.case_cells import CellError, parse_index
from wsseg.train.case_columns import AREAS, RATIOS, Columns, percent_name

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


def _read(names: list[str], judged: Judged) -> _Read:
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
