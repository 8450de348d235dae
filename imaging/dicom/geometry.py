"""Where slices lie: pixel size, the plane of each frame, and the geometry of a stack of planes.

Lengths are in mm, positions and direction cosines (x, y, z) in LPS coordinates of the patient.
"""

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

PX_ONLY = "PX_ONLY"
CONFLICT = "SPACING_CONFLICT"
DETECTOR_PLANE = "DETECTOR_PLANE"

# Codes of the ultrasound region calibration (PS3.3 C.8.5.5.1).
_CENTIMETRES = 3
_TWO_DIMENSIONAL = 1
_MM_PER_CM = 10
# Lengths of one header that agree to this are one length, rounded differently.
_SAME_SCALE = 0.01
# A body lies between source and detector: it is never imaged smaller than it is, and hardly ever
# this much larger.
_MOST_MAGNIFIED = 3.0

# Keywords of the elements that `planes_of` reads.
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
# Slices of which only the heights are known lie in this plane of a space of their own.
_OWN_PLANE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

# Scanners round positions: differences below either bound are no fault of the series.
_SPACING_TOLERANCE = 0.01
_SPACING_TOLERANCE_MM = 0.01
# Scanners repeat a table position to a few micrometres. Slices are never that close, except those
# of a kind of microscope, whose pixels are as small.
_SAME_POSITION_MM = 0.01
_SAME_POSITION_PIXELS = 0.1
# Millimetres that a stack may lean sideways per millimetre along its normal (0.3 degrees).
_TILT_TOLERANCE = 0.005
# Direction cosines are written with as few as four decimals.
_ORIENTATION_TOLERANCE = 2e-3
# Spacings that agree to this are equal, written differently.
_SAME_SPACING = 1e-3

PixelSize = tuple[float, float]
SizeOf = Callable[[PixelSize | None], PixelSize | None]
FloatArray = NDArray[np.float64]
_Pose = tuple[tuple[float, ...] | None, tuple[float, ...] | None]


@dataclass(frozen=True, slots=True)
class Plane:
    """position: mm of the first pixel. orientation: direction cosines along a row and a column.

    None where the source does not state it. pixel_mm: (row, column) distance. in_patient: the
    coordinates are LPS; otherwise those of the volume's own space, in which lengths hold as well.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_mm: PixelSize | None
    in_patient: bool = True

    @property
    def placed(self) -> bool:
        """Whether position and orientation are known."""
        return self.position is not None and self.orientation is not None


def pixel_size(
    dataset: Dataset, of_frame: PixelSize | None = None
) -> tuple[PixelSize | None, set[str]]:
    """(row, column) distance in mm, the most trustworthy in the header, and flags about it.

    of_frame: PixelSpacing of a frame's functional groups. DETECTOR_PLANE: the distance holds where
    an X-ray projection fell, or on the film that was scanned, and not in the patient. PX_ONLY: the
    header states no length. SPACING_CONFLICT, with PX_ONLY: it states several that contradict each
    other, and nothing shows which of them is true.
    """
    regions = items(dataset, "SequenceOfUltrasoundRegions")
    candidates = (of_frame, lengths(dataset, "PixelSpacing"), *map(_region_scale, regions))
    in_body = [size for size in candidates if size]
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
        # Pixels in the body should be those of the detector, magnified alike in both directions.
        rows, columns = (projected[axis] / size[axis] for axis in (0, 1))
        alike = math.isclose(rows, columns, rel_tol=2 * _SAME_SCALE)
        plausible = alike and 1 - _SAME_SCALE <= rows <= _MOST_MAGNIFIED
        return (size, set()) if plausible else (None, {PX_ONLY, CONFLICT})
    if film and not calibrated:
        return (size, {DETECTOR_PLANE}) if _same(size, film) else (None, {PX_ONLY, CONFLICT})
    return size, {DETECTOR_PLANE} if x_ray and not calibrated else set()


def _magnified(detector: PixelSize, dataset: Dataset) -> PixelSize:
    factor = number(dataset, "EstimatedRadiographicMagnificationFactor")
    if factor is None or not 1 <= factor <= _MOST_MAGNIFIED:
        return detector
    return detector[0] / factor, detector[1] / factor


def _same(first: PixelSize, second: PixelSize) -> bool:
    return all(math.isclose(first[axis], second[axis], rel_tol=_SAME_SCALE) for axis in (0, 1))


def _region_scale(region: Dataset) -> PixelSize | None:
    """The pixel size of a calibrated two-dimensional region of an ultrasound image."""
    units = {integer(region, f"PhysicalUnits{axis}Direction") for axis in "XY"}
    if units != {_CENTIMETRES} or integer(region, "RegionSpatialFormat") != _TWO_DIMENSIONAL:
        return None
    row, column = (number(region, f"PhysicalDelta{axis}") for axis in "YX")
    if not row or not column:
        return None
    # Deltas are negative where an axis points against the pixel order.
    return abs(row) * _MM_PER_CM, abs(column) * _MM_PER_CM


def planes_of(
    dataset: Dataset, count: int, size_of: SizeOf, frames: Sequence[int] | None = None
) -> tuple[Plane, ...]:
    """The planes of `frames`, by index from 0 (all `count` of them if None), in their order.

    size_of: the pixel size of a frame, given that of its functional groups, or None. A frame's own
    group wins over the shared one, and both over the top level.
    """
    chosen = range(count) if frames is None else frames
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    # One position cannot serve several frames: that of the others is then unknown.
    position = numbers(dataset, "ImagePositionPatient", 3) if count == 1 else None
    top = position, cosines(dataset)
    if own or len(shared):
        groups = (own[index] if index < len(own) else Dataset() for index in chosen)
        return tuple(_plane_of_group(group, shared, top, size_of) for group in groups)
    size = size_of(None)
    if count > 1:
        stack = _nuclear_slices(dataset, count, size)
        if not stack and (heights := numbers(dataset, "SliceLocationVector", count)):
            stack = _own_space(heights, size)  # captured slices that state only their heights
        if stack:
            return tuple(stack[index] for index in chosen)
    return (Plane(*top, size),) * len(chosen)


def macro(group: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """The functional group macro that holds for a frame; empty where there is none."""
    found = items(group, keyword) or items(shared, keyword)
    return found[0] if found else Dataset()


def _plane_of_group(group: Dataset, shared: Dataset, top: _Pose, size_of: SizeOf) -> Plane:
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
    """Reconstructed slices of nuclear medicine: stacked from the first one (PS3.3 C.8.4.14).

    None where frames are planar views, or do not form one volume.
    """
    reconstructed = "RECON" in text(dataset, "ImageType").upper()
    if not is_nuclear(text(dataset, "SOPClassUID")) or not reconstructed:
        return None
    slice_numbers: Sequence[int] = ()  # of each frame, from 1
    if vector := numbers(dataset, "SliceVector", count):
        slice_numbers = [int(value) for value in vector]
    elif number(dataset, "NumberOfSlices") == count:
        slice_numbers = range(1, count + 1)
    step = number(dataset, "SpacingBetweenSlices")
    if not slice_numbers or not step:
        return None
    detector = first_item(dataset, "DetectorInformationSequence")
    first = numbers(detector, "ImagePositionPatient", 3) or numbers(
        dataset, "ImagePositionPatient", 3
    )
    orientation = cosines(detector) or cosines(dataset)
    if first is None or orientation is None:
        return _own_space([step * slice_number for slice_number in slice_numbers], size)
    # Positive: away from someone who looks at the image, which is where rows x columns points.
    normal = np.cross(orientation[:3], orientation[3:]) * step
    return [
        Plane(tuple(float(x) for x in first + normal * (k - 1)), orientation, size)
        for k in slice_numbers
    ]


def _own_space(heights: Sequence[float], size: PixelSize | None) -> list[Plane]:
    return [Plane((0.0, 0.0, height), _OWN_PLANE, size, in_patient=False) for height in heights]


def normal_of(orientation: Sequence[float]) -> FloatArray:
    """Unit vector across a plane, given the direction cosines of its rows and columns."""
    normal: FloatArray = np.cross(orientation[:3], orientation[3:])
    return normal / np.linalg.norm(normal)


def agree(first: Sequence[float], second: Sequence[float], *, within: float = 1) -> bool:
    """True where two planes are parallel and turned alike, by their direction cosines.

    within: by how many times the tolerance they may differ.
    """
    pairs = zip(first, second, strict=True)
    return all(abs(a - b) <= within * _ORIENTATION_TOLERANCE for a, b in pairs)


def same_size(first: Sequence[float], second: Sequence[float]) -> bool:
    """True where two pixel sizes are one, rounded differently."""
    pairs = zip(first, second, strict=True)
    return all(math.isclose(a, b, rel_tol=_SAME_SPACING) for a, b in pairs)


def is_even(heights: Sequence[float]) -> bool:
    """True where ascending positions in mm are evenly spaced, apart from missing slices."""
    return "NONUNIFORM" not in _spacing_flags(np.diff(heights))


def same_position_mm(pixel_mm: PixelSize | None) -> float:
    """The distance along the normal up to which planes of that pixel size have one position."""
    if not pixel_mm:
        return _SAME_POSITION_MM
    return min(_SAME_POSITION_MM, _SAME_POSITION_PIXELS * min(pixel_mm))


def heights_of(planes: Sequence[Plane]) -> FloatArray | None:
    """Position of each plane along the common normal, in mm; None unless all are parallel."""
    orientation = _common_orientation(planes)
    if orientation is None or any(plane.position is None for plane in planes):
        return None
    positions = np.array([plane.position for plane in planes], np.float64)
    heights: FloatArray = positions @ normal_of(orientation)
    return heights


def _common_orientation(planes: Sequence[Plane]) -> tuple[float, ...] | None:
    """The direction cosines that all planes share; None where one has none or another."""
    first = planes[0].orientation
    if first is None:
        return None
    # Twice the tolerance: planes were grouped around another one of them.
    alike = all(plane.orientation and agree(plane.orientation, first, within=2) for plane in planes)
    return first if alike else None


def orientation_shown(planes: Sequence[Plane]) -> tuple[float, ...] | None:
    """The common orientation in the patient; None where planes differ or lie in another space."""
    in_patient = all(plane.in_patient for plane in planes)
    return _common_orientation(planes) if in_patient else None


def stack_order(planes: Sequence[Plane]) -> list[int] | None:
    """Indices of the planes in order along their normal; None where they are not one stack."""
    heights = heights_of(planes)
    if heights is None:
        return None
    order = np.argsort(heights, kind="stable")
    if len(planes) > 1 and np.diff(heights[order]).min() <= same_position_mm(planes[0].pixel_mm):
        return None
    return [int(index) for index in order]


def stack_geometry(planes: Sequence[Plane], step_mm: float) -> tuple[Geometry, set[str]]:
    """Geometry of slices in their order, and flags; no positions unless they are one stack.

    The affine maps (column, row, slice, 1) to LPS mm. Its third column is the mean step from slice
    to slice, shear of a tilted gantry included; `step_mm` along the normal for a single slice.
    TILT: slices are shifted sideways. GAP: slices are missing. NONUNIFORM: they are unevenly
    spaced. PX_ONLY: the pixel size is unknown. MIXED_SPACING: pixel sizes differ, so that none is
    given.
    """
    flags: set[str] = set()
    sizes = [plane.pixel_mm for plane in planes]
    size = sizes[0]
    if size is None or any(each is None for each in sizes):
        size, flags = None, {PX_ONLY}
    elif not np.allclose(np.array(sizes, np.float64), size, rtol=_SAME_SPACING, atol=0):
        size, flags = None, {PX_ONLY, "MIXED_SPACING"}
    heights = heights_of(planes)
    if heights is None or (len(planes) > 1 and np.diff(heights).min() <= 0):
        return Geometry(None, size, None), flags
    flags |= _spacing_flags(np.diff(heights))
    first, last = (np.array(planes[end].position, np.float64) for end in (0, -1))
    orientation = planes[0].orientation or ()
    normal = normal_of(orientation)
    step = (last - first) / (len(planes) - 1) if len(planes) > 1 else normal * step_mm
    along = float(step @ normal)
    if np.linalg.norm(step - along * normal) > _TILT_TOLERANCE * abs(along):
        flags.add("TILT")
    if size is None or not all(plane.in_patient for plane in planes):
        return Geometry(None, size, heights), flags
    affine = np.eye(4)
    # The row distance separates rows, hence it scales the direction in which a column runs.
    affine[:3, 0] = np.array(orientation[:3]) * size[1]
    affine[:3, 1] = np.array(orientation[3:]) * size[0]
    affine[:3, 2] = step
    affine[:3, 3] = first
    return Geometry(affine, size, heights), flags


def _spacing_flags(steps: FloatArray) -> set[str]:
    if len(steps) < 2:
        return set()
    # The lower of two middle values: of two steps, one may span a missing slice.
    usual = float(np.quantile(steps, 0.5, method="lower"))
    if usual <= 0:
        return {"NONUNIFORM"}
    tolerance = max(_SPACING_TOLERANCE * usual, _SPACING_TOLERANCE_MM)
    odd = steps[np.abs(steps - usual) > tolerance]
    if not len(odd):
        return set()
    spans = np.round(odd / usual)
    missing = (spans >= 2) & (np.abs(odd - spans * usual) <= spans * tolerance)
    return {"GAP"} if missing.all() else {"NONUNIFORM"}
