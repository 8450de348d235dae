"""`--sr`: the measurements of each scan as a DICOM structured report."""

import hashlib
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from wsseg.imaging.definitions import RatioDefinition
from wsseg.imaging.dicom.derived import (
    SourceHeaders,
    derived_uid,
    require_highdicom,
    series_number,
    source_time,
)
from wsseg.imaging.dicom.file import silence_pydicom
from wsseg.imaging.dicom.seg_writer import write_dataset
from wsseg.imaging.dicom.sr_findings import (
    Algorithm,
    ClassFindings,
    Finding,
    RatioFinding,
    ReportIdentity,
    Segments,
    SliceSource,
)
from wsseg.imaging.dicom.sr_writer import build_report
from wsseg.imaging.errors import unquoted
from wsseg.imaging.label_maps import safe_name
from wsseg.serve.dicom_outputs import SEGMENTATIONS, Sources
from wsseg.serve.intervals import Intervals
from wsseg.serve.manifest import Manifest
from wsseg.serve.measure import MeasuredScan, series_ratio, slice_ratios
from wsseg.serve.outputs import Output
from wsseg.serve.report import Provenance, SeriesRatio, SliceRatio

SERIES_NUMBER = 2000
"""What is added to the number of the source's series, so that reports lie behind the images."""

SINGLE_FRAME = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("1", "2", "4", "6.1", "7", "128")
)
"""Classes of CR, CT, MR, ultrasound, secondary captures and PET whose objects have one frame. Some
programs write more all the same, but a reference to a frame of them would not be valid."""

_REPORTED = {"classes", "ratios", "thresholds", "codes", "training", "calibration"}


def structured_reports(
    folder: Path,
    manifest: Manifest,
    provenance: Provenance,
    intervals: Intervals | None,
    sources: Sources,
) -> Output:
    """One Comprehensive SR for each scan of DICOM files.

    It has the patient's identity, as its series does, and belongs to the same study. It refers to
    the segments of the segmentation, if there is one. Raises WssegError without highdicom.
    """
    require_highdicom("--sr")
    used = algorithm(manifest, provenance, intervals)

    def write(measured: MeasuredScan, folder: Path, made: dict[str, Any]) -> None:
        scan = measured.scan
        segments: Segments | None = made.get(SEGMENTATIONS)
        with silence_pydicom, unquoted("making it"):  # warnings of highdicom quote names
            headers = sources.headers(scan, made)
            report = build_report(
                headers.instances,
                _sources(measured, headers),
                findings(measured, manifest, intervals),
                codes=manifest.codes,
                algorithm=used,
                identity=_identity(measured, headers, manifest, used, segments),
                segments=segments,
            )
            write_dataset(report, folder / f"{safe_name(scan)}.sr.dcm")

    return Output("structured reports", folder, write, prepare=sources.prepare)


def _sources(measured: MeasuredScan, headers: SourceHeaders) -> list[SliceSource]:
    """The image of each slice, with its frame where the image may have several.

    A mosaic is one frame, whichever tile a slice is.
    """
    sources = []
    for one, at in zip(measured.scan.slices, headers.of_slice, strict=True):
        header = headers.instances[at]
        frames = int(header.get("NumberOfFrames") or 1)
        sop_class = str(header.SOPClassUID)
        frame = one.frame if frames > 1 and sop_class not in SINGLE_FRAME else None
        sources.append(SliceSource(sop_class, one.instance_uid, frame))
    return sources


def _identity(
    measured: MeasuredScan,
    headers: SourceHeaders,
    manifest: Manifest,
    used: Algorithm,
    segments: Segments | None,
) -> ReportIdentity:
    """UIDs that follow from the slices, the model and the settings.

    Of the model, all that numbers and flags depend on: intervals come from its calibration, flags
    from what it saw in training.
    """
    scan = measured.scan
    settings = manifest.model_dump_json(include=_REPORTED)
    slices = (f"{one.instance_uid} {one.frame or ''}" for one in scan.slices)
    content = (scan.ref.part, *slices, *sorted(measured.skipped), settings, repr(used))
    referred = str(segments.header.SOPInstanceUID) if segments else ""
    digest = hashlib.sha256("\n".join(map(str, content)).encode()).hexdigest()
    return ReportIdentity(
        uid=partial(derived_uid, "sr", digest, referred),
        series_number=series_number(headers.instances[0], SERIES_NUMBER),
        created=source_time(headers.instances),
        complete=not scan.failures,
    )


def findings(
    measured: MeasuredScan, manifest: Manifest, intervals: Intervals | None = None
) -> tuple[ClassFindings, ...]:
    """What was measured of each class, with the ratios whose numerator it is.

    The slices are those that show the class, because a report of hundreds of zeros hides what was
    found; the finding of the whole scan counts them and all. A scan of one slice has that slice,
    whatever it shows, and no finding of the whole.
    """
    return tuple(_of_class(measured, manifest, name, intervals) for name in manifest.classes)


def algorithm(
    manifest: Manifest, provenance: Provenance, intervals: Intervals | None = None
) -> Algorithm:
    """What measured, with the settings on which the numbers depend."""
    thresholds = zip(manifest.classes, manifest.thresholds, strict=True)
    return Algorithm(
        model=manifest.name,
        sha256=provenance.model_sha256,
        version=provenance.wsseg_version,
        facts=(
            f"engine {provenance.engine} {provenance.precision}",
            *(f"threshold of {name}: {threshold}" for name, threshold in thresholds),
            *([f"coverage of the intervals: {intervals.coverage}"] if intervals else ()),
        ),
    )


def _of_class(
    measured: MeasuredScan, manifest: Manifest, name: str, intervals: Intervals | None
) -> ClassFindings:
    defined = [ratio for ratio in manifest.ratios if ratio.numerator == name]
    # Only the area of a class that no ratio measures.
    asked = defined or [RatioDefinition(name=name, numerator=name)]
    by_ratio = (slice_ratios(measured, manifest, ratio, intervals) for ratio in asked)
    of_slices = list(zip(*by_ratio, strict=True))
    general = measured.scan.flags
    slices = {
        index: Finding(
            size=rows[0].numerator_mm2,
            ratios=tuple(map(_slice_finding, rows)) if defined else (),
            flags=_flags(rows, without=() if len(of_slices) == 1 else general),
        )
        for index, rows in enumerate(of_slices)
        if rows[0].numerator_px or len(of_slices) == 1
    }
    if len(of_slices) == 1:
        return ClassFindings(name, None, slices)
    series = [series_ratio(measured, manifest, ratio) for ratio in asked]
    whole = Finding(
        size=series[0].numerator_mm3,
        ratios=tuple(map(_series_finding, series)) if defined else (),
        flags=_flags(series),
        showing=len(slices),
    )
    return ClassFindings(name, whole, slices)


def _slice_finding(row: SliceRatio) -> RatioFinding:
    return RatioFinding(
        numerator=row.numerator,
        denominator=row.denominator,
        value=row.ratio,
        low=row.ratio_low,
        high=row.ratio_high,
        confidence=row.confidence,
    )


def _series_finding(row: SeriesRatio) -> RatioFinding:
    return RatioFinding(
        numerator=row.numerator,
        denominator=row.denominator,
        value=row.volume_ratio,
        mean=row.mean_ratio,
    )


def _flags(
    rows: Sequence[SliceRatio] | Sequence[SeriesRatio], without: Collection[str] = ()
) -> tuple[str, ...]:
    """The flags of all rows, each once, in their order."""
    every = (flag for row in rows for flag in row.flags.split(";") if flag)
    return tuple(flag for flag in dict.fromkeys(every) if flag not in without)
