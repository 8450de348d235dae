"""Reads whole scans, and single slices of images and label maps, of every format."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsseg.imaging.archive import unpacked
from wsseg.imaging.content import Content, content_of, is_dicom, read_head
from wsseg.imaging.dicom import (
    at_pixels,
    dicom_volumes,
    frames_ref,
    open_dicom,
    read_dicom,
    silence_pydicom,
    tags_of,
    text,
    value_of,
)
from wsseg.imaging.errors import Failure, ReadError, translate_errors
from wsseg.imaging.files import Version, open_file, unchanged, version_of
from wsseg.imaging.intensity import fill_nonfinite
from wsseg.imaging.label_values import PLAIN, Numbering, class_numbers, unnamed
from wsseg.imaging.limits import DEFAULT_LIMITS, ReadLimits
from wsseg.imaging.orientation import grid_distance, voxel_mm
from wsseg.imaging.picture_page import ORIENTED, WHITE, Page
from wsseg.imaging.pictures import grey_if_equal, open_picture, picture_geometry, read_picture
from wsseg.imaging.scan import (
    AS_STORED,
    FileRef,
    Geometry,
    Kind,
    Origin,
    PlaneName,
    Reorientation,
    Scan,
    ScanRef,
    scan_origin,
)
from wsseg.imaging.text_headers import SEGMENTS
from wsseg.imaging.volumes import (
    VolumeFile,
    header_beside,
    open_volume,
    read_volume,
    volume_geometry,
)

# A table may have a row for each slice of a file, and several things are read of each row.
_REMEMBERED = 4096

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24  # of the first bytes: a signature of 8, a chunk's head of 8, width and height
_TAGS = tags_of(("Modality", "BitsStored", "RescaleSlope", "RescaleIntercept", "RescaleType"))
_MODES = {"F": "floating-point", "I": "32-bit", "I;16": "16-bit", "I;16B": "16-bit"}

# Corners of two grids may lie this part of the smallest voxel edge apart: above the rounding of
# float32 headers, below what moves a label to another pixel.
GRID_TOLERANCE = 0.1

# A label written as a fraction of at most this step may be a rounded whole number.
LARGEST_LABEL_STEP = 0.5


@dataclass(frozen=True)
class Grid:
    """Size and position of a file's slices in display order, by its header.

    shape: rows and columns. plane: "" where the file does not state it. reorientation: from rows
    and columns as tables, points and drawn pictures count them to those that are shown: a DICOM
    image is counted as it is stored, any other as it is shown. tagged: whether an orientation tag
    (EXIF) turns a picture.
    """

    kind: Kind
    shape: tuple[int, int]
    slices: int
    volumes: int
    geometry: Geometry
    plane: PlaneName = ""
    reorientation: Reorientation = AS_STORED
    tagged: bool = False

    @property
    def placed(self) -> bool:
        """Whether it is known where each pixel lies in the patient."""
        return self.geometry.affine is not None

    @property
    def counted(self) -> tuple[int, int]:
        """Rows and columns as a table counts them."""
        return self.reorientation.shape(self.shape)


def read_slice(path: Path, *, slice_index: int = 0, volume: int = 0) -> NDArray[np.float32]:
    """One slice (row, column) or (row, column, 3), in physical units and display order.

    It has the values and the orientation that reading the whole scan gives. slice_index counts
    the slices of a volume in its order, the pages of a TIFF or the frames of a cine; volume the
    time volumes of a 4-D NIfTI file, or the scans that `find` sees in a DICOM file. Raises
    ReadError.
    """
    return read_slice_and_origin(path, slice_index=slice_index, volume=volume)[0]


def read_slice_and_origin(
    path: Path, *, slice_index: int = 0, volume: int = 0
) -> tuple[NDArray[np.float32], Origin]:
    """One slice as `read_slice` gives it, and what its header states besides its values."""
    with translate_errors(path.name):
        stored, origin = _plane(*_opened(path), slice_index, volume)
        plane = np.require(stored, requirements="W")
        fill_nonfinite(plane[np.newaxis], path.name)
        return grey_if_equal(plane, axes=2), origin


def read_label_slice(
    path: Path,
    *,
    slice_index: int = 0,
    volume: int = 0,
    numbering: Numbering = PLAIN,
    background: int = WHITE,
) -> NDArray[np.uint8]:
    """One slice (row, column) of a label file: class numbers, 0 where no class is.

    Without a map of the numbering the stored whole numbers 0..255; a 1-bit picture gives 0 and 1.
    `background` is what a map's background, and its 255, become: 0 in a mask, 255 in marks. A
    file with one volume serves every volume. Colours, palettes and opacity count as in
    `class_numbers`. Raises ReadError for values that stand for no class.
    """
    with translate_errors(path.name):
        page = _label_page(*_opened(path), slice_index, volume)
        return class_numbers(page, numbering, background=background, name=path.name)


def unnamed_numbers(
    path: Path, numbering: Numbering, *, slice_index: int = 0, volume: int = 0
) -> list[int]:
    """Numbers in a slice of a label file that the numbering's map does not name, sorted.

    Raises ReadError.
    """
    with translate_errors(path.name):
        return unnamed(_label_page(*_opened(path), slice_index, volume), numbering, path.name)


def slice_shape(path: Path, *, slice_index: int = 0, volume: int = 0) -> tuple[int, int]:
    """(rows, columns) of a slice in display order, by the file's header. Raises ReadError."""
    grid = read_grid(path, volume)
    _check_index(path, slice_index, grid.slices, "slice")
    _check_index(path, volume, grid.volumes, "volume")
    return grid.shape


def slice_count(path: Path, volume: int = 0) -> int:
    """Slices of a volume, pages of a TIFF, frames of a cine. Raises ReadError."""
    return read_grid(path, volume).slices


def pixel_mm2(path: Path, volume: int = 0) -> float | None:
    """The area of a pixel in mm2, as when the scan is measured; None where it is not known.

    By the header alone. Raises ReadError.
    """
    sides = read_grid(path, volume).geometry.pixel_mm
    return None if sides is None else sides[0] * sides[1]


def is_turned(path: Path) -> bool:
    """Whether an orientation tag (EXIF) turns a picture as it is read. Raises ReadError."""
    return read_grid(path).tagged


def grid_difference(first: Path, second: Path, volume: int = 0) -> str:
    """How the pixel grids of an image and its label map differ, in words; "" when they do not.

    volume: of the image, and of the label map where it has several. Sizes are compared for all
    formats, positions in the patient for files that state them. Raises ReadError.
    """
    one, other = read_grid(first, volume), read_grid(second)
    if other.volumes > 1:
        other = read_grid(second, volume)
    shape = one.shape if other.plane else one.counted
    if (shape, one.slices) != (other.shape, other.slices):
        return (
            f"{first.name} has {one.slices} slices of {shape} (rows, columns), "
            f"{second.name} {other.slices} of {other.shape}"
        )
    if one.kind == other.kind == "volume" or (one.placed and other.placed):
        affine, second_affine = one.geometry.affine, other.geometry.affine
        if affine is None or second_affine is None:
            same = affine is second_affine
            return "" if same else "only one of the two files states how it is oriented"
        apart = grid_distance(affine, second_affine, (*shape[::-1], one.slices))
        if apart > GRID_TOLERANCE * voxel_mm(affine).min():
            return f"the two grids lie up to {apart:.3g} mm apart in the patient"
    return ""


def read_grid(path: Path, volume: int = 0) -> Grid:
    """The grid of an image or a label map, by its header. Raises ReadError."""
    with translate_errors(path.name):
        return _grid(path, volume, version_of(path))


@lru_cache(maxsize=_REMEMBERED)
def _grid(path: Path, volume: int, _version: Version) -> Grid:
    kind, file = _opened(path)
    if kind == "dicom":
        volumes = dicom_volumes(file)
        _check_index(file, volume, len(volumes), "volume")
        scan = volumes[volume]
        return Grid(
            *(kind, scan.reorientation.shape(scan.stored), len(scan.frames), len(volumes)),
            geometry=scan.geometry,
            plane=scan.plane,
            reorientation=scan.reorientation,
        )
    if kind == "volume":
        opened = _open(file)
        return Grid(
            *(kind, opened.plane_shape, opened.layout.shape[2], opened.layout.volumes),
            geometry=volume_geometry(opened),
            plane=opened.plane_name,
        )
    with open_picture(file, file.name) as picture:
        return Grid(
            *(kind, picture.shape, picture.slices, picture.volumes),
            geometry=picture_geometry(picture),
            tagged=ORIENTED in picture.flags,
        )


def stored_as(path: Path) -> str:
    """A few words on how values are stored, such as "16-bit"; "" where the header cannot be read.

    Only to be compared: files stored in other ways may still be on one scale.
    """
    try:
        return _stored_as(path, version_of(path))
    except Exception:  # whoever reads the file says what is wrong with it
        return ""


@lru_cache(maxsize=_REMEMBERED)
def _stored_as(path: Path, _version: Version) -> str:
    head = read_head(FileRef(path, path.name))
    if head.start.startswith(_PNG):
        return f"{max(8, head.start[_PNG_DEPTH])}-bit"
    if is_dicom(head.start):
        with silence_pydicom:
            dicom, _ = open_dicom(path, path.name, tags=_TAGS, stop=at_pixels)
            words = f"{text(dicom, 'Modality')} {value_of(dicom, 'BitsStored')}-bit"
            slope = value_of(dicom, "RescaleSlope")
            intercept = value_of(dicom, "RescaleIntercept")
            return f"{words}, slope {slope}, intercept {intercept}".strip()
    header = header_beside(path)
    if header or content_of(head) == "volume":
        layout = open_volume(FileRef(header or path, path.name)).layout
        return f"{layout.dtype.name}, slope {layout.slope:g}, intercept {layout.offset:g}"
    with silence_pydicom, open_file(path) as stream, Image.open(stream) as picture:
        return _MODES.get(picture.mode, "8-bit")


def read(ref: ScanRef, limits: ReadLimits = DEFAULT_LIMITS) -> Scan:
    """Read the pixels and geometry of one scan.

    Raises ReadError, and nothing else that a file could cause; with the reason `changed` where the
    file was replaced after it was found.
    """
    file = ref.files[0]
    if ref.kind == "dicom":  # compares the UIDs of its files itself
        with translate_errors(file.source):
            return read_dicom(ref, limits)
    with translate_errors(file.source), unchanged(file):
        return (read_volume if ref.kind == "volume" else read_picture)(ref, limits)


def _opened(path: Path) -> tuple[Kind, Path]:
    """The kind of a file, and the file to read: itself, or a copy of what is packed in it."""
    content = _content(path, version_of(path))
    if content == "gzip":
        path = unpacked(path)
        content = _content(path, version_of(path))
    if content == "zip" or content == "tar" or content == "gzip":
        raise ReadError("archive", f"{path.name} is an archive: unpack it and name one file in it")
    return content, path


@lru_cache(maxsize=_REMEMBERED)
def _content(path: Path, _version: Version) -> Content:
    if header_beside(path):
        return "volume"
    content = content_of(read_head(FileRef(path, path.name)))
    if isinstance(content, Failure):
        raise ReadError(content.reason, content.message)
    return content


def _open(path: Path) -> VolumeFile:
    """The volume in a file, or the one whose voxels the file holds."""
    return open_volume(FileRef(header_beside(path) or path, path.name))


def _check_index(path: Path, index: int, count: int, what: str) -> None:
    if not 0 <= index < count:
        raise ReadError(
            f"no_such_{what}",
            f"{path.name} has {count} {what}s, counted from 0; there is no {what} {index}",
        )


def _plane(
    kind: Kind, path: Path, slice_index: int, volume: int
) -> tuple[NDArray[np.float32], Origin]:
    """The values of a slice in display order, and what its header states besides."""
    if kind == "dicom":
        volumes = dicom_volumes(path)
        _check_index(path, volume, len(volumes), "volume")
        frames = volumes[volume].frames
        _check_index(path, slice_index, len(frames), "slice")
        alone = read_dicom(frames_ref(path, (frames[slice_index],)))
        return alone.pixels[0], scan_origin(alone)
    if kind == "volume":
        opened = _open(path)
        _check_index(path, slice_index, opened.layout.shape[2], "slice")
        _check_index(path, volume, opened.layout.volumes, "volume")
        return opened.plane(slice_index, volume), Origin()
    with open_picture(path, path.name) as picture:
        _check_index(path, slice_index, picture.slices, "slice")
        _check_index(path, volume, picture.volumes, "volume")
        return picture.page(slice_index, volume).shown(), Origin()


def _label_page(kind: Kind, path: Path, slice_index: int, volume: int) -> Page:
    """A slice of a label file, in display order; a file of one volume serves every volume."""
    if kind == "dicom":
        return Page(_plane(kind, path, slice_index, volume)[0])
    if kind == "volume":
        header = _open(path).header
        layout = header.layout
        if header.label_map == SEGMENTS and layout.volumes > 1:
            raise ReadError(
                "overlapping_segments",
                f"{path.name} holds segments in {layout.volumes} layers, because they overlap: "
                "save them as one label map, or one file each",
            )
        plane, _ = _plane(kind, path, slice_index, volume if layout.volumes > 1 else 0)
        scaled = layout.slope != 1.0 and layout.dtype.kind in "iu"
        return Page(_requantised(plane, abs(layout.slope)) if scaled else plane)
    with open_picture(path, path.name) as picture:
        volume = volume if picture.volumes > 1 else 0
        _check_index(path, slice_index, picture.slices, "slice")
        _check_index(path, volume, picture.volumes, "volume")
        if picture.lossy:
            raise ReadError(
                "lossy_labels",
                f"{path.name} is compressed with loss, which changes label numbers: save it as PNG",
            )
        return picture.page(slice_index, volume)


def _requantised(plane: NDArray[np.float32], step: float) -> NDArray[np.float32]:
    """Whole numbers where rounding to multiples of a small step explains every difference.

    Fractions stay as they are, to be refused: those further from a whole number than that, and two
    values that would become one number.
    """
    if step > LARGEST_LABEL_STEP:
        return plane
    whole = np.rint(plane)
    near = np.abs(plane - whole) <= step / 2 + np.spacing(np.abs(plane))
    one_value = len(np.unique(plane)) == len(np.unique(whole))
    return whole if near.all() and one_value else plane
