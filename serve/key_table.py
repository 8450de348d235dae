"""Key tables: whose each scan is, and of which day, by what names the scan in reports."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from wsseg.imaging.files import name_key
from wsseg.imaging.tables import DEFAULT_OPTIONS, Fault, Row, TableError, TableOptions
from wsseg.serve.earlier_report import read_report

KEY_COLUMNS = frozenset(
    (
        *("report", "source", "study_uid", "series_uid", "modality", "frame", "part", "plane"),
        *("key", "patient_key", "date", "study_date", "patient_id", "issuer_of_patient_id"),
        "path",
    )
)
_ISO = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ].*)?")
_DICOM = re.compile(r"(\d{4})(\d{2})(\d{2})")
# Dates with dots have the day first wherever they are written; those with slashes have not.
_DOTTED = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})")
LONGEST_FORM = 20
"""Characters of a date that cannot be read whose form a message shows."""


@dataclass(frozen=True)
class Key:
    """Whose scan it is and when it was made. date: of the examination."""

    patient: str
    date: date


def read_keys(paths: Sequence[Path], options: TableOptions = DEFAULT_OPTIONS) -> "KeyTable":
    """Read key tables: those that `--identify` wrote, and those that a person made.

    Columns: `source`, `series_uid` or `study_uid`, which name the scan as reports do; `patient_key`
    or `key`; `study_date` or `date`, as 2024-02-29 or 20240229. `report` (a file name) says which
    report a source belongs to, where several reports have the same. Rows without a key or a date
    are ignored. Raises TableError for dates in another form, which could be read in two ways, and
    for a table without the columns.
    """
    table = KeyTable()
    for path in paths:
        found = read_report(path, options, KEY_COLUMNS)
        faults = list(found.faults)
        key = next((name for name in ("patient_key", "key") if name in found.header), None)
        day = next((name for name in ("study_date", "date") if name in found.header), None)
        names = [n for n in ("series_uid", "study_uid", "source") if n in found.header]
        if not key or not day or not names:
            message = (
                "expected the columns patient_key (or key), study_date (or date), and source, "
                f"series_uid or study_uid; found {', '.join(found.header)}"
            )
            raise TableError(path.name, [Fault(found.line, message)])
        for row in found.rows:
            try:
                table.add(row, key, day)
            except ValueError as error:
                faults.append(Fault(row.line, str(error)))
        if faults:
            raise TableError(path.name, faults)
    return table


class KeyTable:
    """Keys by what names a scan: its series, its study, or its source."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, ...], Key] = {}

    def add(self, row: Row, key_column: str, date_column: str) -> None:
        """Add a row. Raises ValueError for a date that is none, and for a second key of a scan."""
        cells = row.cells
        patient = cells[key_column]
        if not patient or not cells[date_column]:
            return
        key = Key(patient, parse_date(cells[date_column]))
        report = name_key(Path(cells.get("report", "")).name) if cells.get("report") else ""
        for name in ("series_uid", "study_uid", "source"):
            if cells.get(name):
                # The most exact name that the row has.
                place = (name, cells[name], report if name == "source" else "")
                if self._keys.setdefault(place, key) != key:
                    raise ValueError(
                        f"{name} {cells[name]} has two keys or dates: keep one row of it, or add a "
                        "column report that says which report it belongs to"
                    )
                return

    def find(self, report: Path, cells: Mapping[str, str]) -> Key | None:
        """The key of a row of a report."""
        places = [
            ("series_uid", cells.get("series_uid", ""), ""),
            ("study_uid", cells.get("study_uid", ""), ""),
            ("source", cells.get("source", ""), name_key(report.name)),
            ("source", cells.get("source", ""), ""),
        ]
        known = (self._keys[place] for place in places if place[1] and place in self._keys)
        return next(known, None)


def parse_date(value: str) -> date:
    """A date by ISO 8601, as DICOM writes it, or day.month.year; ValueError for any other form."""
    match = _ISO.fullmatch(value.strip()) or _DICOM.fullmatch(value.strip())
    dotted = _DOTTED.fullmatch(value.strip())
    try:
        if match:
            return date(*(int(part) for part in match.groups()))
        if dotted:
            return date(*(int(part) for part in reversed(dotted.groups())))
    except ValueError:
        pass
    # Its form alone: a date is personal data, and a wrong column may hold a name.
    form = re.sub(r"[^\W\d_]", "x", re.sub(r"\d", "0", value.strip()))[:LONGEST_FORM]
    raise ValueError(
        f"a date of the form {form} cannot be read, or in more than one way: write dates as "
        "2024-02-29"
    )
