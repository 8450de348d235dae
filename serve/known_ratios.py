"""Tables of known ratios: read, checked, and assigned to the slices of a run."""

import difflib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from wsseg.imaging.definitions import IMAGE, RatioDefinition
from wsseg.imaging.errors import Failure
from wsseg.imaging.files import name_key
from wsseg.imaging.fractions import Column, fractions
from wsseg.imaging.hashed_names import HashedName, real_name
from wsseg.imaging.scan import Scan, ScanRef, SliceId
from wsseg.imaging.tables import (
    DEFAULT_OPTIONS,
    Fault,
    Row,
    TableError,
    TableOptions,
    is_known,
    read_table,
)
from wsseg.serve.manifest import Manifest
from wsseg.serve.recover import Known, KnownRatio
from wsseg.serve.report import SliceRow, columns, printable, without_apostrophe

RATIO, PERCENT, NAME = "ratio", "ratio_percent", "ratio_name"
UNITS = (RATIO, PERCENT)
KNOWN = frozenset((*columns(SliceRow), *UNITS))
# Fractions that were rounded may sum to a little more than 1.
ROUNDING = 0.005

Refs = Sequence[ScanRef | Failure]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownRow:
    """A row of the table.

    source, slice, frame: which slice is meant; None if the other two identify it. ratios: what is
    known of it.
    """

    line: int
    source: str
    slice: int | None
    frame: int | None
    ratios: tuple[KnownRatio, ...]


def read_known(
    path: Path, manifest: Manifest, options: TableOptions = DEFAULT_OPTIONS
) -> tuple[KnownRow, ...]:
    """The rows of a table that have a ratio.

    CSV or Excel, see `read_table`. The columns `source` and, where needed, `slice` and `frame` are
    those of ratios.csv. The ratios are in columns `ratio:<name>`, or in one column `ratio` whose
    rows are named in a column `ratio_name` (not needed for a model with one ratio), or likewise in
    `ratio_percent`. A name is that of a ratio of the model, or of the class that a single ratio
    measures. Other columns of ratios.csv, and those that begin with x_ or note, are ignored.

    Raises TableError with all faults, WssegError for a file that is no table.
    """
    table = read_table(path, KNOWN, options)
    faults = [Fault(table.line, message) for message in _header_faults(table.header, manifest)]
    if faults:
        raise TableError(path.name, [*faults, *table.faults])
    names = [name for name in table.header if name.partition(":")[0] in UNITS]
    # All cells at once, because fractions and percent can only be told apart by all of them.
    read = fractions(
        [
            Column(
                table.name(name),
                tuple((row.line, row.cells[name]) for row in table.rows if row.cells[name]),
                percent=name.partition(":")[0] == PERCENT,
                remedy=name.replace(RATIO, PERCENT, 1),
            )
            for name in names
        ],
        table.line,
    )
    for doubt in read.doubts:
        log.warning("%s: %s", path.name, doubt)
    values = dict(zip(names, read.values, strict=True))
    faults = [*read.faults, *table.faults]
    rows = []
    for row in table.rows:
        try:
            rows.append(_parse_row(row, values, manifest))
        except ValueError as error:
            faults.append(Fault(row.line, str(error)))
    if faults:
        raise TableError(path.name, faults)
    known = tuple(row for row in rows if row.ratios)
    if not known:
        raise TableError(path.name, [Fault(table.line, "no row has a ratio")])
    return known


def _header_faults(header: tuple[str, ...], manifest: Manifest) -> Iterator[str]:
    if "source" not in header:
        yield "no column named source: it names the file, as ratios.csv does"
    named = [name for name in header if name.partition(":")[0] in UNITS and ":" in name]
    for name in header:
        if not is_known(name, KNOWN) or (":" in name and name not in named):
            near = difflib.get_close_matches(name, [*sorted(KNOWN), f"{RATIO}:<name>"], 1, 0)[0]
            yield (
                f"unknown column {name}: the nearest known one is {near}; a column of your own "
                "begins with x_ or note, or is ignored with --ignore-columns"
            )
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


def _parse_row(row: Row, values: Mapping[str, Mapping[int, float]], manifest: Manifest) -> KnownRow:
    """A row of the table; values: ratios, as fractions of 1, by column and line."""
    source = without_apostrophe(row.cells["source"])
    if not source:
        raise ValueError("source: empty; it names the file, as ratios.csv does")
    ratios = []
    for column, by_line in values.items():
        if row.line in by_line:
            _, colon, name = column.partition(":")
            if not colon:
                name = without_apostrophe(row.cells.get(NAME, manifest.ratios[0].name))
            definition = _definition(name, manifest)
            class_index = manifest.classes.index(definition.numerator)
            ratios.append(KnownRatio(row.line, definition.name, class_index, by_line[row.line]))
    slice_index, frame = (
        _whole_number(name, row.cells.get(name, "")) for name in ("slice", "frame")
    )
    return KnownRow(row.line, source, slice_index, frame, tuple(ratios))


def _whole_number(column: str, text: str) -> int | None:
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError(f"{column}: found {text}, expected a whole number as in ratios.csv")
    return int(text) if text else None


def _definition(name: str, manifest: Manifest) -> RatioDefinition:
    """The model's ratio of that name, or of that class; ValueError if no mask can be recovered."""
    matches = [ratio for ratio in manifest.ratios if ratio.name == name]
    matches = matches or [ratio for ratio in manifest.ratios if ratio.numerator == name]
    if len(matches) != 1:
        raise ValueError(f"{name or 'an empty name'} is no ratio of this model: {_names(manifest)}")
    if matches[0].denominator != IMAGE:
        raise ValueError(
            f"the ratio {name} is over {matches[0].denominator}, and only one over the whole image "
            "says how many pixels to take: leave it out"
        )
    return matches[0]


def _names(manifest: Manifest) -> str:
    return "it has " + ", ".join(ratio.name for ratio in manifest.ratios)


class KnownSlices:
    """The slices that the rows mean, and for each row without a recovered mask the reason.

    Made from everything that was found under the inputs, before any of it is read, because a file
    may be named without its folder only if no other file has that name. Raises TableError for rows
    that could mean several files or time volumes, and for rows that contradict each other.
    salt: under which sources are hashed, if they are.
    """

    def __init__(
        self, table: str, rows: Sequence[KnownRow], refs: Refs, *, salt: bytes | None = None
    ) -> None:
        self._table = table
        self._rows: dict[str, list[KnownRow]] = defaultdict(list)
        self._sources = {
            row.line: HashedName(row.source, salt) if salt else row.source for row in rows
        }
        self._assigned: set[int] = set()
        self._left = {
            row.line: ("known_no_source", "no input has this source, as ratios.csv would show it")
            for row in rows
        }
        for row in resolved(table, rows, refs):
            self._rows[row.source].append(row)
            why = "its file gave no result, for the reason in its own row"
            self._left[row.line] = ("known_not_measured", why)
            if salt:
                self._sources[row.line] = row.source  # whole, as other tables have it

    def __call__(self, scan: Scan) -> Known:
        """The known ratios of the slices of a scan."""
        return self.assign(scan.slices)

    def assign(self, slices: Sequence[SliceId]) -> Known:
        """The known ratios of these slices, which are all of a scan."""
        sources = dict.fromkeys(identity.source for identity in slices)
        rows = [row for source in sources for row in self._rows.get(source, ())]
        if not rows:
            return {}
        indices: dict[tuple[str, int | None], list[int]] = defaultdict(list)
        for index, identity in enumerate(slices):
            for frame in {identity.frame, None}:
                indices[identity.source, frame].append(index)
        known: dict[int, dict[int, KnownRatio]] = defaultdict(dict)
        for row in rows:
            fits = [i for i in indices[row.source, row.frame] if row.slice in (None, i)]
            if len(fits) == 1:
                of_slice = known[fits[0]]
                same = [of_slice[r.class_index] for r in row.ratios if r.class_index in of_slice]
                if same:  # another row names the slice in another way
                    why = f"line {same[0].line} has the same class and slice"
                    self._left[row.line] = ("known_repeated", why)
                else:
                    of_slice |= {ratio.class_index: ratio for ratio in row.ratios}
                    self._assigned.add(row.line)
            elif row.line not in self._assigned:
                several = f"{len(fits)} slices fit it: fill in the column slice"
                self._left[row.line] = (
                    ("known_several_slices", several)
                    if fits
                    else ("known_no_slice", "its file has no such slice or frame")
                )
        return {index: tuple(by_class.values()) for index, by_class in known.items() if by_class}

    def recovered(self, lines: Iterable[int]) -> None:
        """Note the rows whose masks were recovered, by their lines."""
        for line in lines:
            self._left.pop(line, None)

    def failures(self) -> tuple[Failure, ...]:
        """The rows that no mask was recovered for, in the order of the table."""
        return tuple(
            Failure(self._sources[line], reason, f"{self._table}, line {line}: {why}")
            for line, (reason, why) in sorted(self._left.items())
        )


def resolved(table: str, rows: Sequence[KnownRow], refs: Refs) -> list[KnownRow]:
    """The rows whose source exists, with the full path of the source in place of a bare name."""
    scans: dict[str, int] = defaultdict(int)  # in the file of each source
    for item in refs:
        for source in (
            [item.source] if isinstance(item, Failure) else [f.source for f in item.files]
        ):
            scans[source] += 1
    by_name: dict[str, list[str]] = defaultdict(list)
    for source in scans:
        by_name[name_key(printable(PurePosixPath(real_name(source)).name))].append(source)
    exact = {name_key(printable(real_name(source))): source for source in scans}
    faults: list[Fault] = []
    unique: list[KnownRow] = []
    for row in rows:
        key = name_key(row.source)
        fits = [exact[key]] if key in exact else by_name.get(key, [])
        if len(fits) > 1:
            faults.append(Fault(row.line, f"{len(fits)} files are called so: give the path"))
        elif fits and scans[fits[0]] > 1 and row.frame is None:
            why = f"its file has {scans[fits[0]]} volumes: fill in the column frame"
            faults.append(Fault(row.line, why))
        elif fits:
            unique.append(replace(row, source=fits[0]))
    faults += _contradictions(unique)
    if faults:
        raise TableError(table, faults)
    return unique


def _contradictions(rows: Sequence[KnownRow]) -> list[Fault]:
    """Rows that name the same slice in the same way and do not fit together."""
    by_slice: dict[tuple[str, int | None, int | None], dict[int, KnownRatio]] = defaultdict(dict)
    faults = []
    for row in rows:
        known = by_slice[row.source, row.slice, row.frame]
        for one in row.ratios:
            if one.class_index in known:
                other = known[one.class_index].line
                where = "in two columns" if other == row.line else f"as in line {other}"
                why = f"the same class of the same slice {where}: keep one"
                faults.append(Fault(row.line, why))
            known.setdefault(one.class_index, one)
        total = sum(one.ratio for one in known.values())
        if total > 1 + ROUNDING:
            why = f"ratios of this slice sum to {total:.3g}, but no pixel is of two classes"
            faults.append(Fault(row.line, why))
    return faults
