"""Which recorded ratio belongs to which measured one, and what has no partner."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from wsseg.imaging.definitions import RatioDefinition
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import name_key
from wsseg.imaging.tables import plain_text
from wsseg.serve.agreement.tables import (
    IDENTITY,
    IMAGE_FILE,
    NARROWING,
    PATIENT,
    AgreeOptions,
    MeasuredRow,
    MeasuredTable,
    RecordedRow,
    RecordedTable,
    column_named,
)

SOURCE = "source"
OWN_PATIENT = ("study_uid", "series_uid", SOURCE)
"""Columns of the report that tell patients apart where the recorded table does not name them."""


@dataclass(frozen=True)
class Pair:
    """One image with one ratio measured and recorded.

    readings: the recorded ratios, on `lines` of their table. patient: equal for images of one
    patient. subject: equal for repeated scans of one unchanged thing, "" if unknown. groups: values
    of the columns to divide by.
    """

    measured: MeasuredRow
    ratio: float
    readings: tuple[float, ...]
    lines: tuple[int, ...]
    patient: str
    subject: str
    groups: Mapping[str, str]


@dataclass(frozen=True)
class UnmatchedRow:
    """A row without a partner. table: "recorded" or "measured". key: what it calls its image."""

    table: str
    line: int
    key: str
    ratio_name: str
    reason: str
    message: str


@dataclass(frozen=True)
class Joined:
    """patients_by: the column that told patients apart, in words."""

    pairs: tuple[Pair, ...]
    unmatched: tuple[UnmatchedRow, ...]
    patients_by: str


class _Index:
    """Rows of the report by what names their image."""

    def __init__(self, measured: MeasuredTable, sources: Iterable[str]) -> None:
        """sources: all that the recorded table names, to see which could be confused."""
        self._measured = measured
        self._by: dict[str, dict[str, list[int]]] = {}
        self._paths: dict[str, set[str]] = defaultdict(set)
        for key in map(name_key, sources):
            if tail := self._tail(key):
                self._paths[tail].add(key)

    def rows(self, column: str, value: str) -> list[int]:
        """The rows whose `column` has the value.

        A source may lack its folders, or its folders and the ending of its name, if no more exact
        name is there. It may have more folders than the report knows, which has paths below the
        inputs, if no other recorded path ends in the same way.
        """
        if column != SOURCE:
            return self._lookup(column, plain_text(value), plain_text)
        key = name_key(value)
        tail = self._tail(key)
        if tail:
            one = tail == key or len(self._paths[tail]) == 1
            return self._lookup(SOURCE, tail, name_key) if one else []
        for column_form, form in (
            ("its name", lambda text: PurePosixPath(name_key(text)).name),
            ("its stem", lambda text: _stem(PurePosixPath(name_key(text)).name)),
        ):
            if found := self._lookup(column_form, key, form, SOURCE):
                return found
        return []

    def _tail(self, key: str) -> str:
        """The longest end of a path, itself at most, that is a source of the report; "" if none."""
        parts = PurePosixPath(key).parts
        tails = ("/".join(parts[at:]) for at in range(len(parts)))
        known = (tail for tail in (key, *tails) if self._lookup(SOURCE, tail, name_key))
        return next(known, "")

    def _lookup(
        self, label: str, value: str, form: Callable[[str], str], column: str = ""
    ) -> list[int]:
        if label not in self._by:
            by: dict[str, list[int]] = defaultdict(list)
            names = self._measured.names if SOURCE in (column, label) else {}
            for index, row in enumerate(self._measured.rows):
                cell = row.cells.get(column or label, "")
                by[form(names.get(cell, cell))].append(index)
            self._by[label] = by
        return self._by[label].get(value, []) if value else []


def _stem(name: str) -> str:
    """A file's name without its ending, .nii.gz and the like as one."""
    path = PurePosixPath(name)
    return PurePosixPath(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def join(measured: MeasuredTable, recorded: RecordedTable, options: AgreeOptions) -> Joined:
    """Pair the rows of both tables; every row without a partner is listed, with the reason.

    A recorded row means the images that its key names, or else the first of `instance_uid`,
    `series_uid` and `source` that is filled in, among these the one that its other cells of
    `NARROWING` fit. Several rows of one image are several readings. Raises WssegError for columns
    that neither table has, and if no row has a partner.
    """
    check_columns(measured, recorded, options)
    identities = [_identity(row, measured, recorded, options) for row in recorded.rows]
    index = _Index(measured, {value for column, value in identities if column == SOURCE})
    readings: dict[int, list[tuple[float, RecordedRow]]] = defaultdict(list)
    unmatched: list[UnmatchedRow] = []
    for row, identity in zip(recorded.rows, identities, strict=True):
        for found in _partners(row, index, measured, identity):
            if isinstance(found, UnmatchedRow):
                unmatched.append(found)
            else:
                readings[found[0]].append((found[1], row))
    patients, patients_by = _patients(recorded, options)
    pairs = [
        _pair(measured.rows[i], readings[i], patients, options, recorded)
        for i in range(len(measured.rows))
        if i in readings
    ]
    unmatched += [
        UnmatchedRow(
            "measured",
            row.line,
            row.cells.get(SOURCE, ""),
            row.ratio_name,
            "not_recorded",
            "no recorded row has this image and ratio",
        )
        for i, row in enumerate(measured.rows)
        if i not in readings
    ]
    if not pairs:
        raise WssegError(_none_fits(measured, recorded, unmatched))
    return Joined(tuple(pairs), tuple(unmatched), patients_by)


def _partners(
    row: RecordedRow, index: _Index, measured: MeasuredTable, identity: tuple[str, str]
) -> Iterator[tuple[int, float] | UnmatchedRow]:
    """For each recorded ratio of a row, its measured row's index, or why it has no partner."""
    column, key = identity

    def without(reason: str, message: str, ratio: str = "") -> UnmatchedRow:
        return UnmatchedRow("recorded", row.line, key, ratio, reason, message)

    if not key:
        yield without("no_key", "its cells do not name an image")
    elif not row.readings:
        yield without("no_ratio", "it has no ratio")
    found = _narrowed(index.rows(column, key), row, measured, column) if key else []
    for name, ratio in row.readings if key else ():
        definition = _definition(name, measured.definitions)
        fits = [i for i in found if measured.rows[i].ratio_name == definition]
        if definition is None:
            yield without("no_such_ratio", f"no ratio or class {name} was measured", name)
        elif not fits:
            why = f"no measured row has this {column}; the failures table of the run may say why"
            yield without("no_image", why, definition)
        elif len(fits) > 1:
            why = f"{len(fits)} measured rows fit it: fill in slice, frame or UIDs"
            yield without("several_images", why, definition)
        elif measured.rows[fits[0]].value is None:
            why = f"the report has no {measured.column} of this image"
            yield without("not_measured", why, definition)
        else:
            yield fits[0], ratio


def check_columns(measured: MeasuredTable, recorded: RecordedTable, options: AgreeOptions) -> None:
    """Raise WssegError for named columns that are missing, and for slices compared with series."""
    for option, name in (("--patient", options.patient), ("--repeats", options.repeats)):
        if name is not None and column_named(name, recorded.header) is None:
            raise WssegError(f"{option} {name}: {_lacks(recorded)}")
    for name in options.by:
        if not (column_named(name, recorded.header) or column_named(name, measured.header)):
            raise WssegError(f"--by {name}: neither table has this column; {_lacks(recorded)}")
    if options.key_columns is not None and options.key_columns[1]:
        name = options.key_columns[1]
        if column_named(name, measured.header) is None:
            raise WssegError(f"--key: {measured.path} has no column {name}")
    if "slice" not in measured.header and any(row.cells.get("slice") for row in recorded.rows):
        raise WssegError(
            f"{recorded.path} records slices, and {measured.path} has one row a series: compare "
            "with the table of slices, ratios.csv"
        )


def _lacks(recorded: RecordedTable) -> str:
    return f"{recorded.path} has the columns {', '.join(recorded.header)}"


def _identity(
    row: RecordedRow, measured: MeasuredTable, recorded: RecordedTable, options: AgreeOptions
) -> tuple[str, str]:
    """The column of the report that finds the row's image, and the value to find there."""
    if options.key_columns is not None:
        mine, theirs = options.key_columns
        column = column_named(mine, recorded.header) or mine
        wanted = column_named(theirs or mine, measured.header) or SOURCE
        return wanted, row.cells[column]
    for column in IDENTITY:
        if row.cells.get(column) and column in measured.header:
            return column, row.cells[column]
    return SOURCE, row.cells.get(IMAGE_FILE, "")


def _narrowed(found: list[int], row: RecordedRow, measured: MeasuredTable, used: str) -> list[int]:
    for column in NARROWING:
        value = row.cells.get(column)
        if value and column != used and column in measured.header:
            found = [i for i in found if measured.rows[i].cells[column] == value]
    return found


def _definition(name: str, definitions: Sequence[RatioDefinition]) -> str | None:
    """The name of the measured ratio that is meant; None if there is no such one."""
    if not name and len(definitions) == 1:
        return definitions[0].name
    if any(each.name == name for each in definitions):
        return name
    matches = [each.name for each in definitions if each.numerator == name]
    return matches[0] if len(matches) == 1 else None


def _patients(recorded: RecordedTable, options: AgreeOptions) -> tuple[str | None, str]:
    """The column that names patients, if there is one, and the same in words."""
    for name in (options.patient,) if options.patient else PATIENT:
        column = column_named(name, recorded.header)
        if column is not None:
            return column, f"the column {column}"
    return None, ""


def _pair(
    row: MeasuredRow,
    readings: Sequence[tuple[float, RecordedRow]],
    patients: str | None,
    options: AgreeOptions,
    recorded: RecordedTable,
) -> Pair:
    if row.value is None:
        raise AssertionError("a pair has a measured ratio")
    cells = readings[0][1].cells
    patient = cells.get(patients, "") if patients else ""
    own = next((row.cells[name] for name in OWN_PATIENT if row.cells.get(name)), "")
    subject = column_named(options.repeats, recorded.header) if options.repeats else None
    return Pair(
        row,
        row.value,
        tuple(ratio for ratio, _ in readings),
        tuple(each.line for _, each in readings),
        f"named {patient}" if patient else f"own {own or row.line}",
        cells.get(subject, "") if subject else "",
        {name: _group(name, cells, row.cells) for name in options.by},
    )


def _group(name: str, *cells: Mapping[str, str]) -> str:
    for each in cells:
        column = column_named(name, tuple(each))
        if column is not None:
            return each[column]
    return ""


def _none_fits(
    measured: MeasuredTable, recorded: RecordedTable, unmatched: Iterable[UnmatchedRow]
) -> str:
    first = next(row for row in unmatched if row.table == "recorded")
    seen = measured.rows[0].cells.get(SOURCE, "")
    # Not what the line names, which may be a patient.
    return (
        f"no row of {recorded.path} has a partner in {measured.path}: of line {first.line}, "
        f"{first.message}, and the first source of the report is {seen}: give tables of the same "
        "images, or name the column of images with --key"
    )
