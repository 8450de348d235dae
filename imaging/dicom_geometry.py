"""From the planes of slices to one geometry, and what is wrong with their arrangement."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.dicom_planes import Plane
from wsseg.imaging.scan import Geometry

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
