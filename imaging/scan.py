"""A scan: pixels in physical units with the geometry and identifiers they came with."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import Failure
from wsseg.imaging.planes import Planes
from wsseg.imaging.turn import AS_STORED, PlaneName, Turn

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
    turn: Turn = AS_STORED
    plane: PlaneName = ""
