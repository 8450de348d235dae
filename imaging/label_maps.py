"""Label maps on the grid of their image: read for any slice of it, and written for a scan."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsseg.imaging.dicom import (
    is_segmentation,
    segment_labels,
    slice_position,
    whole_step,
)
from wsseg.imaging.errors import ReadError, translate_errors
from wsseg.imaging.files import atomic
from wsseg.imaging.label_values import PLAIN, Numbering
from wsseg.imaging.nifti_writer import NiftiHeader, save_nifti
from wsseg.imaging.picture_page import WHITE
from wsseg.imaging.reading import (
    GRID_TOLERANCE,
    Grid,
    grid_difference,
    read_grid,
    read_label_slice,
)
from wsseg.imaging.scan import Scan

Labels = NDArray[np.uint8]
_Index = NDArray[np.intp]
_Voxels = tuple[_Index, _Index, _Index]
"""Where pixels lie in a label map: index of the first, steps to the next column and row."""

NAME_LENGTH = 120
DESCRIPTION = "label map of class numbers"

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


def write_labels(
    scan: Scan, labels: NDArray[np.uint8], folder: Path, *, description: str = DESCRIPTION
) -> Path:
    """Write a label map (slice, row, column) of class numbers on the scan's own grid.

    All but pictures become NIfTI: a volume keeps its source's axes, and of a NIfTI file sform and
    qform; a 4-D one gives a 3-D file for its volume; a DICOM scan keeps the rows, columns and slice
    order of its files and gets both forms in RAS+ mm. Pictures become an 8-bit PNG whose values
    are the class numbers, or a TIFF of several pages. The file appears whole or not at all; its
    name holds no identity (see `safe_name`). description: of a NIfTI file, for its header.
    """
    if labels.shape != scan.pixels.shape[:3] or labels.dtype != np.uint8:
        raise ValueError(f"labels {labels.dtype}{labels.shape} for pixels {scan.pixels.shape}")
    path = folder / f"{safe_name(scan)}{_suffix(scan)}"
    with atomic(path) as partial:
        if scan.ref.kind == "picture":
            first, *others = [Image.fromarray(plane) for plane in labels]
            if others:
                tiff = {"compression": "tiff_adobe_deflate", "save_all": True}
                first.save(partial, format="TIFF", append_images=others, **tiff)
            else:
                first.save(partial, format="PNG")
        else:
            save_nifti(scan, labels, partial, NiftiHeader(description, intent="label"))
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
        name = uid = scan.series_uid
        if len(uid) > 64 or not _UID.fullmatch(uid):
            name = _hash(uid or "\0".join(file.source for file in scan.ref.files), 16)
        part = f"-part{scan.ref.part}" if scan.ref.part else ""
        return f"{name}{scan.ref.name_ending}{part}"
    volume = "" if scan.ref.volume is None else f"-t{scan.ref.volume:03d}"
    return f"{_source_name(scan.ref.files[0].source, suffix or _suffix(scan))}{volume}"


def _source_name(source: str, implied_suffix: str) -> str:
    match = _SUFFIX.search(source)
    suffix = match.group() if match else ""
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


# Labels of an image, read.

# Steps across and down of labels that are stored in slices as the image is.
_SIDE_BY_SIDE = (1, 0, 0, 0, 1, 0)


def read_labels_for(
    image: Path,
    path: Path,
    *,
    slice_index: int = 0,
    volume: int = 0,
    numbering: Numbering = PLAIN,
    background: int = WHITE,
) -> Labels:
    """The labels (row, column) of one slice of an image, in the image's display order.

    path: the label file. One that states its position in the patient is put on the slice by that,
    wherever it has a voxel for every pixel; else the labels of a file with one slice belong to
    whichever slice of the image is read. A picture, and any file that does not state how it is
    oriented, counts rows and columns as a DICOM image is stored, and is reoriented like that. A
    DICOM segmentation is put on a DICOM image by segment and position, see `segment_labels`.
    numbering, background: as for `read_label_slice`.

    Raises ReadError for labels that cannot be read, and for those of another part of the patient
    than a DICOM image.
    """
    grid = read_grid(image, volume)
    with translate_errors(path.name):
        if is_segmentation(path):
            if grid.kind != "dicom":
                raise ReadError(
                    "labels_elsewhere",
                    f"{path.name} is a DICOM segmentation, and the image is no DICOM: convert it "
                    "to a label map of the image's own format",
                )
            position = slice_position(image, slice_index, volume)
            segments = segment_labels(path, position, numbering, background=background)
            return grid.reorientation.apply(segments)
    labels = _label_grid(path, volume)
    if difference := _volumes_difference(grid, labels, path):
        raise ReadError("volumes_differ", difference)

    def read(index: int) -> Labels:
        return read_label_slice(
            path, slice_index=index, volume=volume, numbering=numbering, background=background
        )

    voxels = _voxels_of_pixels(grid, labels, slice_index)
    if voxels is not None:
        return _read_section(read, voxels, grid.shape)
    corners = _corners(grid, labels, slice_index)
    if grid.kind == "dicom" and corners is not None:
        size = np.array([*labels.shape[::-1], labels.slices])[:, None]
        outside = corners - np.clip(np.rint(corners), 0, size - 1)
        steps: Any = labels.geometry.affine
        apart = np.linalg.norm(steps[:3, :3] @ outside, axis=0).max()
        raise ReadError(
            "labels_elsewhere",
            f"{path.name} lies elsewhere in the patient, up to {apart:.3g} mm from the image: draw "
            "it on the image's own grid, or save it as a picture of the image's own pixels",
        )
    plane = read(slice_index if labels.slices > 1 else 0)
    return plane if labels.plane else grid.reorientation.apply(plane)


def label_grid_difference(image: Path, path: Path, *, slice_index: int = 0, volume: int = 0) -> str:
    """Why an image's labels are not on its grid, in words; "" where they are.

    A label file of one slice fits every slice of its size. Raises ReadError.
    """
    with translate_errors(path.name):
        if is_segmentation(path):
            return ""  # placed, or refused, when it is read
    grid, labels = read_grid(image, volume), _label_grid(path, volume)
    if difference := _volumes_difference(grid, labels, path):
        return difference
    one_slice = labels.slices == 1 < grid.slices
    if one_slice or _voxels_of_pixels(grid, labels, slice_index) is not None:
        return ""
    return grid_difference(image, path, volume)


def _label_grid(path: Path, volume: int) -> Grid:
    """The grid of the labels of a volume; labels of one volume serve every volume."""
    grid = read_grid(path)
    return read_grid(path, volume) if grid.volumes > 1 else grid


def _volumes_difference(grid: Grid, labels: Grid, path: Path) -> str:
    """Why labels have other volumes than the image, such as one of each class; "" if they fit."""
    if labels.volumes in (1, grid.volumes):
        return ""
    return (
        f"{path.name} has {labels.volumes} volumes and the image {grid.volumes}: save one label "
        "map of class numbers, or one for each volume of the image"
    )


def _corners(grid: Grid, labels: Grid, slice_index: int) -> NDArray[np.float64] | None:
    """Labels' (column, row, slice) indices (3, 4) of a slice's corners.

    The first pixel, the last of its row, the last of its column, the last; None where one of the
    two files does not state its position.
    """
    one, other = grid.geometry.affine, labels.geometry.affine
    if one is None or other is None:
        return None
    rows, columns = grid.shape
    ends = [(0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)]
    corners = np.array([(column, row, slice_index, 1) for column, row in ends], np.float64).T
    indices: NDArray[np.float64] = (np.linalg.inv(other) @ one @ corners)[:3]
    return indices


def _voxels_of_pixels(grid: Grid, labels: Grid, slice_index: int) -> _Voxels | None:
    """The voxels of a label map that are the pixels of a slice; None where they are not."""
    corners = _corners(grid, labels, slice_index)
    if corners is None:
        return None
    nearest = np.rint(corners).astype(np.intp)
    size = np.array([*labels.shape[::-1], labels.slices])[:, None]
    inside = (nearest >= 0).all() and (nearest < size).all()
    if not inside or np.abs(corners - nearest).max() > GRID_TOLERANCE:
        return None
    first, right, bottom, _ = nearest.T
    across = whole_step(right - first, grid.shape[1])
    down = whole_step(bottom - first, grid.shape[0])
    return None if across is None or down is None else (first, across, down)


def _read_section(read: Callable[[int], Labels], voxels: _Voxels, shape: tuple[int, int]) -> Labels:
    """The labels (row, column) of this shape at these voxels."""
    first, across, down = voxels
    if (*across, *down) == _SIDE_BY_SIDE:
        left, top, index = first
        return read(int(index))[top : top + shape[0], left : left + shape[1]]
    rows, columns = np.indices(shape)
    first, across, down = (each[:, None, None] for each in (first, across, down))
    label_columns, label_rows, slices = first + across * columns + down * rows
    low, high = int(slices.min()), int(slices.max())
    planes = np.stack([read(index) for index in range(low, high + 1)])
    section: Labels = planes[slices - low, label_rows, label_columns]
    return section
