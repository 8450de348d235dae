"""Results of slices and scans: areas and label maps, and the rows of the report made from them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import PixelCounts, RatioDefinition, denominator_of, known, quotient
from wsseg.imaging.errors import Failure
from wsseg.imaging.parts import count_parts
from wsseg.imaging.scan import Geometry, Scan, ScanRef
from wsseg.serve.empty_slices import SKIPPED_EMPTY
from wsseg.serve.engines.base import Prediction
from wsseg.serve.inspection import OUT_OF_RANGE
from wsseg.serve.intervals import LOW_CONFIDENCE, WIDE_INTERVAL, Bounds, Intervals, SoftAreas
from wsseg.serve.manifest import Manifest
from wsseg.serve.recover import Recovered
from wsseg.serve.report import (
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

EMPTY = "EMPTY"
MANY_PARTS = "MANY_PARTS"
BORDER = "BORDER"
EMPTY_DENOMINATOR = "EMPTY_DENOMINATOR"
FAR_FROM_PREDICTED = "FAR_FROM_PREDICTED"
TIED = "TIED"
RECOMPUTED_FP32 = "RECOMPUTED_FP32"
# Nothing was seen between the slices on both sides of a gap, so a thickness would be invented.
NO_VOLUME = frozenset({"GAP"})
# Share of the known ratio. Beyond it model and record hardly mean the same region: the wrong slice,
# a percentage, or a model that fails here.
FAR = 0.5

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Areas:
    """Areas on the slices of a scan.

    pixel: (slice, class) pixels of each class's mask. border: (slice, class) whether the mask
    touches the edge of the image. foreground: (slice,) pixels that belong to any class. parts:
    (slice, class) connected parts of the mask, see `count_parts`; 0 where they were not counted.
    soft: what the probability tells of the areas; None where nothing was computed.
    """

    pixel: NDArray[np.int64]
    border: NDArray[np.bool_]
    foreground: NDArray[np.int64]
    parts: NDArray[np.int64]
    soft: SoftAreas | None = None


@dataclass(frozen=True)
class MeasuredScan:
    """A scan with all of its slices measured.

    labels: (slice, row, column) labels 1..k, or 0; where classes overlap the later one wins, while
    `areas` come from each class's own mask. None where no label maps were asked for. recovered:
    masks of recorded ratios; None where no ratio is recorded for any slice. skipped: indices of the
    slices that cannot show tissue, whose areas are 0 without having been computed. outside: indices
    of the slices whose values lie outside the range that the model was trained on. packed: (slice,
    class, bytes) eight pixels of a class's own mask a byte, see `masks`; None where no output needs
    them. probability: (slice, class, row, column), see `stored_probability`, 0 on skipped slices;
    None likewise. key: of the scan in the journal, "" without one. recomputed: indices of the
    slices that the fallback engine computed, see `batching.Fallback`.
    """

    scan: Scan
    areas: Areas
    labels: NDArray[np.uint8] | None
    recovered: Recovered | None = None
    skipped: frozenset[int] = frozenset()
    outside: frozenset[int] = frozenset()
    packed: NDArray[np.uint8] | None = None
    probability: NDArray[Any] | None = None
    key: str = ""
    recomputed: set[int] = field(default_factory=set)

    @property
    def masks(self) -> NDArray[np.uint8]:
        """The mask (slice, row, column, class) of each class, 0 or 1, also where they overlap.

        In memory the pixels of a class lie together, which makes sums over classes ten times
        faster. Raises ValueError if they were not kept.
        """
        if self.packed is None:
            raise ValueError("masks were not kept for this scan")
        rows, columns = self.scan.pixels.shape[1:3]
        flat = np.unpackbits(self.packed, axis=2, count=rows * columns)
        by_class = flat.reshape(*flat.shape[:2], rows, columns)
        return np.moveaxis(by_class, 1, 3)

    def shared_pixels(self) -> int:
        """Number of pixels that belong to several classes; needs the masks, as `masks` does."""
        if self.packed is None:
            raise ValueError("masks were not kept for this scan")
        once = self.packed[:, 0]
        shared = np.zeros_like(once)
        for each in np.moveaxis(self.packed, 1, 0)[1:]:
            shared |= once & each
            once = once | each
        return int(np.unpackbits(shared).sum())

    def nbytes(self) -> int:
        """Bytes of the pixels, the masks, the label maps and the probability."""
        recovered = self.recovered.labels if self.recovered else None
        maps = (self.labels, self.packed, self.probability, recovered)
        return self.scan.pixels.nbytes + sum(each.nbytes for each in maps if each is not None)


@dataclass(frozen=True)
class SliceResult:
    """The result of one slice, small enough to be kept for slices that equal it.

    pixel, border, parts: (class,) as in `Areas`. foreground: pixels. labels: packed label map, see
    `pack`. soft_area, variance: (class,) as in `SoftAreas`. masks: (class, bytes), and
    probability: (class, row, column), as in `MeasuredScan`. recomputed: whether the fallback engine
    computed it.
    """

    pixel: NDArray[np.int64]
    border: NDArray[np.bool_]
    foreground: int
    parts: NDArray[np.int64]
    labels: NDArray[np.uint8] | None
    soft_area: NDArray[np.float32] | None = None
    variance: NDArray[np.float32] | None = None
    masks: NDArray[np.uint8] | None = None
    probability: NDArray[Any] | None = None
    recomputed: bool = False

    def store(self, measured: MeasuredScan, index: int) -> None:
        """Write the result into slice `index` of a scan."""
        measured.areas.pixel[index] = self.pixel
        measured.areas.border[index] = self.border
        measured.areas.foreground[index] = self.foreground
        measured.areas.parts[index] = self.parts
        if self.recomputed:
            measured.recomputed.add(index)
        if measured.areas.soft and self.soft_area is not None and self.variance is not None:
            measured.areas.soft.area[index] = self.soft_area
            measured.areas.soft.variance[index] = self.variance
        if measured.labels is not None and self.labels is not None:
            measured.labels[index] = unpack(self.labels, measured.labels.shape[1:])
        if measured.packed is not None and self.masks is not None:
            measured.packed[index] = self.masks
        if measured.probability is not None and self.probability is not None:
            measured.probability[index] = self.probability


def slice_results(
    prediction: Prediction,
    *,
    keep_labels: bool,
    keep_masks: bool = False,
    with_parts: bool = False,
) -> list[SliceResult | None]:
    """The result of each slice of a batch; None where the network's numbers are not finite.

    with_parts: count the connected parts of each mask.
    """
    masks = prediction.masks
    edges = (masks[..., 0, :], masks[..., -1, :], masks[..., :, 0], masks[..., :, -1])
    border = np.logical_or.reduce([edge.any(-1) for edge in edges])
    finite = np.logical_and.reduce(np.isfinite(prediction.soft_areas), axis=-1)
    results: list[SliceResult | None] = []
    for index in range(len(masks)):
        if not finite[index]:
            results.append(None)
            continue
        packed = None
        if keep_labels:
            labels = masks[index, 0].copy()
            for label, mask in enumerate(masks[index, 1:], start=2):
                labels[mask > 0] = label
            packed = pack(labels, masks.shape[1])
        foreground = int(np.count_nonzero(np.bitwise_or.reduce(masks[index], axis=0)))
        pixel = prediction.pixel_areas[index].copy()
        parts = [count_parts(mask) if with_parts else 0 for mask in masks[index]]
        variances = prediction.area_variances
        results.append(
            SliceResult(
                pixel,
                border[index],
                foreground,
                np.array(parts),
                packed,
                soft_area=prediction.soft_areas[index].copy(),
                variance=None if variances is None else variances[index].copy(),
                masks=np.packbits(masks[index].reshape(len(parts), -1) > 0, axis=1)
                if keep_masks
                else None,
            )
        )
    return results


def pack(labels: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
    """A label map (row, column) with labels up to `classes`, in as few bits as they need."""
    planes = [np.packbits(labels >> bit & 1) for bit in range(classes.bit_length())]
    return np.stack(planes)


def unpack(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The label map (row, column) that `pack` packed."""
    size = int(np.prod(shape))
    flat = np.zeros(size, np.uint8)
    for bit, plane in enumerate(packed):
        flat |= np.unpackbits(plane, count=size) << bit
    return flat.reshape(shape)


def failed_files(
    ref: ScanRef, reason: str, message: str, earlier: tuple[Failure, ...] = ()
) -> tuple[Failure, ...]:
    """One Failure for every file of a scan; `earlier` are files that have failed before."""
    sources = {failure.source for failure in earlier}
    rest = (file.source for file in ref.files if file.source not in sources)
    return (*earlier, *(Failure(source, reason, message) for source in rest))


def slice_rows(
    measured: MeasuredScan,
    manifest: Manifest,
    provenance: Provenance,
    intervals: Intervals | None = None,
) -> list[SliceRow]:
    """One row for each slice and ratio, slices first."""
    ratios = [slice_ratios(measured, manifest, ratio, intervals) for ratio in manifest.ratios]
    return [
        SliceRow(_origin(measured.scan, index), of_ratio[index], provenance)
        for index in range(len(measured.scan.slices))
        for of_ratio in ratios
    ]


def series_rows(
    measured: MeasuredScan, manifest: Manifest, provenance: Provenance
) -> list[SeriesRow]:
    """One row for each ratio, over all slices of a scan."""
    origin = series_origin(measured.scan)
    return [
        SeriesRow(origin, series_ratio(measured, manifest, definition), provenance)
        for definition in manifest.ratios
    ]


def series_origin(scan: Scan) -> SeriesOrigin:
    """The identity of a scan in the tables."""
    return SeriesOrigin(
        source=scan.ref.files[0].source,
        modality=scan.modality,
        study_uid=scan.study_uid,
        series_uid=scan.series_uid,
        frame=scan.ref.volume,
        part=scan.ref.part,
        plane=scan.plane,
    )


def recovered_rows(
    measured: MeasuredScan, manifest: Manifest, provenance: Provenance
) -> list[RecoveredRow]:
    """One row for each recovered mask of a scan, slices first.

    These are no measurements, and have a table of their own.
    """
    scan = measured.scan
    rows, columns = scan.pixels.shape[1:3]
    masks = measured.recovered.masks if measured.recovered else {}
    table = []
    for index, mask in ((i, mask) for i in sorted(masks) for mask in masks[i]):
        recorded = mask.known
        predicted = int(measured.areas.pixel[index, recorded.class_index]) / (rows * columns)
        own = {
            FAR_FROM_PREDICTED: is_far(recorded.ratio, predicted),
            TIED: mask.tied,
            SKIPPED_EMPTY: index in measured.skipped,
            OUT_OF_RANGE: index in measured.outside,
            RECOMPUTED_FP32: index in measured.recomputed,
        }
        flags, status = _flags_and_status(scan, own)
        ratio = RecoveredRatio(
            ratio_name=recorded.ratio_name,
            class_name=manifest.classes[recorded.class_index],
            known_ratio=recorded.ratio,
            predicted_ratio=predicted,
            pixels=mask.pixels,
            image_pixels=rows * columns,
            threshold=mask.threshold,
            mean_probability=mask.mean_probability,
            flags=flags,
            status=status,
        )
        table.append(RecoveredRow(_origin(scan, index), ratio, provenance))
    return table


def slice_ratios(
    measured: MeasuredScan,
    manifest: Manifest,
    definition: RatioDefinition,
    intervals: Intervals | None = None,
) -> list[SliceRatio]:
    """One ratio on every slice of a scan.

    Areas are counted on each class's own mask, also where masks overlap. mm2 are unknown if the
    source gives no pixel size, and a ratio if its denominator has no pixel. There is no interval of
    an unknown ratio, of a skipped slice, and for a model without `intervals`.
    """
    counts = pixel_counts(measured)
    numerator, denominator = _areas_of(definition, counts, manifest)
    touching = measured.areas.border[:, manifest.classes.index(definition.numerator)]
    many = _many_parts(measured, manifest, definition)
    pixel_mm2 = _pixel_mm2(measured.scan.geometry)
    ratios = quotient(numerator, denominator)
    soft = measured.areas.soft
    bounds = intervals.bounds(definition, counts, soft) if intervals and soft else None
    bounds = bounds or Bounds.unknown(len(ratios))
    rows = []
    for index, (above, below, border) in enumerate(
        zip(numerator.tolist(), denominator.tolist(), touching.tolist(), strict=True)
    ):
        own = {
            EMPTY: not above,
            BORDER: border,
            EMPTY_DENOMINATOR: not below,
            MANY_PARTS: many[index],
            SKIPPED_EMPTY: index in measured.skipped,
            OUT_OF_RANGE: index in measured.outside,
            RECOMPUTED_FP32: index in measured.recomputed,
            LOW_CONFIDENCE: bool(bounds.unsure[index]),
            WIDE_INTERVAL: bool(bounds.wide[index]),
        }
        flags, status = _flags_and_status(measured.scan, own)
        rows.append(
            SliceRatio(
                ratio_name=definition.name,
                numerator=definition.numerator,
                denominator=definition.denominator,
                numerator_px=above,
                denominator_px=below,
                numerator_mm2=None if pixel_mm2 is None else above * pixel_mm2,
                denominator_mm2=None if pixel_mm2 is None else below * pixel_mm2,
                ratio=known(ratios[index]),
                ratio_low=known(bounds.low[index]),
                ratio_high=known(bounds.high[index]),
                confidence=known(bounds.confidence[index]),
                flags=flags,
                status=status,
            )
        )
    return rows


def series_ratio(
    measured: MeasuredScan, manifest: Manifest, definition: RatioDefinition
) -> SeriesRatio:
    """One ratio over all slices.

    The volumes are unknown without a pixel size or slice positions, for a single slice, and if a
    slice is missing (GAP). volume_ratio weights all slices evenly if positions are unknown or a
    slice is missing. The flags are those of the scan, and of its slices: EMPTY if no slice has the
    class, SKIPPED_EMPTY if all were skipped, OUT_OF_RANGE if any slice lies outside the trained
    range, RECOMPUTED_FP32 if any was computed again, MANY_PARTS if any slice has more parts than
    are usual.
    """
    numerator, denominator = _areas_of(definition, pixel_counts(measured), manifest)
    touching = measured.areas.border[:, manifest.classes.index(definition.numerator)]
    geometry = measured.scan.geometry
    has_gap = not NO_VOLUME.isdisjoint(measured.scan.flags)
    thickness = None if has_gap else slice_thickness_mm(geometry)
    weights = np.ones(len(numerator)) if thickness is None else thickness
    above, below = float(numerator @ weights), float(denominator @ weights)
    pixel_mm2 = None if thickness is None else _pixel_mm2(geometry)
    pixels, denominator_pixels = int(numerator.sum()), int(denominator.sum())
    there = denominator > 0
    mean = quotient(numerator, denominator)[there].mean() if there.any() else np.nan
    own = {
        EMPTY: not pixels,
        BORDER: bool(touching.any()),
        EMPTY_DENOMINATOR: not denominator_pixels,
        MANY_PARTS: any(_many_parts(measured, manifest, definition)),
        SKIPPED_EMPTY: len(measured.skipped) == len(numerator) > 0,
        OUT_OF_RANGE: bool(measured.outside),
        RECOMPUTED_FP32: bool(measured.recomputed),
    }
    flags, status = _flags_and_status(measured.scan, own)
    return SeriesRatio(
        ratio_name=definition.name,
        numerator=definition.numerator,
        denominator=definition.denominator,
        slices=len(numerator),
        numerator_px=pixels,
        denominator_px=denominator_pixels,
        numerator_mm3=None if pixel_mm2 is None else above * pixel_mm2,
        denominator_mm3=None if pixel_mm2 is None else below * pixel_mm2,
        volume_ratio=known(quotient(above, below)),
        mean_ratio=known(mean),
        flags=flags,
        status=status,
    )


def pixel_counts(measured: MeasuredScan) -> PixelCounts:
    """Pixels on each slice, (slice,)."""
    rows, columns = measured.scan.pixels.shape[1:3]
    return PixelCounts(measured.areas.pixel, measured.areas.foreground, rows * columns)


def _areas_of(
    definition: RatioDefinition, counts: PixelCounts, manifest: Manifest
) -> tuple[Counts, Counts]:
    """Pixels of numerator and denominator on each slice, both (slice,)."""
    numerator = counts.of(manifest.classes.index(definition.numerator))
    return numerator, counts.of(denominator_of(definition, manifest.classes))


def _many_parts(
    measured: MeasuredScan, manifest: Manifest, definition: RatioDefinition
) -> list[bool]:
    """Whether the numerator has more parts than are usual in training, on each slice."""
    usual = manifest.training.parts.get(definition.numerator)
    parts = measured.areas.parts[:, manifest.classes.index(definition.numerator)]
    return [usual is not None and count > usual for count in parts.tolist()]


def slice_thickness_mm(geometry: Geometry) -> NDArray[np.float64] | None:
    """How much of the patient each slice stands for, in mm along the normal, from its position.

    A slice reaches to the midpoints between it and its neighbours; the first and last reach as far
    outwards as inwards. None if positions are unknown, single or repeated.
    """
    positions = geometry.positions_mm
    if positions is None or len(positions) < 2:
        return None
    gaps = np.abs(np.diff(positions))
    if not (np.isfinite(gaps) & (gaps > 0)).all():
        return None
    widths: NDArray[np.float64] = (np.append(gaps[:1], gaps) + np.append(gaps, gaps[-1:])) / 2
    return widths


def is_far(recorded: float, predicted: float) -> bool:
    """Whether the ratios differ by more than half of the recorded one."""
    return abs(predicted - recorded) > FAR * recorded


def _pixel_mm2(geometry: Geometry) -> float | None:
    if geometry.pixel_mm is None:
        return None
    row, column = geometry.pixel_mm
    return float(row * column)


def _flags_and_status(scan: Scan, own: dict[str, bool]) -> tuple[str, str]:
    """The cells `flags` and `status` of a row: the flags of the scan, then those that hold."""
    flags = (*scan.flags, *(flag for flag, holds in own.items() if holds))
    return ";".join(flags), "ok_flagged" if any(flags) else "ok"


def _origin(scan: Scan, index: int) -> SliceOrigin:
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
