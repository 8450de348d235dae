"""A volume file, opened: its header checked, its voxels still on disk."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray

from wsseg.imaging.errors import ReadError
from wsseg.imaging.nifti_header import Layout, data_path, placement, read_header, read_layout
from wsseg.imaging.orientation import Affine, display_plane, display_turn
from wsseg.imaging.scan import FileRef
from wsseg.imaging.turn import PlaneName, Turn

# An opened .gz file keeps its place in the stream, so that reading on costs no second start.
OPENED_FILES = 8


@dataclass(frozen=True)
class VolumeFile:
    """header: as stored, zero qfac mended. affine: (i, j, k, 1) to RAS+ mm, None without one.

    `turn` brings a plane (i, j) to display order; k counts the slices. Threads that read volumes
    of one .gz file by turns would send it back to its start each time: `one_reader` stops that.
    """

    source: str
    header: Nifti1Header
    layout: Layout
    affine: Affine | None
    turn: Turn
    flags: tuple[str, ...]
    voxels: ArrayProxy
    one_reader: AbstractContextManager[object]

    @property
    def plane_shape(self) -> tuple[int, int]:
        """(rows, columns) of a slice in display order."""
        return self.turn.shape(self.layout.shape[:2])

    @property
    def plane_name(self) -> PlaneName:
        """The plane of the body that the slices are nearest to."""
        return "" if self.affine is None else display_plane(self.affine)

    def plane(self, slice_index: int, volume: int = 0) -> NDArray[np.float32]:
        """One slice (row, column) or (row, column, 3) in display order and physical units.

        Values that are not finite are left in place. Raises ReadError for damaged data.
        """
        stored = self._stored(slice_index, volume)
        if stored.dtype.names:
            stored = np.stack([stored[name] for name in "RGB"], axis=-1)
        values = self.turn.apply(stored)
        if (self.layout.slope, self.layout.offset) != (1.0, 0.0):
            values = values * np.float64(self.layout.slope) + self.layout.offset
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is treated as such
            return np.ascontiguousarray(values, dtype=np.float32)

    def planes(self, volume: int = 0) -> NDArray[np.float32]:
        """All slices of a volume as `plane` gives them: (slice, row, column[, 3])."""
        colours = (3,) if self.layout.dtype.names else ()
        slices = self.layout.shape[2]
        pixels = np.empty((slices, *self.plane_shape, *colours), np.float32)
        with self.one_reader:
            for index in range(slices):
                pixels[index] = self.plane(index, volume)
        return pixels

    def _stored(self, slice_index: int, volume: int) -> NDArray[Any]:
        try:
            return np.asarray(self.voxels[:, :, slice_index, volume])
        except (EOFError, OSError, TypeError, ValueError) as error:
            raise ReadError(
                "truncated",
                f"{self.source} ends or breaks before slice {slice_index} of volume {volume}: "
                "copy or export it again",
            ) from error


def open_volume(file: FileRef) -> VolumeFile:
    """Open a .nii, .nii.gz or .hdr/.img file and check its header; no voxel is read.

    Raises ReadError for a header that is broken or promises more than the file can hold.
    """
    status = file.path.stat()
    # A forked process shares its parent's file positions: it must open files of its own.
    return _open(file.path, file.source, (os.getpid(), status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=OPENED_FILES)
def _open(path: Path, source: str, _version: tuple[int, int, int]) -> VolumeFile:
    header, single = read_header(path, source)
    data = path if single else data_path(path, source)
    layout = read_layout(header, data, source)
    affine, flags = placement(header, layout.shape, source)
    turn = Turn() if affine is None else display_turn(affine)
    spec = ((*layout.shape, layout.volumes), layout.dtype, layout.start)
    compressed = data.suffix.lower() == ".gz"
    # No memory map: a file that shrinks while it is mapped kills the process.
    voxels = ArrayProxy(str(data), spec, mmap=False, keep_file_open=compressed)
    one_reader = Lock() if compressed else nullcontext()
    return VolumeFile(source, header, layout, affine, turn, flags, voxels, one_reader)
