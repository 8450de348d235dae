"""A scan: pixels in physical units, with the geometry, identifiers and origin they came with."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from wsseg.imaging.errors import Failure

PlaneName = Literal["axial", "coronal", "sagittal", ""]
"""The plane of the body that a slice is nearest to; "" where its source does not state it."""

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class Reorientation:
    """How a stored plane (i, j) becomes (row, column); by default the two are only exchanged.

    transpose: rows run along j, else along i. The flips are those of the result. A picture or a
    DICOM image is stored as (row, column), so that AS_STORED does not change it.
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

    def shape(self, stored: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of a stored plane of (i, j) pixels."""
        return stored[::-1] if self.transpose else stored

    @property
    def mirrors(self) -> bool:
        """Whether the shown plane, as (row, column), is a mirror image of the stored (i, j)."""
        return self.transpose ^ self.flip_rows ^ self.flip_columns

    def to_stored(self, shape: tuple[int, int]) -> NDArray[np.float64]:
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


AS_STORED = Reorientation(transpose=False)
"""The reorientation of a picture, whose rows and columns are shown as they are."""


def reorient_stack(stack: NDArray[Value], turn: Reorientation) -> NDArray[Value]:
    """Slices (slice, i, j, ...) as (slice, row, column, ...), in the same memory.

    Each slice keeps its place in memory, so that a reoriented scan needs no more of it; the
    argument must not be used any more.
    """
    if turn == AS_STORED:
        return stack
    stack = np.require(stack, requirements=("C", "W"))
    count, size_i, size_j, *further = stack.shape
    turned = stack.reshape(count, *turn.shape((size_i, size_j)), *further)
    for stored, shown in zip(stack, turned, strict=True):
        shown[...] = turn.apply(stored).copy()
    return turned


def _step(flipped: bool) -> slice:
    return slice(None, None, -1 if flipped else 1)


Plane = NDArray[np.float32]

# Bytes of slices that a long scan holds at a time: reading on from the last slice is cheaper than
# starting again.
HELD_BYTES = 1 << 26

ReadPlanes = Callable[[Sequence[int]], Iterable[Plane]]


class Planes:
    """The slices of a scan that is too large for an array, read when they are used.

    Behaves like the float32 array (slice, row, column[, 3]) in physical units: with its shape and
    length, each slice by its index, and iteration.

    read: returns the slices of the given indices in order; its exceptions are raised when a slice
    is taken. nbytes: of the slices that are held at most, not of all. Several threads may take
    slices.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], read: ReadPlanes) -> None:
        self.shape = shape
        self._read = read
        plane_bytes = int(np.prod(shape[1:])) * self.dtype.itemsize
        self._most = max(1, HELD_BYTES // plane_bytes)
        self.nbytes = self._most * plane_bytes
        self._held: dict[int, Plane] = {}
        self._next = 0
        self._lock = threading.Lock()

    @property
    def ndim(self) -> int:
        """3 for grey slices, 4 for colours."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Plane]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Plane:
        index = range(len(self))[index]
        with self._lock:
            if index not in self._held:
                # In turn, several at once; any other slice alone.
                count = self._most if index == self._next else 1
                wanted = range(index, min(index + count, len(self)))
                self._held.clear()
                self._held.update(zip(wanted, self._read(wanted), strict=True))
            self._next = index + 1
            return self._held[index]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """All slices, read into memory."""
        whole = np.empty(self.shape, dtype or self.dtype)
        for index, plane in enumerate(self):
            whole[index] = plane
        return whole

    def take(self, order: Sequence[int]) -> "Planes":
        """The slices of these indices, in this order."""
        shape = (len(order), *self.shape[1:])
        return Planes(shape, lambda wanted: self._read([order[index] for index in wanted]))

    def each(self, change: Callable[[Plane], Plane], shape: tuple[int, ...]) -> "Planes":
        """The same slices, each changed; shape: of all of them together."""
        return Planes(shape, lambda wanted: (change(plane) for plane in self._read(wanted)))


Kind = Literal["dicom", "volume", "picture"]


@dataclass(frozen=True)
class FileRef:
    """A file to read, and the name under which reports show it.

    source: the path relative to the input the user named, or `archive.zip/member`. seen: the
    version or identity of the file when it was found (see `files.check_unchanged`), empty if
    unknown; it does not count when two references are compared.
    """

    path: Path
    source: str
    seen: tuple[str | int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class ScanRef:
    """A scan that was found by headers only: enough to read it later.

    files: in slice order for DICOM, otherwise one. volume: the time volume (0-based) of a 4-D NIfTI
    file. part: the index (0-based) among the scans that one series was split into. frames: for each
    of `files`, the frames (or tiles of a mosaic) of the scan, in slice order and 0-based; empty
    where all belong to it. name_ending: distinguishes the scan's name from that of another one with
    the same series UID. decoded_bytes: the size of its pixels as float32, by its headers; 0 if
    unknown. It does not count when two references are compared.
    """

    kind: Kind
    files: tuple[FileRef, ...]
    volume: int | None = None
    part: int = 0
    flags: tuple[str, ...] = ()
    frames: tuple[tuple[int, ...], ...] = ()
    name_ending: str = ""
    decoded_bytes: int = field(default=0, compare=False)


@dataclass(frozen=True)
class SliceId:
    """The origin of one slice; empty text and None where the source does not state it.

    frame: 1-based within a multi-frame DICOM object or among the tiles of a mosaic; the 0-based
    time volume for 4-D NIfTI.
    """

    source: str
    instance_uid: str = ""
    frame: int | None = None


@dataclass(frozen=True)
class Geometry:
    """Where the pixels lie in the patient, in LPS millimetres.

    affine: (4, 4), maps (column, row, slice, 1) index to LPS mm; None where the source has no
    patient coordinates. pixel_mm: (row, column) distance between neighbouring pixels; None where
    the source states no length (then mm2 are unknown, ratios are not). positions_mm: (slice,)
    position of each slice along the normal of the pixels as shown, rising or falling with the order
    of the slices; None for unrelated frames. With uneven or missing slices these are the true
    positions, and the scan has a flag.
    """

    affine: NDArray[np.float64] | None = None
    pixel_mm: tuple[float, float] | None = None
    positions_mm: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Scan:
    """pixels: (slice, row, column) or (slice, row, column, 3), float32, in physical units; those
    of a long scan are read when they are used.

    Physical units are HU for CT and SUV for PET unless a flag states otherwise, else the modality's
    own values after rescale; 0..255 for 8-bit grey and RGB. Rows and columns are in display order,
    see `orientation.show`: `reorientation` brought the stored planes there, so that a network sees
    a body in one way however it was stored, and writers undo it for label maps. Slices are in the
    order of the source: along the third axis of a volume, along the normal of DICOM planes as
    stored. plane: the plane of the body that all slices are nearest to. failures: files of this
    scan that could not be read, while others could.
    """

    pixels: NDArray[np.float32] | Planes
    geometry: Geometry
    slices: tuple[SliceId, ...]
    ref: ScanRef
    modality: str = ""
    study_uid: str = ""
    series_uid: str = ""
    flags: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    reorientation: Reorientation = AS_STORED
    plane: PlaneName = ""


# By modality, the unit of its values, and the flag of a scan whose values are not in it.
UNITS = {"CT": ("HU", "NOT_HU"), "PT": ("SUV", "NOT_SUV")}
NO_UNIT = "none"
# Both are single X-ray exposures; DICOM names them by the detector.
RADIOGRAPHY = ("CR", "DX")
# "Other" and screen captures name no modality.
NAMELESS = ("OT", "SC")
# A pixel is coloured if its channels differ by this part of the largest value, and a picture if
# this part of its pixels is: a coloured scale or logo makes no colour picture.
COLOURED = 0.1
COLOURED_PIXELS = 0.05

Colours = Literal["grey", "colour"]


@dataclass(frozen=True)
class Origin:
    """What the header of an image states about its values.

    modality: DICOM's code, "" where the file names none, as in pictures and NIfTI files. unit:
    "HU", "SUV", "none" for CT and PET whose values are in neither, "" where the file does not
    state it.
    """

    modality: str = ""
    unit: str = ""


def scan_origin(scan: Scan) -> Origin:
    """The origin of a scan, by its headers."""
    modality = "" if scan.modality in NAMELESS else scan.modality
    modality = RADIOGRAPHY[0] if modality in RADIOGRAPHY else modality
    unit, missing = UNITS.get(modality, ("", ""))
    return Origin(modality, NO_UNIT if missing in scan.flags else unit)


def colours_of(pixels: NDArray[np.float32]) -> Colours:
    """Whether enough pixels of a picture (row, column[, 3]) are coloured."""
    if pixels.ndim == 2:
        return "grey"
    differ = np.ptp(pixels, axis=-1) > COLOURED * pixels.max()
    return "colour" if differ.mean() > COLOURED_PIXELS else "grey"
