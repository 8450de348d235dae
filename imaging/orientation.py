"""The one orientation in which planes are shown, whatever their format and arrangement.

DICOM usually stores axial planes with columns growing to the patient's left and rows to the back,
coronal ones with columns to the left and rows to the feet, sagittal ones with columns to the back
and rows to the feet. Patients lie prone or on their side, scanners mirror, files transpose, and
NIfTI uses any of the 48 arrangements: a network must see one.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.scan import AS_STORED, Geometry, PlaneName, Reorientation

Affine = NDArray[np.float64]

RAS_TO_LPS: Affine = np.diag([-1.0, -1.0, 1.0, 1.0])
# From (row, column, slice, 1), as a DICOM image is stored, to the (column, row, ...) of affines.
_EXCHANGE: Affine = np.eye(4)[[1, 0, 2, 3]]

# Cosine of the angle between two axes that should be square. Below it an area or a distance is
# wrong by less than 0.005 %.
SKEW_TOLERANCE = 0.01

# Cosines are written with as few as four decimals: two that differ by less are a tie, so that a
# plane at 45 degrees is shown in one way however it was written.
TIE = 0.01

# By plane, the LPS directions in which shown columns and rows grow; in the order of a tie.
_SHOWN: dict[PlaneName, tuple[Affine, Affine]] = {
    "axial": (np.array([1.0, 0, 0]), np.array([0, 1.0, 0])),
    "coronal": (np.array([1.0, 0, 0]), np.array([0, 0, -1.0])),
    "sagittal": (np.array([0, 1.0, 0]), np.array([0, 0, -1.0])),
}


def display_reorientation(affine: Affine) -> Reorientation:
    """The turn that shows the planes of a grid, see `show`.

    affine: (4, 4) invertible, maps stored (i, j, k, 1) to RAS+ mm.
    """
    return _show_ras(affine)[1]


def display_plane(affine: Affine) -> PlaneName:
    """The plane of the body that the planes of a grid are nearest to.

    affine: as for `display_reorientation`.
    """
    return _show_ras(affine)[0]


def _show_ras(affine: Affine) -> tuple[PlaneName, Reorientation]:
    along_i, along_j, _ = (RAS_TO_LPS @ affine)[:3, :3].T
    return show(along_i, along_j)


@lru_cache
def show_image(cosines: tuple[float, ...] | None) -> tuple[PlaneName, Reorientation]:
    """The plane and the turn of a DICOM image, by ImageOrientationPatient (PS3.3 C.7.6.2.1.1).

    cosines: six direction cosines, of a row and of a column. None: no plane, and shown as stored.
    """
    if cosines is None:
        return "", AS_STORED
    # A row runs along the columns' index: its cosines are those of the second stored axis.
    return show(np.array(cosines[3:]), np.array(cosines[:3]))


def show(along_i: Affine, along_j: Affine) -> tuple[PlaneName, Reorientation]:
    """The plane that a stored plane (i, j) is nearest to, and the turn to its display order.

    along_i, along_j: LPS directions (3,), of any length, in which the two indices grow. Both
    answers follow from the plane's place in the patient alone, and not from how it is stored: an
    oblique plane is that of the body which it is least tilted against (of equals the axial, then
    the coronal one), and is turned until its columns and rows are nearest to those directions (of
    equals: with the columns leaning to where the rows go). No plane is mirrored against the body.
    """
    first, second = (axis / np.linalg.norm(axis) for axis in (along_i, along_j))
    normal = np.cross(first, second)
    across = np.abs(normal / np.linalg.norm(normal))[::-1]
    plane = list(_SHOWN)[int(np.argmax(across >= across.max() - TIE))]
    to_columns, to_rows = _SHOWN[plane]
    nearness, leaning = zip(
        *(
            (abs(rows @ to_rows) + abs(columns @ to_columns), _lean(columns, to_columns, to_rows))
            for rows, columns in ((first, second), (second, first))
        ),
        strict=True,
    )
    tied = abs(nearness[0] - nearness[1]) <= TIE
    straight, transposed = leaning if tied else nearness
    transpose = bool(transposed > straight)
    rows, columns = (second, first) if transpose else (first, second)
    return plane, Reorientation(transpose, bool(rows @ to_rows < 0), bool(columns @ to_columns < 0))


def _lean(columns: Affine, to_columns: Affine, to_rows: Affine) -> float:
    """How far columns that grow towards theirs lean to where the rows go."""
    return float(columns @ to_rows) * (-1 if columns @ to_columns < 0 else 1)


def turned(geometry: Geometry, turn: Reorientation, stored: tuple[int, int]) -> Geometry:
    """Where the pixels of a DICOM image or a picture lie once it is turned.

    geometry, stored: place and (rows, columns) as stored. Where the turn mirrors, the normal of
    the plane points the other way: positions, which are kept in the order of the slices, change
    their sign and then fall.
    """
    return _mapped(geometry, turn, _EXCHANGE @ turn.to_stored(stored))


def as_stored(geometry: Geometry, turn: Reorientation, stored: tuple[int, int]) -> Geometry:
    """The place of the stored pixels, from that of the turned ones: undoes `turned`."""
    index: Affine = np.linalg.inv(_EXCHANGE @ turn.to_stored(stored)).astype(np.float64)
    return _mapped(geometry, turn, index)


def _mapped(geometry: Geometry, turn: Reorientation, index: Affine) -> Geometry:
    """A geometry for other indices; index: (4, 4), maps those to the ones it was for."""
    if turn == AS_STORED:
        return geometry
    affine, size, positions = geometry.affine, geometry.pixel_mm, geometry.positions_mm
    return Geometry(
        None if affine is None else affine @ index,
        size[::-1] if size is not None and turn.transpose else size,
        -positions if positions is not None and turn.mirrors else positions,
    )


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
