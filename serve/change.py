"""Change of each ratio from one examination of a patient to the next."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal

from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic
from wsseg.imaging.tables import DEFAULT_OPTIONS, Fault, Row, TableError, TableOptions
from wsseg.serve.earlier_report import read_report
from wsseg.serve.key_table import Key, KeyTable, read_keys
from wsseg.serve.report import report_paths, table_writer, translated

Verdict = Literal["CHANGED", "STABLE", "NOT_COMPARABLE", ""]
"""What a change means; "" if nothing says how large a difference without a change can be."""

SAME_SIZE = 0.01
"""Relative difference of voxel volumes up to which two scans have the same spacing."""
LEAST_COHORT = 20
"""Fewer other patients say nothing of where a ratio lies among them."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """One ratio of one scan of a report, with its key.

    frame, part: as in the table of series, which tell scans of one file or series apart. low, high:
    interval of the ratio; known for scans of one slice alone. voxel_mm3: volume of a voxel, or area
    of a pixel of a single slice; None if unknown. pixel_mm2: area of a pixel; None if unknown or if
    slices differ.
    """

    key: Key
    source: str
    series_uid: str
    modality: str
    plane: str
    ratio_name: str
    numerator: str
    denominator: str
    ratio: float | None
    low: float | None
    high: float | None
    voxel_mm3: float | None
    model_sha256: str
    frame: str = ""
    part: str = ""
    pixel_mm2: float | None = None


@dataclass(frozen=True)
class ChangeRow:
    """A row of the table of changes: a ratio at two examinations of a patient, see `_pairs`.

    days: between them. change: later minus earlier ratio, in the ratio's unit. change_low,
    change_high: interval of the change, from the intervals of both ratios: the lowest later minus
    the highest earlier one, and the reverse. It holds the change of the recorded ratios with at
    least twice the coverage of the two minus one (Bonferroni: 0.8 for 0.9). relative_change: change
    over the earlier ratio. repeatability: the repeatability coefficient that the change was set
    against. percentile: share of other patients, of `cohort` in all, whose latest ratio by the same
    model, in the same modality and plane, is lower, counting equal ones half, in percent.
    """

    patient_key: str
    ratio_name: str
    numerator: str
    denominator: str
    modality: str
    plane: str
    earlier_date: str
    later_date: str
    days: int
    earlier_source: str
    later_source: str
    earlier_series_uid: str
    later_series_uid: str
    earlier_ratio: float | None
    later_ratio: float | None
    change: float | None
    change_low: float | None
    change_high: float | None
    relative_change: float | None
    repeatability: float | None
    verdict: str
    reason: str
    percentile: float | None
    cohort: int


def read_measured(report: Path, keys: KeyTable) -> tuple[list[Measured], int]:
    """The ratios of a report's scans that have a key, and the number of scans without one.

    report: the table of slices; the table of series lies beside it. Raises TableError for numbers
    that cannot be read, WssegError for tables that are none.
    """
    slices_path, series_path, _ = report_paths(report)
    slices: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    of_scan: dict[str, list[Row]] = defaultdict(list)
    if slices_path.exists():
        for row in read_report(slices_path).rows:
            slices[_place(row.cells)].append(row)
            of_scan[_scan(row.cells)].append(row)
    found, without, faults = [], set(), []
    for row in read_report(series_path).rows:
        key = keys.find(report, row.cells)
        if key is None:
            without.add((*_place(row.cells)[:-1], *_within(row.cells)))
            continue
        # Of a scan of one slice, that slice has the interval, and the pixel size if any. Where one
        # file holds several such scans, the tables do not say which slice is whose.
        places = slices.get(_place(row.cells), []) if row.cells.get("slices") == "1" else []
        single = places[0].cells if len(places) == 1 else {}
        try:
            area = _pixel_area(of_scan[_scan(row.cells)])
            found.append(replace(_measured(key, row.cells, single), pixel_mm2=area))
        except ValueError:
            faults.append(Fault(row.line, "a cell holds no number where wsseg-infer wrote one"))
    if faults:
        raise TableError(series_path.name, faults)
    return found, len(without)


def _measured(key: Key, cells: Mapping[str, str], single: Mapping[str, str]) -> Measured:
    """The ratio of a row of series. single: the row of its only slice, if it has one. Raises
    ValueError for a number that cannot be read."""
    frame, part = _within(cells)
    return Measured(
        key=key,
        source=cells["source"],
        series_uid=cells.get("series_uid", ""),
        modality=cells.get("modality", ""),
        plane=cells.get("plane", ""),
        ratio_name=cells["ratio_name"],
        numerator=cells["numerator"],
        denominator=cells["denominator"],
        ratio=_number(cells, "volume_ratio"),
        low=_number(single, "ratio_low"),
        high=_number(single, "ratio_high"),
        voxel_mm3=_quotient(cells, "denominator_mm3") or _quotient(single, "denominator_mm2"),
        model_sha256=cells.get("model_sha256", ""),
        frame=frame,
        part=part,
    )


def _place(cells: Mapping[str, str]) -> tuple[str, ...]:
    """What names a scan and a ratio in both tables of a report; a single slice has its source."""
    return (cells.get("series_uid", ""), cells["source"], cells["ratio_name"])


def _scan(cells: Mapping[str, str]) -> str:
    """What the slices of a scan share: its series, or its file where it has none."""
    return cells.get("series_uid") or cells["source"]


def _pixel_area(slices: Iterable[Row]) -> float | None:
    """Area of a pixel in mm2, where it is known and that of all slices."""
    areas = [area for row in slices if (area := _quotient(row.cells, "denominator_mm2"))]
    return areas[0] if areas and max(areas) - min(areas) <= SAME_SIZE * min(areas) else None


def _within(cells: Mapping[str, str]) -> tuple[str, str]:
    """What tells scans of one file or series apart in the table of series."""
    return cells.get("frame", ""), cells.get("part", "")


def _number(cells: Mapping[str, str], column: str) -> float | None:
    text = cells.get(column, "")
    return float(text.replace(",", ".")) if text else None


def _quotient(cells: Mapping[str, str], column: str) -> float | None:
    above, below = _number(cells, column), _number(cells, "denominator_px")
    return above / below if above and below else None


def changes(
    measured: Iterable[Measured], repeatability: Mapping[str, float] | float | None = None
) -> Iterator[ChangeRow]:
    """The rows of all patients, by key, ratio, and date.

    repeatability: repeatability coefficient of the ratios, or of each by its name.
    """
    groups: dict[tuple[str, str], dict[date, list[Measured]]] = {}
    for one in measured:
        of_patient = groups.setdefault((one.key.patient, one.ratio_name), {})
        of_patient.setdefault(one.key.date, []).append(one)
    latest: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for (patient, _), by_date in groups.items():
        for one in (each for day in sorted(by_date) for each in sorted(by_date[day], key=_order)):
            if one.ratio is not None:
                latest[_alike(one)][patient] = one.ratio
    for (_, name), by_date in sorted(groups.items()):
        limit = repeatability.get(name) if isinstance(repeatability, Mapping) else repeatability
        dates = sorted(by_date)
        for at, later_date in enumerate(dates[1:], 1):
            before = [by_date[each] for each in dates[:at]]
            for earlier, later, reason in _pairs(before, by_date[later_date]):
                row = _compared(earlier, later, reason, limit)
                cohort = dict(latest[_alike(later)])
                cohort.pop(later.key.patient, None)
                percentile = _percentile(later.ratio, list(cohort.values()))
                yield replace(row, percentile=percentile, cohort=len(cohort))


def _pairs(
    earlier: Sequence[Sequence[Measured]], later: Sequence[Measured]
) -> Iterator[tuple[Measured, Measured, str]]:
    """Each scan of an examination with that which it continues, and why they cannot be compared.

    earlier: the examinations before it, by date. The last one that has a scan of the same kind
    counts: between two CTs there may be an MR.
    """
    for one in sorted(later, key=_order):
        by_date = ([each for each in day if _kind(each) == _kind(one)] for day in earlier[::-1])
        alike = next(filter(None, by_date), [])
        rivals = [each for each in later if _kind(each) == _kind(one)]
        if len(alike) == len(rivals) == 1:
            yield alike[0], one, ""
        elif alike:
            counted = f"{len(alike)} earlier and {len(rivals)} later scans of this kind"
            yield min(alike, key=_order), one, f"{counted}: give keys to one of each"
        elif len(earlier[-1]) == len(later) == 1:
            yield earlier[-1][0], one, _difference(earlier[-1][0], one)


def _kind(one: Measured) -> tuple[str, str]:
    return one.modality, one.plane


def _alike(one: Measured) -> tuple[str, ...]:
    """What ratios of different patients have to share to be compared."""
    terms = (one.ratio_name, one.numerator, one.denominator)
    return (*terms, one.model_sha256, *_kind(one))


def _order(one: Measured) -> tuple[str, ...]:
    return one.source, one.series_uid, one.part.zfill(9), one.frame.zfill(9)


def _difference(earlier: Measured, later: Measured) -> str:
    """Why two scans cannot be compared, in words; "" if they can."""
    for what, before, after in (
        ("modality", earlier.modality, later.modality),
        ("plane", earlier.plane, later.plane),
        ("denominator", earlier.denominator, later.denominator),
        ("numerator", earlier.numerator, later.numerator),
        ("model", earlier.model_sha256[:12], later.model_sha256[:12]),
    ):
        if before != after:
            return f"another {what}: {before or 'unknown'}, then {after or 'unknown'}"
    if earlier.ratio is None or later.ratio is None:
        return "one of the two has no ratio"
    before_mm, after_mm = earlier.voxel_mm3, later.voxel_mm3
    if (before_mm is None) != (after_mm is None):
        return "the pixel size of one of the two is unknown"
    if before_mm and after_mm and abs(after_mm - before_mm) > SAME_SIZE * before_mm:
        return f"another spacing: voxels or pixels of {before_mm:.4g}, then {after_mm:.4g}"
    # Equal voxels may be thick slices of small pixels, or thin slices of large ones.
    before_mm, after_mm = earlier.pixel_mm2, later.pixel_mm2
    if before_mm and after_mm and abs(after_mm - before_mm) > SAME_SIZE * before_mm:
        return f"another spacing: pixels of {before_mm:.4g} mm2, then {after_mm:.4g} mm2"
    return ""


def _compared(earlier: Measured, later: Measured, reason: str, limit: float | None) -> ChangeRow:
    reason = reason or _difference(earlier, later)
    change = low = high = relative = None
    verdict: Verdict = "NOT_COMPARABLE"
    if not reason and earlier.ratio is not None and later.ratio is not None:
        change = later.ratio - earlier.ratio
        relative = change / earlier.ratio if earlier.ratio else None
        if earlier.high is not None and later.low is not None:
            low = later.low - earlier.high
        if earlier.low is not None and later.high is not None:
            high = later.high - earlier.low
        if limit is not None:
            verdict = "CHANGED" if abs(change) > limit else "STABLE"
        elif low is not None and high is not None:
            verdict = "CHANGED" if low > 0 or high < 0 else "STABLE"
        else:
            verdict = ""
            reason = "no repeatability coefficient and no intervals"
    return ChangeRow(
        patient_key=later.key.patient,
        ratio_name=later.ratio_name,
        numerator=later.numerator,
        denominator=later.denominator,
        modality=later.modality,
        plane=later.plane,
        earlier_date=earlier.key.date.isoformat(),
        later_date=later.key.date.isoformat(),
        days=(later.key.date - earlier.key.date).days,
        earlier_source=earlier.source,
        later_source=later.source,
        earlier_series_uid=earlier.series_uid,
        later_series_uid=later.series_uid,
        earlier_ratio=earlier.ratio,
        later_ratio=later.ratio,
        change=change,
        change_low=low,
        change_high=high,
        relative_change=relative,
        repeatability=limit,
        verdict=verdict,
        reason=reason,
        percentile=None,
        cohort=0,
    )


def _percentile(ratio: float | None, others: Sequence[float]) -> float | None:
    """The share of others below, equal ones half, in percent; None for a small cohort."""
    if ratio is None or len(others) < LEAST_COHORT:
        return None
    below = sum(other < ratio for other in others) + sum(other == ratio for other in others) / 2
    return 100 * below / len(others)


def read_repeatability(value: str) -> Mapping[str, float] | float:
    """The repeatability coefficient: a number, or by ratio from a table that `wsseg agree` wrote.

    Raises WssegError for what is neither, and for a table without the coefficient.
    """
    try:
        number = float(value.replace(",", "."))
    except ValueError:
        pass
    else:
        if not 0 <= number < 1:
            raise WssegError(
                f"--repeatability {value} is no fraction of 1: expected a number such as 0.02"
            )
        return number
    path = Path(value)
    if not path.exists():
        raise WssegError(
            f"--repeatability {value} is no number and no file: give a fraction such as 0.02, or "
            "agreement.csv of wsseg agree"
        )
    found = _coefficients(path)
    if not found:
        raise WssegError(
            f"{path} has no figure repeatability_measured with a value: run wsseg agree with "
            "--repeats on images that were measured repeatedly without a change"
        )
    return found


def _coefficients(path: Path) -> dict[str, float]:
    """The repeatability coefficient of each measured ratio in a table of agreement, by its name."""
    found: dict[str, float] = {}
    for row in read_report(path).rows:
        cells = row.cells
        if cells.get("figure") != "repeatability_measured" or cells.get("by"):
            continue
        try:
            coefficient = _number(cells, "value")
        except ValueError:
            coefficient = -1.0
        if coefficient is not None and not coefficient >= 0:
            raise TableError(
                path.name, [Fault(row.line, "its value is no coefficient of 0 or more")]
            )
        if coefficient is not None:
            found[cells.get("ratio_name", "")] = coefficient
    return found


def change_path(report: Path) -> Path:
    """The table of changes beside a report."""
    return report.with_name(f"{report.stem}.change{report.suffix}")


@dataclass(frozen=True)
class Changes:
    """What a comparison found.

    path: of the table. rows, changed, not_comparable: of them. unkeyed: scans without a key.
    """

    path: Path
    rows: int
    changed: int
    not_comparable: int
    unkeyed: int

    @property
    def words(self) -> str:
        """The result in a line."""
        return (
            f"{self.rows} comparisons with earlier examinations, {self.changed} changed, "
            f"{self.not_comparable} not comparable: {self.path}"
        )


def check_free(out: Path, *, overwrite: bool, option: str) -> None:
    """Raise WssegError for a table of changes that is there already. option: that places it."""
    if out.exists() and not overwrite:
        raise WssegError(
            f"{out} is there already: give --overwrite to replace it, or name another {option}"
        )


def _check_place(out: Path, read: Iterable[Path]) -> None:
    for source in read:
        if source.resolve() == out.resolve():
            raise WssegError(f"{out} would replace the input {source}: choose another --out")


def write_changes(
    reports: Sequence[Path],
    keys: Sequence[Path],
    out: Path,
    repeatability: Mapping[str, float] | float | None = None,
    options: TableOptions = DEFAULT_OPTIONS,
    *,
    overwrite: bool = False,
) -> Changes:
    """Compare the examinations of all patients in several reports and write the table of changes.

    The reports may overlap: a scan that is in two of them counts once. overwrite: replace an
    earlier table. Raises WssegError for reports and key tables that cannot be read or that `out`
    would replace, for an earlier table, and if no scan has a key; AllFailedError if `out` cannot be
    written.
    """
    table_writer(out)
    _check_place(out, [*keys, *(table for each in reports for table in report_paths(each))])
    check_free(out, overwrite=overwrite, option="--out")
    table = read_keys(keys, options)
    measured: dict[tuple[str, ...], Measured] = {}
    unkeyed = 0
    for report in reports:
        found, without = read_measured(report, table)
        unkeyed += without
        for one in found:
            place = one.series_uid or str(report)
            name = (one.key.patient, one.ratio_name, place, one.source, one.frame, one.part)
            measured.setdefault(name, one)
    if not measured:
        raise WssegError(
            f"no scan of {', '.join(str(report) for report in reports)} has a key: the tables "
            f"{', '.join(str(path) for path in keys)} name none of their sources, series or studies"
        )
    rows = list(changes(measured.values(), repeatability))
    writer = table_writer(out)
    with translated(out), atomic(out) as partial, writer(partial, ChangeRow) as write:
        write(rows)
    if unkeyed:
        logger.warning("%d scans have no key and a date, and are compared with none", unkeyed)
    return Changes(
        out,
        len(rows),
        sum(row.verdict == "CHANGED" for row in rows),
        sum(row.verdict == "NOT_COMPARABLE" for row in rows),
        unkeyed,
    )
