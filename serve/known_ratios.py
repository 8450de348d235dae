"""Rows of a table of known ratios meet the slices of a run; each row is accounted for."""

import difflib
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath

from wsseg.imaging.definitions import IMAGE, RatioDefinition
from wsseg.imaging.errors import Failure
from wsseg.imaging.files import name_key
from wsseg.imaging.fractions import Column, fractions
from wsseg.imaging.scan import Scan, ScanRef, SliceId
from wsseg.imaging.tables import (
    DEFAULT_OPTIONS,
    Fault,
    Row,
    TableError,
    TableOptions,
    TextTable,
    is_known,
    read_table,
)
from wsseg.serve.manifest import Manifest
from wsseg.serve.recover import Known, KnownRatio, RecoveredMask
from wsseg.serve.tables import SliceRow, columns, printable, without_apostrophe

# known.csv: area ratios on file for some slices, read and checked as a whole.

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


# Fractions that were rounded may sum to a little more than 1.
ROUNDING = 0.005

Found = Sequence[ScanRef | Failure]


class KnownSlices:
    """Which slices the rows speak of, and of each row that none was recovered for: why.

    Made from all that was found of the inputs, before any of it is read, because a file's name
    alone must be no other file's as well. Raises TableError for rows that could mean several
    files or time volumes, and for rows that contradict each other.
    """

    def __init__(self, table: str, rows: Sequence[KnownRow], found: Found) -> None:
        self._table = table
        self._rows: dict[str, list[KnownRow]] = defaultdict(list)
        self._typed = {row.line: row.source for row in rows}
        self._claimed: set[int] = set()
        self._left = {
            row.line: ("known_no_source", "no input has this source, as ratios.csv would show it")
            for row in rows
        }
        for row in resolved(table, rows, found):
            self._rows[row.source].append(row)
            why = "its file gave no result, for the reason in its own row"
            self._left[row.line] = ("known_not_measured", why)

    def __call__(self, scan: Scan) -> Known:
        """What is known of the slices of a scan."""
        sources = dict.fromkeys(identity.source for identity in scan.slices)
        rows = [row for source in sources for row in self._rows.get(source, ())]
        places = _places(scan) if rows else {}
        known: dict[int, dict[int, KnownRatio]] = defaultdict(dict)
        for row in rows:
            at = [i for i in places[row.source, row.frame] if row.slice in (None, i)]
            if len(at) == 1 and not self._repeats(row, known[at[0]]):
                known[at[0]] |= {one.place: one for one in row.ratios}
                self._claimed.add(row.line)
            elif len(at) != 1:
                self._miss(row, len(at))
        return {index: tuple(by_class.values()) for index, by_class in known.items() if by_class}

    def recovered(self, masks: Mapping[int, tuple[RecoveredMask, ...]]) -> None:
        """Note the rows of masks that were cut, given by slices."""
        for mask in chain.from_iterable(masks.values()):
            self._left.pop(mask.known.line, None)

    def failures(self) -> tuple[Failure, ...]:
        """The rows that no mask was recovered for, in the order of the table."""
        return tuple(
            Failure(self._typed[line], reason, f"{self._table}, line {line}: {why}")
            for line, (reason, why) in sorted(self._left.items())
        )

    def _repeats(self, row: KnownRow, known: dict[int, KnownRatio]) -> bool:
        """Whether another row said the same of the slice, which it named in another way."""
        same = [known[one.place] for one in row.ratios if one.place in known]
        if same:
            why = f"line {same[0].line} speaks of the same class and slice"
            self._left[row.line] = ("known_repeated", why)
        return bool(same)

    def _miss(self, row: KnownRow, slices: int) -> None:
        if row.line in self._claimed:
            return
        if slices:
            why = f"{slices} slices fit it: fill in the column slice"
            self._left[row.line] = ("known_several_slices", why)
        else:
            why = "its file has no such slice or frame"
            self._left[row.line] = ("known_no_slice", why)


def resolved(table: str, rows: Sequence[KnownRow], found: Found) -> list[KnownRow]:
    """The rows whose source was found, with the source's full path in place of a bare name."""
    volumes = _volumes(found)
    by_name: dict[str, list[str]] = defaultdict(list)
    for source in volumes:
        by_name[name_key(printable(PurePosixPath(source).name))].append(source)
    exact = {name_key(printable(source)): source for source in volumes}
    faults: list[Fault] = []
    kept: list[KnownRow] = []
    for row in rows:
        typed = name_key(row.source)
        fits = [exact[typed]] if typed in exact else by_name.get(typed, [])
        if len(fits) > 1:
            faults.append(Fault(row.line, f"{len(fits)} files are called so: give the path"))
        elif fits and volumes[fits[0]] > 1 and row.frame is None:
            count = volumes[fits[0]]
            why = f"its file has {count} volumes: fill in the column frame"
            faults.append(Fault(row.line, why))
        elif fits:
            kept.append(replace(row, source=fits[0]))
    faults += _contradictions(kept)
    if faults:
        raise TableError(table, faults)
    return kept


def _volumes(found: Found) -> dict[str, int]:
    """All sources, each with the number of scans that its file holds."""
    volumes: dict[str, int] = defaultdict(int)
    for item in found:
        files = [item.source] if isinstance(item, Failure) else [f.source for f in item.files]
        for source in files:
            volumes[source] += 1
    return volumes


def _contradictions(rows: Sequence[KnownRow]) -> list[Fault]:
    """Rows that name the same slice in the same way and do not fit together."""
    said: dict[tuple[str, int | None, int | None], dict[int, KnownRatio]] = defaultdict(dict)
    faults = []
    for row in rows:
        known = said[row.source, row.slice, row.frame]
        for one in row.ratios:
            if one.place in known:
                other = known[one.place].line
                where = "in two columns" if other == row.line else f"as in line {other}"
                why = f"the same class of the same slice {where}: keep one"
                faults.append(Fault(row.line, why))
            known.setdefault(one.place, one)
        total = sum(one.ratio for one in known.values())
        if total > 1 + ROUNDING:
            why = f"ratios of this slice sum to {total:.3g}, but no pixel is of two classes"
            faults.append(Fault(row.line, why))
    return faults


def _places(scan: Scan) -> dict[tuple[str, int | None], list[int]]:
    """The slices of each source, and of each of its frames."""
    places: dict[tuple[str, int | None], list[int]] = defaultdict(list)
    for index, identity in enumerate(scan.slices):
        for key in _keys(identity):
            places[key].append(index)
    return places


def _keys(identity: SliceId) -> set[tuple[str, int | None]]:
    return {(identity.source, identity.frame), (identity.source, None)}
