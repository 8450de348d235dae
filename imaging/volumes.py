"""Scans in volume files: one per time volume, each plane turned to display order."""

import gzip
import io
import os
import re
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray

from wsseg.imaging.errors import ReadError, translate_errors
from wsseg.imaging.files import version_of
from wsseg.imaging.intensity import fill_nonfinite
from wsseg.imaging.nifti import HEADER_BYTES, is_mgh, read_mgh, read_nifti
from wsseg.imaging.orientation import (
    RAS_TO_LPS,
    Affine,
    display_plane,
    display_reorientation,
    lps_geometry,
    skew_flags,
)
from wsseg.imaging.scan import FileRef, Geometry, PlaneName, Reorientation, Scan, ScanRef, SliceId
from wsseg.imaging.text_headers import (
    NRRD_MAGIC,
    is_meta_image,
    meta_image_data_name,
    nrrd_data_name,
    read_meta_image,
    read_nrrd,
)
from wsseg.imaging.volume_header import (
    TEXT_HEADER_BYTES,
    Layout,
    NoImageError,
    VolumeHeader,
    beside,
    file_packing,
)

# Volumes kept in two files: which header the voxels in a file belong to.

_ANALYZE = re.compile(r"(?P<stem>.+)\.img(\.gz)?$", re.IGNORECASE)
_TEXT_HEADERS = {".mhd": meta_image_data_name, ".nhdr": nrrd_data_name}
_FOLDERS = 64


def header_beside(path: Path) -> Path | None:
    """The .hdr, .mhd or .nhdr file whose voxels the file `path` holds, if it is such a file."""
    if found := _ANALYZE.match(path.name):
        names = [f"{found['stem']}.{hdr}{gz}" for hdr in ("hdr", "HDR") for gz in ("", ".gz")]
        headers = (path.with_name(name) for name in names)
        if header := next((header for header in headers if header.is_file()), None):
            return header
    if path.suffix.lower() in ("", ".dcm", *_TEXT_HEADERS):
        return None  # most files, and none that a header's writer would name
    try:
        changed = path.parent.stat().st_mtime_ns
    except OSError:
        return None
    return _named_by_headers(path.parent, changed).get(path.name)


@lru_cache(maxsize=_FOLDERS)
def _named_by_headers(folder: Path, _changed: int) -> dict[str, Path]:
    """Files of a folder that its text headers name for their voxels, with those headers."""
    found = {}
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if Path(e.name).suffix.lower() in _TEXT_HEADERS)
    for header in (folder / name for name in names):
        if not header.is_file():
            continue
        try:
            with header.open("rb") as file:
                named = _TEXT_HEADERS[header.suffix.lower()](file.read(TEXT_HEADER_BYTES))
            if named:
                found[beside(header, named, header.name).name] = header
        except (OSError, ReadError):
            continue  # told where the header itself is read
    return found


# A volume file, opened: its header checked, its voxels still on disk.

# An opened .gz file keeps its place in the stream, so that reading on costs no second start.
OPENED_FILES = 8

# Suffixes by which nibabel unpacks a file; what is named otherwise is unpacked here.
_GZIP_SUFFIXES = (".gz", ".mgz")
_UNPACKED_BY_NAME = (*_GZIP_SUFFIXES, ".bz2", ".zst")
_INFLATE_EITHER = 32 + zlib.MAX_WBITS  # a stream of zlib or gzip, told by its header
_PACKED_CHUNK = 1 << 16


@dataclass(frozen=True)
class VolumeFile:
    """`turn` brings a plane (i, j) to display order; k counts the slices.

    Threads that read volumes of one packed file by turns would send it back to its start each
    time: `one_reader` stops that.
    """

    source: str
    header: VolumeHeader
    reorientation: Reorientation
    voxels: ArrayProxy
    one_reader: AbstractContextManager[object]
    data_version: tuple[int, int]

    @property
    def layout(self) -> Layout:
        """Where and how the voxels are stored."""
        return self.header.layout

    @property
    def affine(self) -> Affine | None:
        """The map from (i, j, k, 1) to RAS+ mm, None without directions."""
        return self.header.affine

    @property
    def plane_shape(self) -> tuple[int, int]:
        """(rows, columns) of a slice in display order."""
        return self.reorientation.shape(self.layout.shape[:2])

    @property
    def plane_name(self) -> PlaneName:
        """The plane of the body that the slices are nearest to."""
        return "" if self.affine is None else display_plane(self.affine)

    def plane(self, slice_index: int, volume: int = 0) -> NDArray[np.float32]:
        """One slice (row, column) or (row, column, 3) in display order and physical units.

        Values that are not finite are left in place. Raises ReadError for damaged data.
        """
        layout = self.layout
        values = self.reorientation.apply(self._stored(slice_index, volume))
        if (layout.slope, layout.offset) != (1.0, 0.0):
            values = values * np.float64(layout.slope) + layout.offset
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is treated as such
            # A copy always: a view of the bytes that were read could not be mended.
            return np.array(values, dtype=np.float32, order="C")

    def planes(self, volume: int = 0) -> NDArray[np.float32]:
        """All slices of a volume as `plane` gives them: (slice, row, column[, 3])."""
        colours = (3,) if self.layout.colour else ()
        slices = self.layout.shape[2]
        pixels = np.empty((slices, *self.plane_shape, *colours), np.float32)
        with self.one_reader:
            for index in range(slices):
                pixels[index] = self.plane(index, volume)
        return pixels

    def _stored(self, slice_index: int, volume: int) -> NDArray[Any]:
        """A plane (i, j) or (i, j, 3) as it is stored."""
        layout = self.layout
        chosen = {"k": slice_index, "v": volume}
        index = tuple(chosen.get(axis, slice(None)) for axis in layout.order)
        try:
            stored = np.asarray(self.voxels[index])
        except (EOFError, OSError, TypeError, ValueError, zlib.error) as error:
            raise ReadError(
                "truncated",
                f"{self.source} ends or breaks before slice {slice_index} of volume {volume}: "
                "copy or export it again",
            ) from error
        if stored.dtype.names:
            return np.stack([stored[name] for name in "RGB"], axis=-1)
        if "c" not in layout.order:
            return stored
        channels = np.moveaxis(
            stored, [axis for axis in layout.order if axis in "cij"].index("c"), -1
        )
        return channels[..., :3]


def open_volume(file: FileRef) -> VolumeFile:
    """Open a volume file of any format and check its header; no voxel is read.

    Raises ReadError for a header that is broken or promises more than the file can hold.
    """
    # A forked process shares its parent's file positions: it must open files of its own.
    key = (file.path, file.source, (os.getpid(), *version_of(file.path)))
    opened = _open(*key)
    data = opened.header.data
    if data != file.path and (not data.is_file() or version_of(data) != opened.data_version):
        _open.cache_clear()
        opened = _open(*key)
    return opened


@lru_cache(maxsize=OPENED_FILES)
def _open(path: Path, source: str, _key: tuple[int, int, int]) -> VolumeFile:
    header = _reader(path)(path, source)
    turn = Reorientation() if header.affine is None else display_reorientation(header.affine)
    one_reader = nullcontext() if header.packing == "none" else Lock()
    version = version_of(header.data)
    return VolumeFile(source, header, turn, _voxels(header), one_reader, version)


def _reader(path: Path) -> Callable[[Path, str], VolumeHeader]:
    with gzip.open(path) if file_packing(path) == "file" else path.open("rb") as stream:
        start = stream.read(HEADER_BYTES)
    if start.startswith(NRRD_MAGIC):
        return read_nrrd
    if is_meta_image(start):
        return read_meta_image
    return read_mgh if is_mgh(start) else read_nifti


def _voxels(header: VolumeHeader) -> ArrayProxy:
    layout = header.layout
    sizes = dict(zip("ijk", layout.shape, strict=True)) | {
        "v": layout.volumes,
        "c": layout.channels,
    }
    start = 0 if header.packing == "voxels" else layout.start
    spec = (tuple(sizes[axis] for axis in layout.order), layout.dtype, start)
    # No memory map: a file that shrinks while it is mapped kills the process.
    return ArrayProxy(_stream(header), spec, mmap=False, keep_file_open=True)


def _stream(header: VolumeHeader) -> Any:
    """The file with the voxels: its name where nibabel can tell by it what to do, or a stream."""
    data, suffix = header.data, header.data.suffix.lower()
    if header.packing == "voxels":
        return io.BufferedReader(_Inflated(data, header.layout.start), _PACKED_CHUNK)
    if header.packing == "file":
        return str(data) if suffix == ".gz" else gzip.open(data)
    return _Plain(data) if suffix in _UNPACKED_BY_NAME else str(data)


class _Plain(io.FileIO):
    """A file that closes without a word when nothing uses it any more."""

    def __del__(self) -> None:
        self.close()


class _Inflated(io.RawIOBase):
    """The part of a file from `start` on, inflated as it is read; going back begins again."""

    def __init__(self, path: Path, start: int) -> None:
        self._file = path.open("rb")
        self._start = start
        self._rewind()

    def _rewind(self) -> None:
        self._file.seek(self._start)
        self._inflater = zlib.decompressobj(_INFLATE_EITHER)
        self._place = 0

    def readable(self) -> Literal[True]:
        return True

    def seekable(self) -> Literal[True]:
        return True

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as one step goes; 0 at the end."""
        while not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._file.read(_PACKED_CHUNK)
            if not packed:
                break
            values = self._inflater.decompress(packed, len(buffer))
            if values:
                buffer[: len(values)] = values
                self._place += len(values)
                return len(values)
        return 0

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place counted from the first inflated byte."""
        if whence == io.SEEK_CUR:
            place += self._place
        elif whence != io.SEEK_SET:
            raise io.UnsupportedOperation("the end of a stream is not known")
        if place < self._place:
            self._rewind()
        while self._place < place and self.read(min(_PACKED_CHUNK, place - self._place)):
            pass
        return self._place

    def close(self) -> None:
        """Close the file below too."""
        if not self.closed:
            self._file.close()
        super().close()


def volume_refs(file: FileRef) -> tuple[ScanRef, ...]:
    """The scans in a NIfTI, Analyze, NRRD, MetaImage or MGH file, one per time volume.

    Only its header is read. Raises ReadError for a header that is broken or promises more than
    the file can hold, and NoImageError for a label map or a transformation.
    """
    with translate_errors(file.source):
        header = open_volume(file).header
        if header.label_map:
            raise NoImageError(
                "label_map",
                f"{file.source} is a label map, its header says so ({header.label_map}), not an "
                "image to segment",
            )
    size = header.layout.decoded_bytes
    if header.layout.volumes == 1:
        return (ScanRef("volume", (file,), decoded_bytes=size),)
    return tuple(
        ScanRef("volume", (file,), volume=volume, decoded_bytes=size)
        for volume in range(header.layout.volumes)
    )


def read_volume(ref: ScanRef) -> Scan:
    """Read one time volume, slices along the third axis, planes in display order.

    Values that are not finite become the lowest finite value of their slice (or, where it has
    none, of the volume), with the flag NONFINITE. Raises ReadError.
    """
    file = ref.files[0]
    with translate_errors(file.source):
        opened = open_volume(file)
        pixels = opened.planes(ref.volume or 0)
        geometry = volume_geometry(opened)
        found = {
            "NONFINITE": fill_nonfinite(pixels, file.source),
            "ALPHA_DROPPED": opened.layout.alpha,
            "PX_ONLY": geometry.pixel_mm is None,
        }
        skew = () if opened.affine is None else skew_flags(opened.affine)
        flags = (*ref.flags, *opened.header.flags, *skew)
        flags += tuple(flag for flag, holds in found.items() if holds)
        slices = (SliceId(file.source, frame=ref.volume),) * len(pixels)
        return Scan(
            *(pixels, geometry, slices, ref),
            flags=flags,
            reorientation=opened.reorientation,
            plane=opened.plane_name,
        )


def volume_geometry(opened: VolumeFile) -> Geometry:
    """Where the turned pixels lie; without an affine only the header's voxel lengths are known."""
    size_i, size_j, slices = opened.layout.shape
    if opened.affine is not None:
        turned = RAS_TO_LPS @ opened.affine @ opened.reorientation.to_stored((size_i, size_j))
        return lps_geometry(turned, slices)
    edge_i, edge_j, edge_k = opened.header.lengths_mm
    pixel_mm = (edge_j, edge_i) if edge_i and edge_j else None
    positions = np.arange(slices, dtype=np.float64) * edge_k if edge_k else None
    return Geometry(None, pixel_mm, positions)
