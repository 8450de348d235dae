"""Rows that tell of recovered masks; they are no measurements, and kept apart from those."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import PixelCounts, RatioDefinition, denominator_of, known, quotient
from wsseg.imaging.scan import Geometry, Scan
from wsseg.serve.empty_slices import SKIPPED_EMPTY
from wsseg.serve.likeness import OUTSIDE_WINDOW
from wsseg.serve.manifest import Manifest
from wsseg.serve.recover import RecoveredMask
from wsseg.serve.results import Segmented
from wsseg.serve.tables import (
    Provenance,
    RecoveredRatio,
    RecoveredRow,
    SeriesOrigin,
    SeriesRatio,
    SeriesRow,
    SliceOrigin,
    SliceRatio,
    SliceRow,
)

# Areas to ratios, square and cubic millimetres, per slice and per scan.

EMPTY = "EMPTY"
BORDER = "BORDER"
EMPTY_DENOMINATOR = "EMPTY_DENOMINATOR"
# Between the slices on both sides of a gap nothing was seen: a thickness would be a guess.
NO_VOLUME = frozenset({"GAP"})

Counts = NDArray[np.int64]


def slice_rows(found: Segmented, manifest: Manifest, provenance: Provenance) -> list[SliceRow]:
    """One row for each slice and ratio, slices first.

    Areas are counted on each class's own mask, also where masks overlap. mm2 are unknown where the
    source gives no pixel size, a ratio where its denominator has no pixel.
    """
    ratios = [slice_ratios(found, manifest, definition) for definition in manifest.ratios]
    return [
        SliceRow(slice_origin(found.scan, index), of_ratio[index], provenance)
        for index in range(len(found.scan.slices))
        for of_ratio in ratios
    ]


def slice_ratios(
    found: Segmented, manifest: Manifest, definition: RatioDefinition
) -> list[SliceRatio]:
    """One ratio on every slice of a scan."""
    numerator, denominator = pixel_counts(found, manifest, definition)
    touching = found.areas.border[:, manifest.classes.index(definition.numerator)]
    pixel_mm2 = _pixel_mm2(found.scan.geometry)
    ratios = quotient(numerator, denominator)
    rows = []
    for index, (above, below, border) in enumerate(
        zip(numerator.tolist(), denominator.tolist(), touching.tolist(), strict=True)
    ):
        own = {
            BORDER: border,
            SKIPPED_EMPTY: index in found.skipped,
            OUTSIDE_WINDOW: index in found.outside,
        }
        flags = _flags(found.scan, above, below, own)
        rows.append(
            SliceRatio(
                ratio_name=definition.name,
                numerator=definition.numerator,
                denominator=definition.denominator,
                numerator_px=above,
                denominator_px=below,
                numerator_mm2=_times(above, pixel_mm2),
                denominator_mm2=_times(below, pixel_mm2),
                ratio=known(ratios[index]),
                ratio_low=None,
                ratio_high=None,
                confidence=None,
                flags=";".join(flags),
                status=status_of(flags),
            )
        )
    return rows


def series_rows(found: Segmented, manifest: Manifest, provenance: Provenance) -> list[SeriesRow]:
    """One row for each ratio, over all slices of a scan."""
    scan = found.scan
    origin = SeriesOrigin(
        source=scan.ref.files[0].source,
        modality=scan.modality,
        study_uid=scan.study_uid,
        series_uid=scan.series_uid,
        frame=scan.ref.volume,
        part=scan.ref.part,
        plane=scan.plane,
    )
    return [
        SeriesRow(origin, series_ratio(found, manifest, definition), provenance)
        for definition in manifest.ratios
    ]


def series_ratio(found: Segmented, manifest: Manifest, definition: RatioDefinition) -> SeriesRatio:
    """One ratio over all slices.

    The volumes are unknown without a pixel size or slice positions, for a single slice, and where
    a slice is missing (GAP); volume_ratio weights all slices evenly where positions are unknown or
    a slice is missing. Flags of the scan, and of the slices: EMPTY if no slice has the class,
    SKIPPED_EMPTY if none was run, OUTSIDE_WINDOW if any slice lies outside the trained range.
    """
    numerator, denominator = pixel_counts(found, manifest, definition)
    touching = found.areas.border[:, manifest.classes.index(definition.numerator)]
    guessed = not NO_VOLUME.isdisjoint(found.scan.flags)
    thickness = None if guessed else slice_thickness_mm(found.scan.geometry)
    weights = np.ones(len(numerator)) if thickness is None else thickness
    above, below = float(numerator @ weights), float(denominator @ weights)
    pixel_mm2 = None if thickness is None else _pixel_mm2(found.scan.geometry)
    own = {
        BORDER: bool(touching.any()),
        SKIPPED_EMPTY: len(found.skipped) == len(numerator) > 0,
        OUTSIDE_WINDOW: bool(found.outside),
    }
    flags = _flags(found.scan, int(numerator.sum()), int(denominator.sum()), own)
    return SeriesRatio(
        ratio_name=definition.name,
        numerator=definition.numerator,
        denominator=definition.denominator,
        slices=len(numerator),
        numerator_px=int(numerator.sum()),
        denominator_px=int(denominator.sum()),
        numerator_mm3=_times(above, pixel_mm2),
        denominator_mm3=_times(below, pixel_mm2),
        volume_ratio=known(quotient(above, below)),
        mean_ratio=_mean_ratio(numerator, denominator),
        flags=";".join(flags),
        status=status_of(flags),
    )


def pixel_counts(
    found: Segmented, manifest: Manifest, definition: RatioDefinition
) -> tuple[Counts, Counts]:
    """Pixels of numerator and denominator on each slice, both (slice,)."""
    rows, columns = found.scan.pixels.shape[1:3]
    counts = PixelCounts(found.areas.pixel, found.areas.foreground, rows * columns)
    classes = manifest.classes
    numerator = counts.of(classes.index(definition.numerator))
    return numerator, counts.of(denominator_of(definition, classes))


def slice_thickness_mm(geometry: Geometry) -> NDArray[np.float64] | None:
    """How much of the patient each slice stands for, in mm along the normal, from its position.

    A slice reaches to the midpoints between it and its neighbours; the first and last reach as far
    outwards as inwards. None where positions are unknown, single or repeated.
    """
    positions = geometry.positions_mm
    if positions is None or len(positions) < 2:
        return None
    gaps = np.abs(np.diff(positions))
    if not (np.isfinite(gaps) & (gaps > 0)).all():
        return None
    widths: NDArray[np.float64] = (np.append(gaps[:1], gaps) + np.append(gaps, gaps[-1:])) / 2
    return widths


def _mean_ratio(numerator: Counts, denominator: Counts) -> float | None:
    there = denominator > 0
    return float(quotient(numerator, denominator)[there].mean()) if there.any() else None


def _pixel_mm2(geometry: Geometry) -> float | None:
    if geometry.pixel_mm is None:
        return None
    row, column = geometry.pixel_mm
    return float(row * column)


def _times(count: float, size: float | None) -> float | None:
    return None if size is None else count * size


def _flags(scan: Scan, numerator: int, denominator: int, own: dict[str, bool]) -> tuple[str, ...]:
    """The flags of the scan, then those of a row; own: which ones hold besides the areas'."""
    of_area = {EMPTY: not numerator, BORDER: False, EMPTY_DENOMINATOR: not denominator}
    of_row = of_area | own
    return (*scan.flags, *(flag for flag, holds in of_row.items() if holds))


def status_of(flags: Iterable[str]) -> str:
    """How tables sum up the flags of a row."""
    return "ok_flagged" if any(flags) else "ok"


def slice_origin(scan: Scan, index: int) -> SliceOrigin:
    """How tables name a slice."""
    identity = scan.slices[index]
    return SliceOrigin(
        source=identity.source,
        modality=scan.modality,
        study_uid=scan.study_uid,
        series_uid=scan.series_uid,
        instance_uid=identity.instance_uid,
        frame=identity.frame,
        slice=index,
        plane=scan.plane,
    )


FAR_FROM_PREDICTED = "FAR_FROM_PREDICTED"
TIED = "TIED"
# Of the known ratio. Beyond it model and record hardly mean the same region: the wrong slice, a
# percentage, or a model that fails here.
FAR = 0.5


def recovered_rows(
    found: Segmented, manifest: Manifest, provenance: Provenance
) -> list[RecoveredRow]:
    """One row for each recovered mask of a scan, slices first."""
    masks = found.recovered.masks if found.recovered else {}
    return [
        RecoveredRow(
            slice_origin(found.scan, index), _recovered(found, index, mask, manifest), provenance
        )
        for index in sorted(masks)
        for mask in masks[index]
    ]


def _recovered(
    found: Segmented, index: int, mask: RecoveredMask, manifest: Manifest
) -> RecoveredRatio:
    rows, columns = found.scan.pixels.shape[1:3]
    known = mask.known
    predicted = int(found.areas.pixel[index, known.place]) / (rows * columns)
    own = {
        FAR_FROM_PREDICTED: is_far(known.ratio, predicted),
        TIED: mask.tied,
        SKIPPED_EMPTY: index in found.skipped,
        OUTSIDE_WINDOW: index in found.outside,
    }
    flags = (*found.scan.flags, *(flag for flag, holds in own.items() if holds))
    return RecoveredRatio(
        ratio_name=known.ratio_name,
        class_name=manifest.classes[known.place],
        known_ratio=known.ratio,
        predicted_ratio=predicted,
        pixels=mask.pixels,
        image_pixels=rows * columns,
        threshold=mask.threshold,
        confidence=mask.confidence,
        flags=";".join(flags),
        status=status_of(flags),
    )


def is_far(known: float, predicted: float) -> bool:
    """Whether the two differ by more than half of the known ratio."""
    return abs(predicted - known) > FAR * known
