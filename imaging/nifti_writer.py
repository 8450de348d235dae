"""NIfTI files on the grid of the volume or DICOM scan that they were made from."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from numpy.typing import NDArray

from wsseg.imaging.errors import ReadError, translate_errors
from wsseg.imaging.files import unchanged
from wsseg.imaging.orientation import RAS_TO_LPS, Affine, as_stored, grid_distance
from wsseg.imaging.scan import Reorientation, Scan
from wsseg.imaging.volumes import open_volume

# A qform or an affine that leaves a slice further than this from its place is not written.
PLACE_TOLERANCE_MM = 1e-2
DESCRIPTION_LENGTH = 79

_SCANNER = 1  # NIfTI code: coordinates of the scanner, as DICOM's are
_MM = 2
_SPATIAL_UNIT = 0b111
_PLACE_FIELDS = (
    *("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "qoffset_x", "qoffset_y"),
    *("qoffset_z", "quatern_b", "quatern_c", "quatern_d"),
)


@dataclass(frozen=True)
class NiftiHeader:
    """What a NIfTI file says of itself, besides its grid.

    description: its first 79 characters are written. intent: a name that nibabel knows, such as
    "label" for NIFTI_INTENT_LABEL (1002). slope: what readers multiply the stored numbers with.
    """

    description: str
    intent: str = "none"
    slope: float = 1.0


def save_nifti(scan: Scan, values: NDArray[Any], path: Path, about: NiftiHeader) -> None:
    """Write values (slice, row, column), in display order, on the grid of the scan's own files.

    A volume keeps its source's axes, and of a NIfTI file sform and qform; a DICOM scan keeps the
    rows, columns and slice order of its files and gets both forms in RAS+ mm. Slices are written
    one by one, so that memory holds no second copy. Equal input gives equal bytes. Raises ReadError
    for a volume that changed since it was read.
    """
    grid = _source_grid(scan) if scan.ref.kind == "volume" else _patient_grid(scan)
    header = grid.header
    header.set_data_shape(grid.shape)
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(about.slope, 0)
    header.set_intent(about.intent)
    header["descrip"] = about.description.encode("ascii", "replace")[:DESCRIPTION_LENGTH]
    # Level 1: label maps shrink a hundredfold at any level. No time stamp: equal input, equal file.
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream,
    ):
        header.write_to(stream)
        for plane in values:
            # Planes (i, j) of which i runs fastest in the file.
            stream.write(np.ascontiguousarray(grid.reorientation.undo(plane).T).data)


@dataclass(frozen=True)
class _StoredGrid:
    """Header and shape of a NIfTI file, and what brings its planes (i, j) to display order."""

    header: Nifti1Header
    shape: tuple[int, ...]
    reorientation: Reorientation


def _source_grid(scan: Scan) -> _StoredGrid:
    """The grid of a volume, with the position that its source states."""
    file = scan.ref.files[0]
    with translate_errors(file.source), unchanged(file):
        source = open_volume(file)
    shape = source.layout.shape
    if (shape[2], *source.plane_shape) != scan.pixels.shape[:3]:
        raise ReadError("changed", f"{file.source} changed while it was used: run it again")
    nifti = source.header.nifti
    if nifti is None:
        lengths = [edge or 1.0 for edge in source.header.lengths_mm]
        header = _placed_header(source.affine, lengths, shape)
        return _StoredGrid(header, shape, source.reorientation)
    header = Nifti2Header() if isinstance(nifti, Nifti2Header) else Nifti1Header()
    for field in _PLACE_FIELDS:
        header[field] = nifti[field]
    header["pixdim"][:4] = nifti["pixdim"][:4]
    header["xyzt_units"] = int(nifti["xyzt_units"]) & _SPATIAL_UNIT or _MM
    return _StoredGrid(header, shape[:2] if nifti["dim"][0] == 2 else shape, source.reorientation)


def _patient_grid(scan: Scan) -> _StoredGrid:
    """The grid (column, row, slice) of a DICOM scan, in RAS+ mm.

    Only voxel lengths are written where no affine places every slice; 1 mm where they are unknown,
    for readers that refuse 0.
    """
    count, *shown = scan.pixels.shape[:3]
    rows, columns = scan.reorientation.shape((shown[0], shown[1]))
    geometry = as_stored(scan.geometry, scan.reorientation, (rows, columns))
    affine = None
    if geometry.affine is not None and _even(geometry.affine, geometry.positions_mm):
        affine = RAS_TO_LPS @ geometry.affine
    row_mm, column_mm = geometry.pixel_mm or (1.0, 1.0)
    slice_mm, positions = 1.0, geometry.positions_mm
    if positions is not None and len(positions) > 1:
        slice_mm = float(np.median(np.abs(np.diff(positions)))) or 1.0
    shape = (columns, rows, count)
    header = _placed_header(affine, (column_mm, row_mm, slice_mm), shape)
    header["xyzt_units"] = _MM if geometry.pixel_mm else 0
    turned = replace(scan.reorientation, transpose=not scan.reorientation.transpose)
    return _StoredGrid(header, shape, turned)


def _placed_header(
    affine: Affine | None, lengths_mm: Sequence[float], shape: tuple[int, ...]
) -> Nifti1Header:
    """A header with an affine (i, j, k, 1) to RAS+ mm in both forms, or with lengths alone."""
    header = Nifti1Header()
    header["xyzt_units"] = _MM
    header["pixdim"][:4] = (1.0, *lengths_mm)
    if affine is not None:
        header.set_sform(affine, _SCANNER)
        header.set_qform(affine, _SCANNER)
        # A qform holds no shear, which a tilted gantry causes.
        if grid_distance(affine, header.get_qform(), shape) > PLACE_TOLERANCE_MM:
            header["qform_code"] = 0
    return header


def _even(affine: Affine, positions_mm: NDArray[np.float64] | None) -> bool:
    """Whether the affine places every slice correctly, which it cannot if a slice is missing."""
    if positions_mm is None:
        return True
    across, down, through = affine[:3, :3].T
    normal = np.cross(across, down)
    step = normal @ through / np.linalg.norm(normal)
    moved = positions_mm - positions_mm[0] - np.arange(len(positions_mm)) * step
    return bool(np.abs(moved).max() <= PLACE_TOLERANCE_MM)
