"""The header of a volume of any format, checked against what its file can hold."""

import gzip
import math
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel.nifti1 import Nifti1Header

from wsseg.imaging.errors import ReadError
from wsseg.imaging.orientation import Affine, voxel_mm

MAX_VOLUMES = 32_767  # the most that a NIfTI-1 header can count
DEFLATE_LIMIT = 1032  # deflate cannot shrink data further than this
GZIP_MAGIC = b"\x1f\x8b"
TEXT_HEADER_BYTES = 1 << 20  # of NRRD and MetaImage: a few KB, more with many gradients

_PIXEL_KINDS = "biuf"
_COLOURS = (3, 4)

# Which bytes of the file are compressed: none, all with the header, or those from `start` on.
Packing = Literal["none", "file", "voxels"]
Lengths = tuple[float | None, float | None, float | None]


class NoImageError(ReadError):
    """A volume that by its own header is no image to segment: a label map, a transformation."""


@dataclass(frozen=True)
class Layout:
    """Where and how the voxels are stored: shape (i, j, k), then `volumes` of them.

    start: byte offset of the first voxel, in the unpacked file. order: the axes of the stored
    array, the fastest first: i, j, k, v for volumes, c for the 3 or 4 `channels` of colour, which
    a structured dtype holds in itself. Physical value = slope * stored + offset.
    """

    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype[np.generic]
    start: int
    slope: float = 1.0
    offset: float = 0.0
    channels: int = 1
    order: str = "ijkv"

    @property
    def colour(self) -> bool:
        """Whether a voxel is RGB or RGBA."""
        return self.channels > 1 or self.dtype.names is not None

    @property
    def alpha(self) -> bool:
        """Whether there is a channel of opacity, which is not read."""
        return self.channels == 4 or "A" in (self.dtype.names or ())

    @property
    def decoded_bytes(self) -> int:
        """What the values of one volume take as float32."""
        return math.prod(self.shape) * (3 if self.colour else 1) * 4

    @property
    def stored_bytes(self) -> int:
        """What all voxels take in the unpacked file."""
        return math.prod(self.shape) * self.volumes * self.channels * self.dtype.itemsize


@dataclass(frozen=True)
class VolumeHeader:
    """A header that was read and checked.

    data: the file that holds the voxels. affine: (i, j, k, 1) to RAS+ mm; None where the header
    names no directions of the body, then lengths_mm are the edges of a voxel along i, j, k as far
    as it gives them. label_map: why this is no scan though it can be read; "" for an image.
    nifti: the header itself, where it is one and both its affines can be kept in a label map.
    """

    layout: Layout
    data: Path
    packing: Packing
    affine: Affine | None
    lengths_mm: Lengths
    flags: tuple[str, ...] = ()
    label_map: str = ""
    nifti: Nifti1Header | None = None


def check_layout(layout: Layout, data: Path, packing: Packing, source: str) -> None:
    """Raise ReadError for voxels that are no grey or colour, or not in the file."""
    if layout.dtype.names is None and layout.dtype.kind not in _PIXEL_KINDS:
        raise ReadError(
            "unsupported_type",
            f"{source} holds {layout.dtype} voxels: save its magnitude instead",
        )
    if layout.volumes > MAX_VOLUMES:
        raise ReadError(
            "too_large",
            f"{source} has {layout.volumes} volumes, at most {MAX_VOLUMES} are read: split it",
        )
    needed, size = layout.stored_bytes, data.stat().st_size
    if packing == "voxels":
        held = (size - layout.start) * DEFLATE_LIMIT
    else:
        needed += layout.start
        held = size * (DEFLATE_LIMIT if packing == "file" else 1)
    if needed > held:
        raise ReadError(
            "truncated",
            f"{source} promises {needed} bytes (shape {layout.shape}, {layout.volumes} volumes) "
            f"and can hold at most {max(held, 0)}: copy or export it again",
        )


def colour_channels(values: int, dtype: np.dtype[np.generic], *, stated: bool, source: str) -> int:
    """The channels of a voxel of several values: three or four bytes are RGB or RGBA.

    stated: whether the header calls them colours or vectors, as ITK calls colours too; vectors of
    bytes have no other use. Raises ReadError for all else, which is no image of several times.
    """
    if values == 1:
        return 1
    if stated and values in _COLOURS and dtype == np.uint8:
        return values
    raise vectors(source, f"{values} values a voxel")


def vectors(source: str, what: str) -> ReadError:
    """The refusal of what has several values at one place, other than colours."""
    return ReadError(
        "vectors",
        f"{source} holds {what}, which are neither grey values nor colours nor points in time: "
        "save the component or magnitude that is to be segmented as a volume of its own",
    )


def bad_header(source: str, what: str) -> ReadError:
    """The refusal of a header that says what cannot be."""
    return ReadError(
        "broken_header", f"{source} has an impossible {what} in its header: export it again"
    )


def usable(affine: Affine) -> bool:
    """Whether an affine (4, 4) places every voxel: finite, and no two axes in one direction."""
    if not np.isfinite(affine).all():
        return False
    edges = voxel_mm(affine)
    # The determinant of the unit directions: 1 when square, 0 when they share a plane.
    return bool(edges.all() and abs(np.linalg.det(affine[:3, :3] / edges)) > 1e-3)


def file_packing(path: Path) -> Packing:
    """Whether a file is gzip-compressed as a whole: by its content, whatever its name says."""
    with path.open("rb") as file:
        return "file" if file.read(2) == GZIP_MAGIC else "none"


def open_unpacked(path: Path) -> gzip.GzipFile | BufferedReader:
    """The content of a file, without the gzip compression that it may have as a whole."""
    return gzip.open(path) if file_packing(path) == "file" else path.open("rb")


def known_lengths(lengths: object) -> Lengths:
    """Edges of a voxel along i, j, k; None for each that is no length."""
    values = [float(x) for x in np.ravel(np.asarray(lengths, np.float64))[:3]]
    found = [x if math.isfinite(x) and x > 0 else None for x in values]
    found += [None] * (3 - len(found))
    return found[0], found[1], found[2]


def beside(path: Path, name: str, source: str) -> Path:
    """The file that the header at `path` names for its voxels; raises ReadError.

    Only its own folder is looked in: a header must not make any other file of the machine be
    read. A pair that was renamed together, as by the unpacking of an archive, is still one.
    """
    named = Path(name.replace("\\", "/"))
    choices = (path.with_name(named.name), path.with_suffix(named.suffix))
    elsewhere = named.is_absolute() or len(named.parts) != 1
    found = [] if elsewhere else [choice for choice in choices if choice.is_file()]
    if not found or found[0] == path:
        raise ReadError(
            "no_data_file",
            f"{source} keeps its voxels in another file, which is not beside it: put both files "
            "in one folder, under the name that the header gives",
        )
    return found[0]
