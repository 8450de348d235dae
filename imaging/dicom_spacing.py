"""How far apart pixels are: the header has many answers, of unequal worth."""

import math

from pydicom.dataset import Dataset

from wsseg.imaging.dicom_classes import is_x_ray
from wsseg.imaging.dicom_values import integer, items, lengths, number, text

PixelSize = tuple[float, float]

PX_ONLY = "PX_ONLY"
CONFLICT = "SPACING_CONFLICT"
DETECTOR_PLANE = "DETECTOR_PLANE"

# Codes of the ultrasound region calibration (DICOM PS3.3 C.8.5.5.1).
_CENTIMETRES = 3
_TWO_DIMENSIONAL = 1
_MM_PER_CM = 10
# Lengths of one header that agree to this are one length, rounded differently.
_SAME_SCALE = 0.01
# A body lies between source and detector: it is never imaged smaller than it is, and hardly ever
# this much larger.
_MOST_MAGNIFIED = 3.0


def pixel_size(
    dataset: Dataset, of_frame: PixelSize | None = None
) -> tuple[PixelSize | None, set[str]]:
    """(row, column) distance in mm, the most trustworthy the header has, and flags about it.

    of_frame: what the functional groups of a frame say. DETECTOR_PLANE: measured where an X-ray
    projection fell, or on the film that was scanned, and not in the patient. PX_ONLY: the header
    gives no length. SPACING_CONFLICT, with PX_ONLY: it gives several that contradict each other,
    and nothing tells which of them is true.
    """
    given = lengths(dataset, "PixelSpacing")
    in_body = [size for size in (of_frame, given, *_ultrasound_scales(dataset)) if size]
    projected = lengths(dataset, "ImagerPixelSpacing")
    film = lengths(dataset, "NominalScannedPixelSpacing")
    calibrated = bool(text(dataset, "PixelSpacingCalibrationType"))
    if in_body and not all(_same(size, in_body[0]) for size in in_body):
        return None, {PX_ONLY, CONFLICT}
    if not in_body:
        if projected:
            return _magnified(projected, dataset), {DETECTOR_PLANE}
        return (film, {DETECTOR_PLANE}) if film else (None, {PX_ONLY})
    size = in_body[0]
    x_ray = is_x_ray(text(dataset, "SOPClassUID"), text(dataset, "Modality"))
    if x_ray and projected:
        if _same(size, projected):
            return _magnified(projected, dataset), {DETECTOR_PLANE}
        return (size, set()) if _casts(size, projected) else (None, {PX_ONLY, CONFLICT})
    if film and not calibrated:
        return (size, {DETECTOR_PLANE}) if _same(size, film) else (None, {PX_ONLY, CONFLICT})
    return size, {DETECTOR_PLANE} if x_ray and not calibrated else set()


def _casts(body: PixelSize, detector: PixelSize) -> bool:
    """Whether pixels of that size in the body can be what the detector saw, magnified."""
    rows, columns = (detector[axis] / body[axis] for axis in (0, 1))
    alike = math.isclose(rows, columns, rel_tol=2 * _SAME_SCALE)
    return alike and 1 - _SAME_SCALE <= rows <= _MOST_MAGNIFIED


def _magnified(detector: PixelSize, dataset: Dataset) -> PixelSize:
    factor = number(dataset, "EstimatedRadiographicMagnificationFactor")
    if factor is None or not 1 <= factor <= _MOST_MAGNIFIED:
        return detector
    return detector[0] / factor, detector[1] / factor


def _ultrasound_scales(dataset: Dataset) -> list[PixelSize]:
    """The scales of all calibrated two-dimensional regions."""
    regions = items(dataset, "SequenceOfUltrasoundRegions")
    return [scale for region in regions if (scale := _region_scale(region))]


def _same(first: PixelSize, second: PixelSize) -> bool:
    return all(math.isclose(first[axis], second[axis], rel_tol=_SAME_SCALE) for axis in (0, 1))


def _region_scale(region: Dataset) -> PixelSize | None:
    units = {integer(region, f"PhysicalUnits{axis}Direction") for axis in "XY"}
    if units != {_CENTIMETRES} or integer(region, "RegionSpatialFormat") != _TWO_DIMENSIONAL:
        return None
    row, column = (number(region, f"PhysicalDelta{axis}") for axis in "YX")
    if not row or not column:
        return None
    # Deltas are negative where an axis points against the pixel order.
    return abs(row) * _MM_PER_CM, abs(column) * _MM_PER_CM
