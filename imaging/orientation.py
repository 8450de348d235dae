"""Turning stored planes to display order, and back.

DICOM stores axial planes with columns growing to the patient's left and rows to the back, coronal
ones with columns to the left and rows to the feet, sagittal ones with columns to the back and rows
to the feet. In NIfTI's RAS+ world these are all negative directions, the columns taking the first
of the plane's two axes. NIfTI files use any of the 48 arrangements; a network must see one.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from wsseg.imaging.scan import Geometry

Affine = NDArray[np.float64]
Value = TypeVar("Value", bound=np.generic)

RAS_TO_LPS: Affine = np.diag([-1.0, -1.0, 1.0, 1.0])

# Cosine of the angle between two axes that should be square. Below it an area or a distance is
# wrong by less than 0.005 %.
SKEW_TOLERANCE = 0.01


@dataclass(frozen=True)
class Turn:
    """How a stored plane (i, j) becomes (row, column); by default the two are only exchanged.

    transpose: rows run along j, else along i. The flips are those of the result.
    """

    transpose: bool = True
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, stored: NDArray[Value]) -> NDArray[Value]:
        """View a stored plane (i, j, ...) as (row, column, ...)."""
        plane = stored.swapaxes(0, 1) if self.transpose else stored
        return plane[_step(self.flip_rows), _step(self.flip_columns)]

    def undo(self, plane: NDArray[Value]) -> NDArray[Value]:
        """View a plane (row, column, ...) as it is stored: (i, j, ...)."""
        stored = plane[_step(self.flip_rows), _step(self.flip_columns)]
        return stored.swapaxes(0, 1) if self.transpose else stored

    def to_stored(self, shape: tuple[int, int]) -> Affine:
        """The (4, 4) map from (column, row, slice, 1) to stored (i, j, k, 1) indices.

        shape: (i, j) size of the stored plane.
        """
        row_axis, column_axis = (1, 0) if self.transpose else (0, 1)
        index = np.zeros((4, 4))
        index[2, 2] = index[3, 3] = 1
        for axis, from_axis, flipped in (
            (column_axis, 0, self.flip_columns),
            (row_axis, 1, self.flip_rows),
        ):
            index[axis, from_axis] = -1 if flipped else 1
            index[axis, 3] = shape[axis] - 1 if flipped else 0
        return index


def display_turn(affine: Affine) -> Turn:
    """The turn that shows the planes of a grid as DICOM would store them.

    affine: (4, 4) invertible, maps stored (i, j, k, 1) to RAS+ mm. An oblique axis counts as the
    world axis it is nearest to.
    """
    (axis_i, sign_i), (axis_j, sign_j), _ = io_orientation(affine)
    transpose = axis_i < axis_j
    column_sign, row_sign = (sign_i, sign_j) if transpose else (sign_j, sign_i)
    return Turn(bool(transpose), bool(row_sign > 0), bool(column_sign > 0))


def lps_geometry(affine: Affine, slices: int) -> Geometry:
    """The geometry of evenly spaced planes.

    affine: (4, 4), maps (column, row, slice, 1) to LPS mm. Where rows and columns are not square
    to each other no pair of distances gives the pixel's area, and pixel_mm is None.
    """
    across, down, through = affine[:3, :3].T
    column_mm, row_mm = float(np.linalg.norm(across)), float(np.linalg.norm(down))
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal)
    positions = normal @ affine[:3, 3] + np.arange(slices) * (normal @ through)
    pixel_mm = None if skewed(across, down) else (row_mm, column_mm)
    return Geometry(affine, pixel_mm, positions)


def skew_flags(affine: Affine) -> tuple[str, ...]:
    """SHEAR where rows and columns are not square, TILT where slices do not stack straight.

    affine: (4, 4), maps (column, row, slice, 1) to mm, in either order of the plane's axes.
    """
    across, down, through = affine[:3, :3].T
    shear = ("SHEAR",) if skewed(across, down) else ()
    tilted = skewed(across, through) or skewed(down, through)
    return (*shear, "TILT") if tilted else shear


def skewed(first: Affine, second: Affine) -> bool:
    """Whether two direction vectors (3,) are not square to each other."""
    size = np.linalg.norm(first) * np.linalg.norm(second)
    return bool(abs(first @ second) > SKEW_TOLERANCE * size)


def grid_distance(first: Affine, second: Affine, shape: tuple[int, ...]) -> float:
    """The largest distance in mm between a corner of a grid under one affine and the other.

    shape: the grid's size along the affines' three index axes.
    """
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape], [1])).reshape(4, -1)
    return float(np.linalg.norm(((first - second) @ corners)[:3], axis=0).max())


def voxel_mm(affine: Affine) -> Affine:
    """Edge lengths (3,) of a voxel in mm, along the affine's index axes."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0), np.float64)


def _step(flipped: bool) -> slice:
    return slice(None, None, -1 if flipped else 1)
