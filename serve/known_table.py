"""known.csv: area ratios on file for some slices, read and checked as a whole."""

import csv
import difflib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsseg.imaging.definitions import IMAGE, RatioDefinition
from wsseg.imaging.errors import WssegError
from wsseg.imaging.fraction_text import correction, number_in
from wsseg.serve.cut import KnownRatio
from wsseg.serve.manifest import Manifest
from wsseg.serve.rows import SliceRow, columns
from wsseg.serve.tables import without_apostrophe

DELIMITERS = (",", ";")
RATIO, NAME, NAMED = "ratio", "ratio_name", "ratio:"
OWN = ("x_", "note")
MOST_FAULTS = 20

Fault = tuple[int, str]
"""Line of the table, the header being 1, and what is wrong with it."""


class KnownRatiosError(WssegError):
    """What is to be corrected in a table of known ratios, with one line a fault."""

    def __init__(self, table: str, faults: list[Fault]) -> None:
        lines = [f"line {line}: {message}" for line, message in sorted(faults)]
        hidden = len(lines) - MOST_FAULTS
        rest = [f"and {hidden} more"] if hidden > 0 else []
        super().__init__("\n".join(f"{table}, {one}" for one in [*lines[:MOST_FAULTS], *rest]))


@dataclass(frozen=True)
class KnownRow:
    """A row: which slice, where None leaves it to the source alone, and what is known of it."""

    line: int
    source: str
    slice: int | None
    frame: int | None
    ratios: tuple[KnownRatio, ...]


def read_known(path: Path, manifest: Manifest) -> tuple[KnownRow, ...]:
    """The rows of a table that hold a ratio.

    UTF-8, comma or semicolon. `source` and, where needed, `slice` and `frame` as in ratios.csv;
    the ratios in columns `ratio:<name>`, or in one column `ratio` whose rows are named in a column
    `ratio_name` (not needed for a model with one ratio). A name is that of a ratio of the model, or
    of the class that a single ratio measures. Other columns of ratios.csv, and those that begin
    with x_ or note, are passed over.

    Raises KnownRatiosError with all faults, WssegError for a file that is no table.
    """
    lines = _lines(path)
    _, header = next(lines, (1, []))
    faults = [(1, message) for message in _header_faults(header, manifest)]
    if faults:
        raise KnownRatiosError(path.name, faults)
    rows = []
    for line, cells in lines:
        try:
            rows.append(_row(line, header, cells, manifest))
        except ValueError as error:
            faults.append((line, str(error)))
    if faults:
        raise KnownRatiosError(path.name, faults)
    told = tuple(row for row in rows if row.ratios)
    if not told:
        raise KnownRatiosError(path.name, [(1, "no row below it holds a ratio")])
    return told


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line on which it ends."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise WssegError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise WssegError(f"{path} is not UTF-8 text: save the table as CSV UTF-8") from error
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise KnownRatiosError(path.name, [(reader.line_num, f"not valid CSV: {error}")]) from error


def _header_faults(header: list[str], manifest: Manifest) -> Iterator[str]:
    named = [name for name in header if name.startswith(NAMED)]
    yield from _column_faults(header, named)
    if bool(named) == (RATIO in header):
        yield f"expected a column {RATIO}, or columns {NAMED}<name>, and not both"
    if RATIO in header and NAME not in header and len(manifest.ratios) > 1:
        yield f"which ratio? Write {NAMED}<name>, or add a column {NAME}: {_names(manifest)}"
    for name in named:
        try:
            _definition(name.removeprefix(NAMED), manifest)
        except ValueError as error:
            yield f"column {name}: {error}"


def _column_faults(header: list[str], named: list[str]) -> Iterator[str]:
    known = list(columns(SliceRow))
    if "source" not in header:
        yield "no column named source: it names the file, as ratios.csv does"
    for name in dict.fromkeys(header):
        if header.count(name) > 1:
            yield f"{header.count(name)} columns are named {name or 'nothing'}: keep one of them"
        elif not (name in (*known, *named) or name.startswith(OWN)):
            near = difflib.get_close_matches(name, [*known, f"{NAMED}<name>"], 1, 0)[0]
            yield f"unknown column {name or 'without a name'}: the nearest known one is {near}"


def _row(line: int, header: list[str], cells: list[str], manifest: Manifest) -> KnownRow:
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells where the header has {len(header)}")
    row = dict(zip(header, cells, strict=True))
    source = without_apostrophe(row["source"])
    if not source:
        raise ValueError("source: empty; it names the file, as ratios.csv does")
    ratios = []
    for name, cell in _ratio_cells(row, manifest):
        definition = _definition(name, manifest)
        place = manifest.classes.index(definition.numerator)
        ratios.append(KnownRatio(line, definition.name, place, _ratio(cell)))
    return KnownRow(line, source, _index("slice", row), _index("frame", row), tuple(ratios))


def _ratio_cells(row: dict[str, str], manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The names and texts of the ratios that a row fills in."""
    if RATIO in row:
        if row[RATIO]:
            yield without_apostrophe(row.get(NAME, manifest.ratios[0].name)), row[RATIO]
        return
    for column, cell in row.items():
        if column.startswith(NAMED) and cell:
            yield column.removeprefix(NAMED), cell


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


def _ratio(text: str) -> float:
    ratio = number_in(text)
    if ratio is None or not 0 <= ratio <= 1:
        hint = correction(text) or "such as 0.083"
        raise ValueError(f"ratio: found {text}, expected a fraction from 0 to 1; {hint}")
    return ratio


def _index(column: str, row: dict[str, str]) -> int | None:
    text = row.get(column, "")
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError(f"{column}: found {text}, expected a whole number as in ratios.csv")
    return int(text) if text else None
