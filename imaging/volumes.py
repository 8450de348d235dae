"""Volume files of every format: scans, one per time volume, with planes in display order."""

import gzip
import io
import os
import re
import zlib
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
from wsseg.imaging.limits import DEFAULT_LIMITS, ReadLimits
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
from wsseg.imaging.stopping import check_not_stopped
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
    open_unpacked,
)

# An opened .gz file keeps its place in the stream, so that reading on costs no second start.
OPENED_FILES = 8
FOLDERS = 64
"""Folders whose pairs of header and voxels are remembered."""

_INFLATE_EITHER = 32 + zlib.MAX_WBITS  # a stream of zlib or gzip, recognised by its header
_PACKED_CHUNK = 1 << 16
_ANALYZE_VOXELS = re.compile(r"(?P<stem>.+)\.img(\.gz)?$", re.IGNORECASE)
_TEXT_HEADERS = {".mhd": meta_image_data_name, ".nhdr": nrrd_data_name}


def volume_refs(file: FileRef, limits: ReadLimits = DEFAULT_LIMITS) -> tuple[ScanRef, ...]:
    """The scans in a NIfTI, Analyze, NRRD, MetaImage or MGH file, one per time volume.

    Only the header is read. Raises ReadError for one that is broken or states more voxels than
    the file can hold or the limits allow, and NoImageError for a label map or a transformation.
    """
    with translate_errors(file.source):
        opened = open_volume(file, limits)
        header = opened.header
        if header.label_map:
            raise NoImageError(
                "label_map",
                f"{file.source} is a label map by its header ({header.label_map}), not an image to "
                "segment",
            )
        opened.check_growth(limits)
    size = header.layout.decoded_bytes
    if header.layout.volumes == 1:
        return (ScanRef("volume", (file,), decoded_bytes=size),)
    return tuple(
        ScanRef("volume", (file,), volume=volume, decoded_bytes=size)
        for volume in range(header.layout.volumes)
    )


def read_volume(ref: ScanRef, limits: ReadLimits = DEFAULT_LIMITS) -> Scan:
    """Read one time volume, slices along the third axis, planes in display order.

    Values that are not finite become the lowest finite value of their slice (or, where it has
    none, of the volume), with the flag NONFINITE. Raises ReadError.
    """
    file = ref.files[0]
    with translate_errors(file.source):
        opened = open_volume(file, limits)
        opened.check_growth(limits)
        pixels = opened.planes(ref.volume or 0)
        geometry = volume_geometry(opened)
        rules = {
            "NONFINITE": fill_nonfinite(pixels, file.source),
            "ALPHA_DROPPED": opened.layout.alpha,
            "PX_ONLY": geometry.pixel_mm is None,
        }
        skew = () if opened.affine is None else skew_flags(opened.affine)
        flags = (*ref.flags, *opened.header.flags, *skew)
        flags += tuple(flag for flag, true in rules.items() if true)
        slices = (SliceId(file.source, frame=ref.volume),) * len(pixels)
        return Scan(
            *(pixels, geometry, slices, ref),
            flags=flags,
            reorientation=opened.reorientation,
            plane=opened.plane_name,
        )


@dataclass(frozen=True)
class VolumeFile:
    """A volume whose header is checked and whose voxels are still on disk.

    reorientation: brings a plane (i, j) to display order; k counts the slices. one_reader: held
    by a thread that reads a whole volume of a packed file, because threads that take turns would
    send it back to its start each time. data_version: of the file with the voxels.
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

    def check_growth(self, limits: ReadLimits) -> None:
        """Raise ReadError for a packed volume that grows too much, unlike any image.

        A label map may: it has few edges.
        """
        if self.header.packing != "none":
            stored = self.data_version[0] // self.layout.volumes
            limits.check_growth(self.layout.decoded_bytes, stored, self.source)

    def plane(self, slice_index: int, volume: int = 0) -> NDArray[np.float32]:
        """One slice (row, column) or (row, column, 3) in display order and physical units.

        Values that are not finite are left in place. Raises ReadError for damaged data.
        """
        layout = self.layout
        chosen = {"k": slice_index, "v": volume}
        try:
            stored = np.asarray(
                self.voxels[tuple(chosen.get(axis, slice(None)) for axis in layout.order)]
            )
        except (EOFError, OSError, TypeError, ValueError, zlib.error) as error:
            raise ReadError(
                "truncated",
                f"{self.source} ends or breaks before slice {slice_index} of volume {volume}: "
                "copy or export it again",
            ) from error
        if stored.dtype.names:
            stored = np.stack([stored[name] for name in "RGB"], axis=-1)
        elif "c" in layout.order:
            axes = [axis for axis in layout.order if axis in "cij"]
            stored = np.moveaxis(stored, axes.index("c"), -1)[..., :3]
        values = self.reorientation.apply(stored)
        if (layout.slope, layout.offset) != (1.0, 0.0):
            values = values * np.float64(layout.slope) + layout.offset
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is treated as such
            # Always a copy: a view of the bytes that were read is not writable.
            return np.array(values, dtype=np.float32, order="C")

    def planes(self, volume: int = 0) -> NDArray[np.float32]:
        """All slices of a volume as `plane` gives them: (slice, row, column[, 3])."""
        colours = (3,) if self.layout.colour else ()
        slices = self.layout.shape[2]
        pixels = np.empty((slices, *self.plane_shape, *colours), np.float32)
        with self.one_reader:
            for index in range(slices):
                check_not_stopped()
                pixels[index] = self.plane(index, volume)
        return pixels


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


def open_volume(file: FileRef, limits: ReadLimits = DEFAULT_LIMITS) -> VolumeFile:
    """Open a volume file of any format and check its header; no voxel is read.

    Raises ReadError for a header that is broken or states more voxels than the file can hold or the
    limits allow.
    """
    # A forked process shares its parent's file positions: it must open files of its own.
    key = (file.path, file.source, (os.getpid(), *version_of(file.path)))
    opened = _open(*key)
    data = opened.header.data
    if data != file.path and (not data.is_file() or version_of(data) != opened.data_version):
        _open.cache_clear()
        opened = _open(*key)
    layout = opened.layout
    limits.check_slice(*layout.shape[:2], file.source)
    limits.check_frames(layout.shape[2], file.source)
    limits.check_scan(layout.decoded_bytes, file.source)
    return opened


@lru_cache(maxsize=OPENED_FILES)
def _open(path: Path, source: str, _key: tuple[int, int, int]) -> VolumeFile:
    with open_unpacked(path) as stream:
        start = stream.read(HEADER_BYTES)
    if start.startswith(NRRD_MAGIC):
        header = read_nrrd(path, source)
    elif is_meta_image(start):
        header = read_meta_image(path, source)
    else:
        header = read_mgh(path, source) if is_mgh(start) else read_nifti(path, source)
    layout, data, suffix = header.layout, header.data, header.data.suffix.lower()
    stream_or_name: Any = str(data)  # nibabel unpacks a file by its name
    if header.packing == "voxels":
        stream_or_name = io.BufferedReader(_Inflated(data, layout.start), _PACKED_CHUNK)
    elif header.packing == "file":
        stream_or_name = str(data) if suffix == ".gz" else gzip.open(data)  # noqa: SIM115  the proxy keeps it
    elif header.packing == "none":
        stream_or_name = _Plain(data)  # by its name, nibabel unpacks it, and may leave it open
    sizes = dict(zip("ijk", layout.shape, strict=True))
    sizes |= {"v": layout.volumes, "c": layout.channels}
    start_byte = 0 if header.packing == "voxels" else layout.start
    spec = (tuple(sizes[axis] for axis in layout.order), layout.dtype, start_byte)
    return VolumeFile(
        source,
        header,
        Reorientation() if header.affine is None else display_reorientation(header.affine),
        # No memory map: a file that shrinks while it is mapped kills the process.
        ArrayProxy(stream_or_name, spec, mmap=False, keep_file_open=True),
        nullcontext() if header.packing == "none" else Lock(),
        version_of(data),
    )


class _Plain(io.FileIO):
    """A file that closes without a warning when nothing uses it any more."""

    def __del__(self) -> None:
        self.close()


class _Inflated(io.RawIOBase):
    """The part of a file from `start` on, inflated as it is read; seeking back starts again."""

    def __init__(self, path: Path, start: int) -> None:
        self._file = path.open("rb")
        self._start = start
        self._rewind()

    def _rewind(self) -> None:
        self._file.seek(self._start)
        self._inflater = zlib.decompressobj(_INFLATE_EITHER)
        self._offset = 0

    def readable(self) -> Literal[True]:
        return True

    def seekable(self) -> Literal[True]:
        return True

    def tell(self) -> int:
        return self._offset

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as one step goes; 0 at the end."""
        while not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._file.read(_PACKED_CHUNK)
            if not packed:
                break
            values = self._inflater.decompress(packed, len(buffer))
            if values:
                buffer[: len(values)] = values
                self._offset += len(values)
                return len(values)
        return 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset from the first inflated byte."""
        if whence == io.SEEK_CUR:
            offset += self._offset
        elif whence != io.SEEK_SET:
            raise io.UnsupportedOperation("the end of a stream is not known")
        if offset < self._offset:
            self._rewind()
        while self._offset < offset and self.read(min(_PACKED_CHUNK, offset - self._offset)):
            pass
        return self._offset

    def close(self) -> None:
        """Close the file below too."""
        if not self.closed:
            self._file.close()
        super().close()


def header_beside(path: Path) -> Path | None:
    """The .hdr, .mhd or .nhdr file whose voxels the file `path` holds, if it is such a file."""
    if match := _ANALYZE_VOXELS.match(path.name):
        names = [f"{match['stem']}.{hdr}{gz}" for hdr in ("hdr", "HDR") for gz in ("", ".gz")]
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


@lru_cache(maxsize=FOLDERS)
def _named_by_headers(folder: Path, _changed: int) -> dict[str, Path]:
    """Files of a folder that its text headers name for their voxels, with those headers."""
    headers = {}
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if Path(e.name).suffix.lower() in _TEXT_HEADERS)
    for header in (folder / name for name in names):
        if not header.is_file():
            continue
        try:
            with header.open("rb") as file:
                named = _TEXT_HEADERS[header.suffix.lower()](file.read(TEXT_HEADER_BYTES))
            if named:
                headers[beside(header, named, header.name).name] = header
        except (OSError, ReadError):
            continue  # reported where the header itself is read
    return headers
