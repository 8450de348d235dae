"""Rows that tell of recovered masks; they are no measurements, and kept apart from those."""

from wsseg.serve.cut import RecoveredMask
from wsseg.serve.likeness import OUTSIDE_WINDOW
from wsseg.serve.manifest import Manifest
from wsseg.serve.measure import slice_origin, status_of
from wsseg.serve.rows import Provenance, RecoveredRatio, RecoveredRow
from wsseg.serve.segmented import Segmented
from wsseg.serve.skip import SKIPPED_EMPTY

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
