"""known.csv: area ratios on file for some slices, read and checked as a whole."""

import difflib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsseg.imaging.definitions import IMAGE, RatioDefinition
from wsseg.imaging.fraction_text import Column, fractions
from wsseg.imaging.table import DEFAULT_OPTIONS, Row, TableOptions, TextTable, is_known, read_table
from wsseg.imaging.table_faults import Fault, TableError
from wsseg.serve.cut import KnownRatio
from wsseg.serve.manifest import Manifest
from wsseg.serve.rows import SliceRow, columns
from wsseg.serve.tables import without_apostrophe

RATIO, PERCENT, NAME = "ratio", "ratio_percent", "ratio_name"
UNITS = (RATIO, PERCENT)
KNOWN = frozenset((*columns(SliceRow), *UNITS))

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownRow:
    """A row: which slice, where None leaves it to the source alone, and what is known of it."""

    line: int
    source: str
    slice: int | None
    frame: int | None
    ratios: tuple[KnownRatio, ...]


def read_known(
    path: Path, manifest: Manifest, options: TableOptions = DEFAULT_OPTIONS
) -> tuple[KnownRow, ...]:
    """The rows of a table that hold a ratio.

    CSV or Excel, see `read_table`. `source` and, where needed, `slice` and `frame` as in
    ratios.csv; the ratios in columns `ratio:<name>`, or in one column `ratio` whose rows are named
    in a column `ratio_name` (not needed for a model with one ratio), or `ratio_percent` likewise. A
    name is that of a ratio of the model, or of the class that a single ratio measures. Other
    columns of ratios.csv, and those that begin with x_ or note, are passed over.

    Raises TableError with all faults, WssegError for a file that is no table.
    """
    table = read_table(path, KNOWN, options)
    faults = [Fault(table.line, message) for message in _header_faults(table.header, manifest)]
    if faults:
        raise TableError(path.name, [*faults, *table.faults])
    values, faults = _values(table, manifest)
    faults += table.faults
    rows = []
    for row in table.rows:
        try:
            rows.append(_row(row, values, manifest))
        except ValueError as error:
            faults.append(Fault(row.line, str(error)))
    if faults:
        raise TableError(path.name, faults)
    told = tuple(row for row in rows if row.ratios)
    if not told:
        raise TableError(path.name, [Fault(table.line, "no row below it holds a ratio")])
    return told


Values = dict[str, dict[int, float]]
"""Ratios as fractions of 1, by column and line."""


def _values(table: TextTable, manifest: Manifest) -> tuple[Values, list[Fault]]:
    """The ratios of the table, all of them read in the unit of their columns."""
    names = [name for name in table.header if name.partition(":")[0] in UNITS]
    asked = [
        Column(
            table.name(name),
            tuple((row.line, row.cells[name]) for row in table.rows if row.cells[name]),
            percent=name.partition(":")[0] == PERCENT,
            remedy=name.replace(RATIO, PERCENT, 1),
        )
        for name in names
    ]
    judged = fractions(asked, table.line)
    for doubt in judged.doubts:
        log.warning("%s: %s", table.path.name, doubt)
    return dict(zip(names, judged.values, strict=True)), list(judged.faults)


def _header_faults(header: tuple[str, ...], manifest: Manifest) -> Iterator[str]:
    if "source" not in header:
        yield "no column named source: it names the file, as ratios.csv does"
    named = [name for name in header if name.partition(":")[0] in UNITS and ":" in name]
    for name in header:
        if not is_known(name, KNOWN) or (":" in name and name not in named):
            yield _unknown_message(name)
    plain = [name for name in UNITS if name in header]
    if bool(named) == bool(plain) or len(plain) > 1:
        yield f"expected a column {RATIO}, or columns {RATIO}:<name>, and not both"
    if plain and NAME not in header and len(manifest.ratios) > 1:
        yield f"which ratio? Write {plain[0]}:<name>, or add a column {NAME}: {_names(manifest)}"
    for name in named:
        try:
            _definition(name.partition(":")[2], manifest)
        except ValueError as error:
            yield f"column {name}: {error}"


def _unknown_message(column: str) -> str:
    near = difflib.get_close_matches(column, [*sorted(KNOWN), f"{RATIO}:<name>"], 1, 0)[0]
    return (
        f"unknown column {column}: the nearest known one is {near}; a column of your own begins "
        f"with x_ or note, or is passed over by --ignore-columns"
    )


def _row(row: Row, values: Values, manifest: Manifest) -> KnownRow:
    source = without_apostrophe(row.cells["source"])
    if not source:
        raise ValueError("source: empty; it names the file, as ratios.csv does")
    ratios = []
    for column, by_line in values.items():
        if row.line in by_line:
            definition = _definition(_ratio_name(column, row, manifest), manifest)
            place = manifest.classes.index(definition.numerator)
            ratios.append(KnownRatio(row.line, definition.name, place, by_line[row.line]))
    return KnownRow(
        row.line, source, _index("slice", row.cells), _index("frame", row.cells), tuple(ratios)
    )


def _ratio_name(column: str, row: Row, manifest: Manifest) -> str:
    """The name of the ratio that a cell of the column states."""
    _, colon, name = column.partition(":")
    return name if colon else without_apostrophe(row.cells.get(NAME, manifest.ratios[0].name))


def _definition(name: str, manifest: Manifest) -> RatioDefinition:
    """The model's ratio of that name, or of that class; ValueError where it cannot be cut by."""
    found = [ratio for ratio in manifest.ratios if ratio.name == name]
    found = found or [ratio for ratio in manifest.ratios if ratio.numerator == name]
    if len(found) != 1:
        raise ValueError(f"{name or 'an empty name'} is no ratio of this model: {_names(manifest)}")
    if found[0].denominator != IMAGE:
        raise ValueError(
            f"the ratio {name} is over {found[0].denominator}, and only one over the whole image "
            "says how many pixels to take: leave it out"
        )
    return found[0]


def _names(manifest: Manifest) -> str:
    return "it has " + ", ".join(ratio.name for ratio in manifest.ratios)


def _index(column: str, row: dict[str, str]) -> int | None:
    text = row.get(column, "")
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError(f"{column}: found {text}, expected a whole number as in ratios.csv")
    return int(text) if text else None
