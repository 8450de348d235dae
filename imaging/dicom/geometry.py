"""From the planes of slices to one geometry, and what is wrong with their arrangement."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from wsseg.imaging.dicom.file import (
    cosines,
    first_item,
    integer,
    items,
    lengths,
    number,
    numbers,
    text,
)
from wsseg.imaging.dicom.sop_classes import is_nuclear, is_x_ray
from wsseg.imaging.scan import Geometry

# How far apart pixels are: the header has many answers, of unequal worth.

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


# Where each frame of a DICOM object lies: in functional groups, vectors, or at the top level.

# Tags that `planes_of` reads.
PLANE_KEYWORDS = (
    "SOPClassUID",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SpacingBetweenSlices",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
    "DetectorInformationSequence",
    "SliceVector",
    "SliceLocationVector",
    "NumberOfSlices",
)
# Slices that know only their heights are drawn into this plane of a space of their own.
_OWN_PLANE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

SizeOf = Callable[[PixelSize | None], PixelSize | None]


@dataclass(frozen=True, slots=True)
class Plane:
    """position: mm of the first pixel; orientation: direction cosines of row and column.

    None where the source does not say. pixel_mm: (row, column) distance. in_patient: they are LPS
    coordinates; otherwise those of a space of the volume's own, in which lengths hold as well.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_mm: PixelSize | None
    in_patient: bool = True

    @property
    def placed(self) -> bool:
        """Whether the source says where the plane lies."""
        return self.position is not None and self.orientation is not None


def planes_of(
    dataset: Dataset, count: int, size_of: SizeOf, frames: Sequence[int] | None = None
) -> tuple[Plane, ...]:
    """The planes of `frames` (all `count` of them if None), in their order.

    size_of: pixel size of a frame, given that of its functional groups, or None. A frame's own
    group wins over the shared one, and both over the top level.
    """
    chosen = range(count) if frames is None else frames
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    if own or len(shared):
        top = _top(dataset, count)
        groups = (own[index] if index < len(own) else Dataset() for index in chosen)
        return tuple(_of_groups(group, shared, top, size_of) for group in groups)
    size = size_of(None)
    if count > 1:
        along = _nuclear_slices(dataset, count, size) or _heights(dataset, count, size)
        if along:
            return tuple(along[index] for index in chosen)
    position, orientation = _top(dataset, count)
    return (Plane(position, orientation, size),) * len(chosen)


_Place = tuple[tuple[float, ...] | None, tuple[float, ...] | None]


def _top(dataset: Dataset, count: int) -> _Place:
    # One position cannot serve several frames: where the others lie is then unknown.
    position = numbers(dataset, "ImagePositionPatient", 3) if count == 1 else None
    return position, cosines(dataset)


def macro(group: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """The functional group macro that holds for a frame; empty where there is none."""
    found = items(group, keyword) or items(shared, keyword)
    return found[0] if found else Dataset()


def _of_groups(group: Dataset, shared: Dataset, top: _Place, size_of: SizeOf) -> Plane:
    size = size_of(lengths(macro(group, shared, "PixelMeasuresSequence"), "PixelSpacing"))
    position = macro(group, shared, "PlanePositionSequence")
    orientation = macro(group, shared, "PlaneOrientationSequence")
    in_patient = Plane(
        numbers(position, "ImagePositionPatient", 3) or top[0],
        cosines(orientation) or top[1],
        size,
    )
    if in_patient.placed:
        return in_patient
    # Ultrasound volumes lie in a space of their own, that of the transducer or of a table.
    position = macro(group, shared, "PlanePositionVolumeSequence")
    orientation = macro(group, shared, "PlaneOrientationVolumeSequence")
    in_volume = Plane(
        numbers(position, "ImagePositionVolume", 3),
        cosines(orientation, "ImageOrientationVolume"),
        size,
        in_patient=False,
    )
    return in_volume if in_volume.placed else in_patient


def _nuclear_slices(dataset: Dataset, count: int, size: PixelSize | None) -> list[Plane] | None:
    """Reconstructed slices of nuclear medicine: stacked from the first one (PS3.3 C.8.4.14)."""
    if not is_nuclear(text(dataset, "SOPClassUID")) or not is_reconstructed(dataset):
        return None
    numbers_of = slice_numbers(dataset, count)
    step = number(dataset, "SpacingBetweenSlices")
    if numbers_of is None or not step:
        return None
    detector = first_item(dataset, "DetectorInformationSequence")
    first = numbers(detector, "ImagePositionPatient", 3) or numbers(
        dataset, "ImagePositionPatient", 3
    )
    orientation = cosines(detector) or cosines(dataset)
    if first is None or orientation is None:
        return _own_space([step * slice_number for slice_number in numbers_of], size)
    # Positive: away from someone who looks at the image, which is where rows x columns points.
    normal = np.cross(orientation[:3], orientation[3:]) * step
    return [
        Plane(tuple(float(x) for x in first + normal * (k - 1)), orientation, size)
        for k in numbers_of
    ]


def is_reconstructed(dataset: Dataset) -> bool:
    """Whether frames of nuclear medicine are slices, not planar views."""
    return "RECON" in text(dataset, "ImageType").upper()


def slice_numbers(dataset: Dataset, count: int) -> tuple[int, ...] | None:
    """Number of each frame's slice, from 1; None where frames are no slices of one volume."""
    vector = numbers(dataset, "SliceVector", count)
    if vector:
        return tuple(int(value) for value in vector)
    slices = number(dataset, "NumberOfSlices")
    return tuple(range(1, count + 1)) if slices == count else None


def _heights(dataset: Dataset, count: int, size: PixelSize | None) -> list[Plane] | None:
    """Captured slices that know their height, but not where the volume lies."""
    heights = numbers(dataset, "SliceLocationVector", count)
    return _own_space(heights, size) if heights else None


def _own_space(heights: Sequence[float], size: PixelSize | None) -> list[Plane]:
    return [Plane((0.0, 0.0, height), _OWN_PLANE, size, in_patient=False) for height in heights]


# Positions are rounded by scanners: differences below either bound are no fault of the series.
SPACING_TOLERANCE = 0.01
SPACING_TOLERANCE_MM = 0.01
# Scanners repeat a table position to a few micrometres; slices are never that near, but for those
# of a microscope of sorts, whose pixels are as small.
SAME_PLACE_MM = 0.01
_SAME_PLACE_PIXELS = 0.1
# Millimetres that a stack may lean sideways per millimetre along its normal (0.3 degrees).
TILT_TOLERANCE = 0.005
# Direction cosines are written with as few as four decimals.
ORIENTATION_TOLERANCE = 2e-3
# Spacings that agree to this are equal, written differently.
_SAME_SPACING = 1e-3

FloatArray = NDArray[np.float64]


def normal_of(orientation: Sequence[float]) -> FloatArray:
    """Unit vector across a plane, given the direction cosines of its rows and columns."""
    normal: FloatArray = np.cross(orientation[:3], orientation[3:])
    return normal / np.linalg.norm(normal)


def agree(first: Sequence[float], second: Sequence[float], *, within: float = 1) -> bool:
    """True where two planes are parallel and turned alike, by their direction cosines.

    within: how many times the tolerance they may differ.
    """
    pairs = zip(first, second, strict=True)
    return all(abs(a - b) <= within * ORIENTATION_TOLERANCE for a, b in pairs)


def same_size(first: Sequence[float], second: Sequence[float]) -> bool:
    """True where two pixel sizes are one, rounded differently."""
    pairs = zip(first, second, strict=True)
    return all(math.isclose(a, b, rel_tol=_SAME_SPACING) for a, b in pairs)


def is_even(heights: Sequence[float]) -> bool:
    """True where ascending positions are evenly spaced, but for slices that are missing."""
    return "NONUNIFORM" not in _spacing_flags(np.diff(heights))


def same_place_mm(pixel_mm: tuple[float, float] | None) -> float:
    """How far apart planes of that (row, column) distance are one place, along their normal."""
    return min(SAME_PLACE_MM, _SAME_PLACE_PIXELS * min(pixel_mm)) if pixel_mm else SAME_PLACE_MM


def heights_of(planes: Sequence[Plane]) -> FloatArray | None:
    """Position of each plane along the common normal, in mm; None unless all are parallel."""
    first = common_orientation(planes)
    if first is None or any(plane.position is None for plane in planes):
        return None
    positions = np.array([p.position for p in planes], np.float64)
    heights: FloatArray = positions @ normal_of(first)
    return heights


def common_orientation(planes: Sequence[Plane]) -> tuple[float, ...] | None:
    """The direction cosines that all planes share; None where one has none or another."""
    first = planes[0].orientation
    if first is None:
        return None
    # Twice the tolerance: planes were gathered around another one of them.
    alike = all(plane.orientation and agree(plane.orientation, first, within=2) for plane in planes)
    return first if alike else None


def orientation_shown(planes: Sequence[Plane]) -> tuple[float, ...] | None:
    """How all planes lie in the patient; None where they differ, or know only their own space."""
    in_patient = all(plane.in_patient for plane in planes)
    return common_orientation(planes) if in_patient else None


def stack_order(planes: Sequence[Plane]) -> list[int] | None:
    """The order of the planes along their normal; None where they are no single stack."""
    heights = heights_of(planes)
    if heights is None:
        return None
    order = np.argsort(heights, kind="stable")
    if len(planes) > 1 and np.diff(heights[order]).min() <= same_place_mm(planes[0].pixel_mm):
        return None
    return [int(index) for index in order]


def stack_geometry(planes: Sequence[Plane], step_mm: float) -> tuple[Geometry, set[str]]:
    """Geometry of slices in their order, and flags; no positions unless they are one stack.

    The third column of the affine is the mean step from slice to slice, shear of a tilted gantry
    included; `step_mm` along the normal where there is one slice only. TILT: slices are shifted
    sideways. GAP: slices are missing. NONUNIFORM: they are unevenly spaced. MIXED_SPACING:
    pixel sizes differ, so that none is given.
    """
    size, flags = _common_size(planes)
    heights = heights_of(planes)
    if heights is None or (len(planes) > 1 and np.diff(heights).min() <= 0):
        return Geometry(None, size, None), flags
    flags |= _spacing_flags(np.diff(heights))
    first, last = (np.array(planes[end].position, np.float64) for end in (0, -1))
    orientation = planes[0].orientation or ()
    normal = normal_of(orientation)
    step = (last - first) / (len(planes) - 1) if len(planes) > 1 else normal * step_mm
    along = float(step @ normal)
    if np.linalg.norm(step - along * normal) > TILT_TOLERANCE * abs(along):
        flags |= {"TILT"}
    in_patient = all(plane.in_patient for plane in planes)
    affine = _affine(first, orientation, size, step) if in_patient else None
    return Geometry(affine, size, heights), flags


def _affine(
    origin: FloatArray,
    orientation: Sequence[float],
    size: tuple[float, float] | None,
    step: FloatArray,
) -> FloatArray | None:
    if size is None:
        return None
    directions = np.reshape(orientation, (2, 3))
    affine = np.eye(4)
    # The row distance separates rows, hence it scales the direction in which a column runs.
    affine[:3, 0] = directions[0] * size[1]
    affine[:3, 1] = directions[1] * size[0]
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return affine


def _common_size(planes: Sequence[Plane]) -> tuple[tuple[float, float] | None, set[str]]:
    sizes = [plane.pixel_mm for plane in planes]
    first = sizes[0]
    if first is None or any(size is None for size in sizes):
        return None, {"PX_ONLY"}
    if np.allclose(np.array(sizes, np.float64), first, rtol=_SAME_SPACING, atol=0):
        return first, set()
    return None, {"PX_ONLY", "MIXED_SPACING"}


def _spacing_flags(steps: FloatArray) -> set[str]:
    if len(steps) < 2:
        return set()
    # The lower of two middle values: of two steps, one may span a missing slice.
    usual = float(np.quantile(steps, 0.5, method="lower"))
    if usual <= 0:
        return {"NONUNIFORM"}
    tolerance = max(SPACING_TOLERANCE * usual, SPACING_TOLERANCE_MM)
    odd = steps[np.abs(steps - usual) > tolerance]
    if not len(odd):
        return set()
    spans = np.round(odd / usual)
    missing = (spans >= 2) & (np.abs(odd - spans * usual) <= spans * tolerance)
    return {"GAP"} if missing.all() else {"NONUNIFORM"}
