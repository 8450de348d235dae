"""Label maps, written on the grid of the scan that they belong to."""

import gzip
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image
from numpy.typing import NDArray
from PIL import Image

from wsseg.imaging.errors import ReadError, reading
from wsseg.imaging.files import atomic, unchanged
from wsseg.imaging.orientation import RAS_TO_LPS, Affine, as_stored, grid_distance
from wsseg.imaging.scan import AS_STORED, Geometry, Scan
from wsseg.imaging.volumes import open_volume

# A qform or an affine that leaves a slice further than this from its place is not written.
PLACE_TOLERANCE_MM = 1e-2
NAME_LENGTH = 120

_SCANNER = 1  # NIfTI code: coordinates of the scanner, as DICOM's are
_MM = 2
_SPATIAL_UNIT = 0b111
_PLACE_FIELDS = (
    *("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "qoffset_x", "qoffset_y"),
    *("qoffset_z", "quatern_b", "quatern_c", "quatern_d"),
)
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_SUFFIX = re.compile(r"(\.nii|\.img|\.hdr)?\.[A-Za-z][A-Za-z0-9]{0,4}$", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9-]+")
# Paths of these characters stay apart when their folders are joined by "__".
_CLEAN_PART = r"[A-Za-z0-9](?:[A-Za-z0-9.-]|_(?!_))*"
_CLEAN_PATH = re.compile(rf"{_CLEAN_PART}(?:/{_CLEAN_PART})*")
# What is put at the end of other names: a file that is called so by itself is renamed.
_GIVEN_ENDING = re.compile(r"(-t\d{3,}|-part\d+|--[0-9a-f]{8}|\.[A-Za-z][A-Za-z0-9]{0,4})$")
# How DICOM scans are named: by a series UID, or by a hash of 16 digits in its place.
_SERIES_NAME = re.compile(r"([0-9]+(\.[0-9]+)+|[0-9a-f]{16})(-[0-9a-f]{8})?(-part\d+)?")
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def write_labels(scan: Scan, labels: NDArray[np.uint8], folder: Path) -> Path:
    """Write a label map (slice, row, column) of class numbers on the scan's own grid.

    All but pictures become NIfTI: a volume keeps its source's axes, and of a NIfTI file sform and
    qform; a 4-D one gives a 3-D file for its volume; a DICOM scan keeps the rows, columns and slice
    order of its files and gets both forms in RAS+ mm. Pictures become an 8-bit PNG whose values
    are the class numbers, or a TIFF of several pages. The file appears whole or not at all; its
    name holds no identity (see `safe_name`).
    """
    if labels.shape != scan.pixels.shape[:3] or labels.dtype != np.uint8:
        raise ValueError(f"labels {labels.dtype}{labels.shape} for pixels {scan.pixels.shape}")
    path = folder / f"{safe_name(scan)}{_suffix(scan)}"
    with atomic(path) as partial:
        if scan.ref.kind == "picture":
            _save_pages([Image.fromarray(plane) for plane in labels], partial)
        elif scan.ref.kind == "volume":
            _save_nifti(*_on_source_grid(scan, labels), partial)
        else:
            _save_nifti(*_on_patient_grid(scan, labels), partial)
    return path


def safe_name(scan: Scan, *, suffix: str | None = None) -> str:
    """A file name for a scan, without suffix: safe on every system, and no patient's.

    DICOM: the series UID (or a hash, where it is not a valid one), a hash of the study's where
    two studies of the run share a series UID, and the part of a split series. Otherwise the
    source path, its folders joined by "__" and without its suffix if the file to be written has
    the same one (a.png and a.jpg give "a" and "a.jpg"), and the time volume. A name that could be
    unsafe, ambiguous (a series UID among them) or too long ends in a hash of the path instead.
    `suffix` is that of the file to be written, by default that of the label map.
    """
    if scan.ref.kind == "dicom":
        part = f"-part{scan.ref.part}" if scan.ref.part else ""
        return f"{_series_name(scan)}{scan.ref.name_ending}{part}"
    volume = "" if scan.ref.volume is None else f"-t{scan.ref.volume:03d}"
    return f"{_source_name(scan.ref.files[0].source, suffix or _suffix(scan))}{volume}"


def _series_name(scan: Scan) -> str:
    uid = scan.series_uid
    if len(uid) <= 64 and _UID.fullmatch(uid):
        return uid
    return _hash(uid or "\0".join(file.source for file in scan.ref.files), 16)


def _source_name(source: str, implied_suffix: str) -> str:
    found = _SUFFIX.search(source)
    suffix = found.group() if found else ""
    stem = source.removesuffix(suffix)
    name = (stem if suffix == implied_suffix else source).replace("/", "__")
    ambiguous = not suffix or _GIVEN_ENDING.search(stem) or not _CLEAN_PATH.fullmatch(source)
    # A volume that was converted from a series is often named by its UID.
    if (
        _SERIES_NAME.fullmatch(name)
        or ambiguous
        or len(name) > NAME_LENGTH
        or _WINDOWS_DEVICE.match(name)
    ):
        readable = _UNSAFE.sub("_", name)[-NAME_LENGTH:].strip("_-") or "scan"
        return f"{readable}--{_hash(source, 8)}"
    return name


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:digits]


def _suffix(scan: Scan) -> str:
    if scan.ref.kind != "picture":
        return ".nii.gz"
    return ".png" if len(scan.pixels) == 1 else ".tif"


def _save_pages(pages: Sequence[Image.Image], path: Path) -> None:
    if len(pages) == 1:
        pages[0].save(path, format="PNG")
    else:
        compression = "tiff_adobe_deflate"
        pages[0].save(
            path, format="TIFF", compression=compression, save_all=True, append_images=pages[1:]
        )


def _on_source_grid(
    scan: Scan, labels: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], Nifti1Header]:
    """Labels (i, j, k) as their source stores its voxels, under the source's place."""
    file = scan.ref.files[0]
    with reading(file.source), unchanged(file):
        source = open_volume(file)
    if (source.layout.shape[2], *source.plane_shape) != labels.shape:
        raise ReadError("changed", f"{file.source} changed while it was used: run it again")
    stored = np.empty(source.layout.shape, np.uint8, order="F")
    for index, plane in enumerate(labels):
        stored[:, :, index] = source.turn.undo(plane)
    found = source.header.nifti
    if found is None:
        lengths = [edge or 1.0 for edge in source.header.lengths_mm]
        return stored, _placed_header(source.affine, lengths, stored.shape)
    header = Nifti2Header() if isinstance(found, Nifti2Header) else Nifti1Header()
    for field in _PLACE_FIELDS:
        header[field] = found[field]
    header["pixdim"][:4] = found["pixdim"][:4]
    header["xyzt_units"] = int(found["xyzt_units"]) & _SPATIAL_UNIT or _MM
    return (stored[:, :, 0] if found["dim"][0] == 2 else stored), header


def _on_patient_grid(
    scan: Scan, labels: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], Nifti1Header]:
    """Labels (column, row, slice) as the DICOM source stores its pixels, in RAS+ mm.

    With voxel lengths alone where no affine is true.
    """
    as_is = scan.turn == AS_STORED
    planes = labels if as_is else np.stack([scan.turn.undo(plane) for plane in labels])
    rows, columns = planes.shape[1:]
    geometry = as_stored(scan.geometry, scan.turn, (rows, columns))
    stored = planes.transpose(2, 1, 0)
    affine = None
    if geometry.affine is not None and _even(geometry):
        affine = RAS_TO_LPS @ geometry.affine
    header = _placed_header(affine, _lengths_mm(geometry), stored.shape)
    header["xyzt_units"] = _MM if geometry.pixel_mm else 0
    return stored, header


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
        # A qform holds no shear, and a tilted gantry makes one.
        if grid_distance(affine, header.get_qform(), shape) > PLACE_TOLERANCE_MM:
            header["qform_code"] = 0
    return header


def _lengths_mm(geometry: Geometry) -> tuple[float, float, float]:
    """Voxel lengths for a header without affine; 1 where unknown, for readers that refuse 0."""
    row_mm, column_mm = geometry.pixel_mm or (1.0, 1.0)
    positions = geometry.positions_mm
    if positions is None or len(positions) < 2:
        return column_mm, row_mm, 1.0
    return column_mm, row_mm, float(np.median(np.abs(np.diff(positions)))) or 1.0


def _even(geometry: Geometry) -> bool:
    """Whether the affine puts every slice where it is: not so with a missing slice."""
    if geometry.affine is None or geometry.positions_mm is None:
        return geometry.positions_mm is None
    across, down, through = geometry.affine[:3, :3].T
    normal = np.cross(across, down)
    step = normal @ through / np.linalg.norm(normal)
    steps = np.arange(len(geometry.positions_mm)) * step
    moved = geometry.positions_mm - geometry.positions_mm[0] - steps
    return bool(np.abs(moved).max() <= PLACE_TOLERANCE_MM)


def _save_nifti(stored: NDArray[np.uint8], header: Nifti1Header, path: Path) -> None:
    header.set_data_dtype(np.uint8)
    header.set_intent("label")
    header["descrip"] = b"label map of class numbers"
    kind: Any = Nifti2Image if isinstance(header, Nifti2Header) else Nifti1Image
    # Level 1: label maps shrink a hundredfold at any level. No time stamp: equal input, equal file.
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream,
    ):
        kind(stored, None, header).to_stream(stream)
