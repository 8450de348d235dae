"""The calibration of a model's intervals, from cases with recorded ratios that it did not learn."""

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsseg.imaging.definitions import PixelCounts, RatioDefinition
from wsseg.imaging.errors import Failure, ReadError, WssegError
from wsseg.imaging.reading import read_slice_and_origin
from wsseg.imaging.scan import NO_UNIT, UNITS, FileRef, Geometry, Scan, ScanRef, SliceId
from wsseg.imaging.tables import TableOptions
from wsseg.serve.batching import Limits, Segmenter
from wsseg.serve.empty_slices import skip_empty
from wsseg.serve.engines.base import Engine, EngineOptions
from wsseg.serve.engines.select import open_engine
from wsseg.serve.inspection import InspectedScan, inspect
from wsseg.serve.intervals import (
    DEFAULT_COVERAGE,
    FLOOR,
    SoftAreas,
    calibrated,
    groups_needed,
    measured_ratio,
)
from wsseg.serve.manifest import Calibration, Manifest, RatioCalibration
from wsseg.serve.measure import MeasuredScan, pixel_counts
from wsseg.train.cases import (
    RECORDED,
    Case,
    fingerprints,
    group_key,
    image_sha256,
    one_spelling,
    read_recorded,
)
from wsseg.train.run_folder import RunRecord, settings_of
from wsseg.train.validation import IMAGE_SHA256, SPLITS

BATCH = 8
LEARNT = ("train", "val")
"""Splits whose cases a network knows, or was chosen by."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewCases:
    """Cases with recorded ratios that a run did not learn from.

    cases_sha256: of their table. left_out: number of its other rows. definitions: of the classes'
    recorded ratios, by class.
    """

    cases_sha256: str
    cases: tuple[Case, ...]
    left_out: int
    definitions: Mapping[str, RatioDefinition]


def new_cases(
    run: Path, record: RunRecord, table: Path | None, options: TableOptions | None
) -> NewCases | None:
    """Return the cases to calibrate a run's model on; None if no table is given and none was kept.

    table: of cases; None for those that training kept aside. options: how it is read; None as the
    table of the run. Rows are left out if training learnt from their image, or from another image
    of their group. Raises TableError for a faulty table, and WssegError if too few groups are left.
    """
    path = run / RECORDED if table is None else table
    if table is None and not path.exists():
        return None
    if options is None:
        settings = settings_of(run)
        options = TableOptions(settings.sheet, settings.ignore_columns) if settings else None
    found = read_recorded(path, record.classes, record.ratios, options or TableOptions())
    for doubt in found.doubts:
        logger.warning("%s: %s", path.name, doubt)
    learnt = _learnt(run)
    prints = fingerprints(found.cases)
    cases = tuple(
        case
        for case in found.cases
        if learnt.isdisjoint({("image", image_sha256(prints, case.row)), group_key(case)})
    )
    groups = len(set(one_spelling(cases)))
    learnt_rows = len(found.cases) - len(cases)
    if learnt_rows:
        logger.warning(
            "%s: %d of %d cases are left out of the intervals, because the run learnt from their "
            "image or from another image of their group",
            path.name,
            learnt_rows,
            len(found.cases),
        )
    if groups < groups_needed(DEFAULT_COVERAGE):
        raise WssegError(
            f"{path.name}: intervals take {groups_needed(DEFAULT_COVERAGE)} groups (patients) with "
            f"a recorded ratio that the run did not learn from, and there are {groups}"
            f"{f'; {learnt_rows} cases were learnt' if learnt_rows else ''}: give a table of others"
        )
    definitions = {ratio.numerator: ratio for ratio in reversed(record.ratios)}
    return NewCases(found.sha256, cases, found.without_ratio + learnt_rows, definitions)


def _learnt(run: Path) -> frozenset[tuple[str, str]]:
    """Return the images, by their sha256, and the groups that a run learnt from."""
    try:
        with (run / SPLITS).open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise WssegError(
            f"{run} has no {SPLITS}, which tells the cases that it learnt from: restore that file, "
            "or export without --calibrate"
        ) from error
    learnt = [line for line in lines if line.get("split") in LEARNT]
    if not all(line.get(IMAGE_SHA256) for line in learnt):
        raise WssegError(
            f"{run} is of an early version, whose {SPLITS} does not tell which images it learnt "
            "from: train again, or export without --calibrate"
        )
    # Only the group's name counts: the image of the case lies wherever it lay then.
    named = (Case(0, Path(), (), group=line["group"]) for line in learnt if line["group"])
    return frozenset(("image", line[IMAGE_SHA256]) for line in learnt) | frozenset(
        group_key(case) for case in named
    )


def calibration(folder: Path, manifest: Manifest, new: NewCases) -> Calibration:
    """Measure the cases with the engines of a model folder, and return what intervals need.

    Cases that cannot be measured are left out with a warning. Raises WssegError if no ratio is
    recorded for enough groups.
    """
    engine = _engine(folder, manifest)
    measured, failures = _measured(engine, manifest, new.cases)
    for failure in failures:  # not its message, which names the file
        logger.warning("%s is left out of the intervals: %s", failure.source, failure.reason)
    groups = ["\0".join(group) for group in one_spelling(new.cases)]
    ratios, used = [], set[int]()
    for definition in manifest.ratios:
        recorded = new.definitions.get(definition.numerator)
        if recorded is None or recorded.denominator != definition.denominator:
            logger.warning("%s has no intervals: no column records this ratio", definition.name)
            continue
        one, rows = _of_ratio(definition, manifest, new.cases, measured, groups)
        used |= rows
        if one is not None:
            ratios.append(one)
    if not ratios:
        raise WssegError(
            f"no ratio was recorded and measured for {groups_needed(DEFAULT_COVERAGE)} groups "
            "(patients), which intervals take: add cases to the table of --calibrate"
        )
    file = next(entry for entry in manifest.engines if entry.file == engine.file)
    return Calibration(
        cases_sha256=new.cases_sha256,
        left_out=new.left_out + len(new.cases) - len(used),
        engine_sha256=file.sha256,
        floor=FLOOR,
        ratios=tuple(ratios),
    )


def _engine(folder: Path, manifest: Manifest) -> Engine:
    """Return the most exact engine of the folder that ONNX Runtime runs."""
    precisions = [e.precision for e in manifest.engines if e.runtime == "onnxruntime"]
    best = next(name for name in ("fp32", "fp16", "int8") if name in precisions)
    return open_engine(folder, manifest, EngineOptions(engine="onnxruntime", precision=best))


def _of_ratio(
    definition: RatioDefinition,
    manifest: Manifest,
    cases: Sequence[Case],
    measured: Mapping[int, tuple[PixelCounts, SoftAreas]],
    groups: Sequence[str],
) -> tuple[RatioCalibration | None, set[int]]:
    """Return a ratio's calibration, None for too few groups, and the rows that have a score."""
    class_index = manifest.classes.index(definition.numerator)
    rows, errors, scales, found, names = [], [], [], [], []
    for case, group in zip(cases, groups, strict=True):
        areas, recorded = measured.get(case.row), case.ratios[class_index]
        if areas is None or recorded is None:
            continue
        one = measured_ratio(definition, manifest.classes, *areas)
        ratio, scale = float(one.ratios[0]), float(one.scale()[0])
        if np.isfinite(ratio) and np.isfinite(scale):
            rows.append(case.row)
            errors.append(abs(ratio - recorded))
            scales.append(scale)
            found.append(ratio)
            names.append(group)
    if len(set(names)) < groups_needed(DEFAULT_COVERAGE):
        logger.warning(
            "%s has no intervals: it was recorded and measured for %d groups (patients), and these "
            "take %d",
            definition.name,
            len(set(names)),
            groups_needed(DEFAULT_COVERAGE),
        )
        return None, set(rows)
    values = np.array([errors, scales, found])
    return calibrated(definition.name, values[0], values[1], values[2], names), set(rows)


def _measured(
    engine: Engine, manifest: Manifest, cases: Sequence[Case]
) -> tuple[dict[int, tuple[PixelCounts, SoftAreas]], list[Failure]]:
    """Return the areas of the cases that the network saw, by row, and what could not be measured.

    A skipped slice is neither.
    """
    segment = Segmenter(
        engine, len(manifest.classes), manifest.channels, Limits(BATCH), keep_labels=False
    )
    measured: dict[int, tuple[PixelCounts, SoftAreas]] = {}
    failures = []
    for case, item in zip(cases, segment(_scans(cases, manifest)), strict=True):
        if isinstance(item, Failure):
            failures.append(item)
        elif isinstance(item, MeasuredScan) and item.areas.soft and not item.skipped:
            measured[case.row] = pixel_counts(item), item.areas.soft
    return measured, failures


def _scans(cases: Sequence[Case], manifest: Manifest) -> Iterator[InspectedScan | Failure]:
    """Read the slice of each case as a scan of its own, and inspect it as serving does."""
    rule = skip_empty(manifest.window)
    for case in cases:
        line = f"line {case.row}"  # its name may be a patient's
        try:
            pixels, origin = read_slice_and_origin(
                case.image, slice_index=case.slice_index, volume=case.volume
            )
        except ReadError as error:
            yield Failure(line, error.reason, str(error))
            continue
        _, no_unit = UNITS.get(origin.modality, ("", ""))
        yield inspect(
            Scan(
                pixels[np.newaxis],
                Geometry(),
                (SliceId(line),),
                ScanRef("picture", (FileRef(case.image, line),)),
                modality=origin.modality,
                flags=(no_unit,) if origin.unit == NO_UNIT else (),
            ),
            rule,
        )
