"""Rows of a table of known ratios meet the slices of a run; each row is accounted for."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import PurePosixPath

from wsseg.imaging.errors import Failure
from wsseg.imaging.file_names import name_key
from wsseg.imaging.scan import Scan, ScanRef, SliceId
from wsseg.imaging.table_faults import Fault, TableError
from wsseg.serve.cut import Known, KnownRatio, RecoveredMask
from wsseg.serve.known_table import KnownRow
from wsseg.serve.rows import printable

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
