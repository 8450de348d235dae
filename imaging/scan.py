"""What a file says of its pixels besides their values: modality, unit, and whether they have
colours.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from wsseg.imaging.errors import Failure

# A plane as it is stored and as it is shown: transposed, mirrored, or neither.

PlaneName = Literal["axial", "coronal", "sagittal", ""]
"""The plane of the body that a slice is nearest to; "" where its source does not say."""

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class Reorientation:
    """How a stored plane (i, j) becomes (row, column); by default the two are only exchanged.

    transpose: rows run along j, else along i. The flips are those of the result. A picture or a
    DICOM image is stored as (row, column), so that AS_STORED leaves it alone.
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
"""The turn of a picture, whose rows and columns are shown as they are."""


def reorient_stack(stack: NDArray[Value], turn: Reorientation) -> NDArray[Value]:
    """Slices (slice, i, j, ...) turned to (slice, row, column, ...), in the memory that they have.

    Each slice keeps its place in memory, so that a turned scan takes no more of it; what was given
    must not be used any more.
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


# The slices of a long scan, read when they are asked for: for what is too large for an array.

Plane = NDArray[np.float32]

# Bytes of slices that a long scan holds at a time. Reading on where the last slice ended costs less
# than beginning anew.
HELD_BYTES = 1 << 26

ReadPlanes = Callable[[Sequence[int]], Iterable[Plane]]


class Planes:
    """Slices (row, column) or (row, column, 3) float32, in physical units, like the array
    (slice, row, column[, 3]) they would be: with its shape, its length, each slice by its number
    and all of them in turn.

    `read` gives the slices of the numbers that it is handed, one after the other; what it raises is
    raised when a slice is taken. nbytes: of the slices that are held at most, not of all. Several
    threads may take slices.
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
        """All slices in memory after all."""
        whole = np.empty(self.shape, dtype or self.dtype)
        for index, plane in enumerate(self):
            whole[index] = plane
        return whole

    def take(self, order: Sequence[int]) -> "Planes":
        """The slices of these numbers, in this order."""
        shape = (len(order), *self.shape[1:])
        return Planes(shape, lambda wanted: self._read([order[index] for index in wanted]))

    def each(self, change: Callable[[Plane], Plane], shape: tuple[int, ...]) -> "Planes":
        """The same slices, changed one by one; `shape` is that of all of them together."""
        return Planes(shape, lambda wanted: (change(plane) for plane in self._read(wanted)))


# A scan: pixels in physical units with the geometry and identifiers they came with.

Kind = Literal["dicom", "volume", "picture"]


@dataclass(frozen=True)
class FileRef:
    """A file to read, and the name under which reports show it.

    `source` is the path relative to the input the user named, or `archive.zip/member`. `seen` is
    what told the file from others when it was found (see `changed`), empty where nothing did; it
    is no part of which file it is.
    """

    path: Path
    source: str
    seen: tuple[str | int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class ScanRef:
    """A scan that was found by headers only: enough to read it later.

    `files` are in slice order for DICOM and single otherwise. `volume` is the 0-based time volume
    of a 4-D NIfTI file. `part` numbers the scans that one series was split into (0-based).
    `frames` holds, for each of `files`, the frames that belong to the scan, in slice order and
    0-based (or tiles, of a mosaic); empty where all do. `name_ending` tells the scan's name from
    that of another one with the same series UID. `decoded_bytes` is what its pixels will take as
    float32, by its headers; 0 where they do not say. It is no part of what the scan is.
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
    """Where one slice came from; empty text and None where the source does not say.

    `frame` is 1-based within a multi-frame DICOM object or among the tiles of a mosaic, 0-based
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
    the source gives no length (then mm2 are unknown, ratios are not). positions_mm: (slice,)
    position of each slice along the normal of the pixels as shown, rising or falling with the order
    of the slices; None for unrelated frames. Uneven positions and a
    missing slice keep their true positions here, and a flag on the scan.
    """

    affine: NDArray[np.float64] | None = None
    pixel_mm: tuple[float, float] | None = None
    positions_mm: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Scan:
    """pixels (slice, row, column) or (slice, row, column, 3), float32, in physical units; those
    of a long scan are read when they are asked for.

    Physical units are HU for CT and SUV for PET where no flag says other, else the modality's own
    values after rescale; 0..255 for 8-bit grey and RGB. Rows and columns are in display order, as
    `orientation.show` says: `turn` brought the stored planes there, so that a network sees a body
    in one way however it was stored, and writers turn label maps back. Slices are in the order of
    the source: along the third axis of a volume, along the normal of DICOM planes as stored.
    `plane` is the plane of the body that all of them are nearest to. `failures` are files of this
    scan that could not be read while others could.
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
# "Other", and what a screen was captured on, name no way to make an image.
NAMELESS = ("OT", "SC")
# A pixel has a colour where its channels differ by this part of the largest value, and a picture
# where this part of its pixels do: a coloured scale or logo makes no colour picture.
COLOURED = 0.1
COLOURED_PIXELS = 0.05

Colours = Literal["grey", "colour"]


@dataclass(frozen=True)
class Origin:
    """modality: DICOM's code, "" where the file names none, as no picture and no NIfTI file does.

    unit: "HU", "SUV", "none" for CT and PET whose values are in neither, "" where the file does
    not say.
    """

    modality: str = ""
    unit: str = ""


def scan_origin(scan: Scan) -> Origin:
    """What the headers of a scan say."""
    named = "" if scan.modality in NAMELESS else scan.modality
    modality = RADIOGRAPHY[0] if named in RADIOGRAPHY else named
    unit, missing = UNITS.get(modality, ("", ""))
    return Origin(modality, NO_UNIT if missing in scan.flags else unit)


def colours_of(pixels: NDArray[np.float32]) -> Colours:
    """Whether a picture (row, column[, 3]) has colours worth the name."""
    if pixels.ndim == 2:
        return "grey"
    differ = np.ptp(pixels, axis=-1) > COLOURED * pixels.max()
    return "colour" if differ.mean() > COLOURED_PIXELS else "grey"
