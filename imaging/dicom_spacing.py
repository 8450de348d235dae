"""How far apart pixels are: the header has many answers, of unequal worth."""

import math

from pydicom.dataset import Dataset

from wsseg.imaging.dicom_classes import is_x_ray
from wsseg.imaging.dicom_values import integer, items, lengths, number, text

PixelSize = tuple[float, float]

# Codes of the ultrasound region calibration (DICOM PS3.3 C.8.5.5.1).
_CENTIMETRES = 3
_TWO_DIMENSIONAL = 1
_MM_PER_CM = 10
# Lengths of one header that agree to this are one length, rounded differently.
_SAME_SCALE = 0.01


def pixel_size(dataset: Dataset) -> tuple[PixelSize | None, set[str]]:
    """(row, column) distance in mm, the most trustworthy the header has, and flags about it.

    DETECTOR_PLANE: measured where an X-ray projection fell, larger than in the patient.
    PX_ONLY: the header gives no length, or several that contradict each other.
    """
    given = lengths(dataset, "PixelSpacing")
    detector = lengths(dataset, "ImagerPixelSpacing")
    x_ray = is_x_ray(text(dataset, "SOPClassUID"))
    if given and not (x_ray and detector and _same(given, detector)):
        calibrated = not x_ray or bool(detector or text(dataset, "PixelSpacingCalibrationType"))
        return given, set() if calibrated else {"DETECTOR_PLANE"}
    if detector:
        return _magnified(detector, dataset), {"DETECTOR_PLANE"}
    found = lengths(dataset, "NominalScannedPixelSpacing") or _ultrasound_scale(dataset)
    return found, set() if found else {"PX_ONLY"}


def _magnified(detector: PixelSize, dataset: Dataset) -> PixelSize:
    factor = number(dataset, "EstimatedRadiographicMagnificationFactor")
    if factor is None or factor < 1:  # nothing is imaged smaller than it is
        return detector
    return detector[0] / factor, detector[1] / factor


def _ultrasound_scale(dataset: Dataset) -> PixelSize | None:
    """The scale that all calibrated two-dimensional regions share; None where they differ."""
    regions = items(dataset, "SequenceOfUltrasoundRegions")
    scales = [scale for region in regions if (scale := _region_scale(region))]
    if not scales:
        return None
    return scales[0] if all(_same(scale, scales[0]) for scale in scales) else None


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
