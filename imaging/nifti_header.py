"""What a NIfTI header says, checked against what the file can hold."""

import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from wsseg.imaging.errors import ReadError
from wsseg.imaging.orientation import Affine, grid_distance, voxel_mm

# 4 GiB of float32: more than any clinical volume, less than a workstation's memory.
MAX_VALUES = 2**30  # voxels, times the channels of colour
MAX_VOLUMES = 32_767  # the most that a NIfTI-1 header can count
DEFLATE_LIMIT = 1032  # deflate cannot shrink data further than this
GZIP_MAGIC = b"\x1f\x8b"
HEADER_BYTES = 540  # of NIfTI-2, the longer one

# Two affines differ when a corner of the grid moves by this part of the smallest voxel edge:
# above the rounding of a float32 quaternion, below what an overlay would show.
AFFINE_TOLERANCE = 0.1

_MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}  # xyzt_units: metre, mm, micron; unknown counts as mm
_PIXEL_KINDS = "biuf"
_HEADER_KINDS: tuple[Any, ...] = (Nifti1Header, Nifti2Header)  # nibabel has no types for them


@dataclass(frozen=True)
class Layout:
    """Where and how the voxels are stored: shape (i, j, k), then `volumes` of them.

    start: byte offset of the first voxel. Physical value = slope * stored + offset.
    """

    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype[np.generic]
    start: int
    slope: float
    offset: float

    @property
    def decoded_bytes(self) -> int:
        """What the values of one volume take as float32."""
        return math.prod(self.shape) * (3 if self.dtype.names else 1) * 4


def read_header(path: Path, source: str) -> tuple[Nifti1Header, bool]:
    """The header of a NIfTI-1 or NIfTI-2 file of either byte order, and whether it is single.

    A single file holds header and voxels; otherwise `path` is the .hdr or .img of a pair.
    """
    path = _sibling(path, ".hdr") or path
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
    if zipped != (path.suffix.lower() == ".gz"):
        found, wanted = ("is", "") if zipped else ("is not", "not ")
        raise ReadError(
            "wrong_suffix",
            f"{source} {found} gzip-compressed, its name says otherwise: rename it so that it "
            f"does {wanted}end in .gz",
        )
    with gzip.open(path) if zipped else path.open("rb") as stream:
        block = stream.read(HEADER_BYTES)
    for kind in _HEADER_KINDS:
        if len(block) >= kind.sizeof_hdr and kind.may_contain_header(block):
            header = kind(block[: kind.sizeof_hdr], check=False)
            return header, header["magic"].item() == kind.single_magic
    raise ReadError(
        "not_nifti", f"{source} has no NIfTI-1 or NIfTI-2 header: convert it with dcm2niix"
    )


def data_path(path: Path, source: str) -> Path:
    """The file with the voxels of a .hdr/.img pair. Raises ReadError when it is not there."""
    found = _sibling(path, ".img")
    if found is None:
        raise ReadError("no_img_file", f"{source} has no .img file beside it: copy both files")
    return found


def _sibling(path: Path, suffix: str) -> Path | None:
    """The other file of a pair (or the same), in the same letter case; None outside a pair."""
    compression = path.suffix if path.suffix.lower() == ".gz" else ""
    plain = path.with_name(path.name.removesuffix(compression))
    if plain.suffix.lower() not in (".hdr", ".img"):
        return None
    same_case = suffix.upper() if plain.suffix.isupper() else suffix
    other = plain.with_suffix(same_case)
    candidates = (other.with_name(other.name + end) for end in (compression, "", ".gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read_layout(header: Nifti1Header, data: Path, source: str) -> Layout:
    """Shape, type and scaling of the voxels in the file `data`; raises ReadError."""
    shape, volumes = _shape(header, source)
    try:
        dtype = np.dtype(header.get_data_dtype())
    except (KeyError, HeaderDataError) as error:
        raise _bad_header(source, f"data type code {int(header['datatype'])}") from error
    if dtype.names is None and dtype.kind not in _PIXEL_KINDS:
        raise ReadError(
            "unsupported_type", f"{source} holds {dtype} voxels: save its magnitude instead"
        )
    _check_size(shape, volumes, len(dtype.names or ("grey",)), source)
    start = float(header["vox_offset"])
    if not 0 <= start < 2**40:
        raise _bad_header(source, f"voxel offset {start}")
    needed = int(start) + math.prod(shape) * volumes * dtype.itemsize
    held = data.stat().st_size * (DEFLATE_LIMIT if data.suffix.lower() == ".gz" else 1)
    if needed > held:
        raise ReadError(
            "truncated",
            f"{source} promises {needed} bytes (shape {shape}, {volumes} volumes) and can hold "
            f"at most {held}: copy or export it again",
        )
    slope, offset = _scaling(header, source)
    return Layout(shape, volumes, dtype, int(start), slope, offset)


def _shape(header: Nifti1Header, source: str) -> tuple[tuple[int, int, int], int]:
    count = int(header["dim"][0])
    sizes = [int(size) for size in header["dim"][1 : count + 1]]
    if not 1 <= count <= 7 or min(sizes) < 1:
        raise _bad_header(source, f"dimensions {[int(size) for size in header['dim']]}")
    if count == 1:
        raise ReadError("not_an_image", f"{source} holds a row of {sizes[0]} values, no image")
    further = [size for size in sizes[3:] if size > 1]
    if len(further) > 1:
        raise ReadError(
            "too_many_dimensions",
            f"{source} has shape {tuple(sizes)}, at most four may exceed 1: save the volumes apart",
        )
    shape = (sizes[0], sizes[1], sizes[2] if count > 2 else 1)
    return shape, math.prod(further)


def _check_size(shape: tuple[int, int, int], volumes: int, channels: int, source: str) -> None:
    if math.prod(shape) * channels > MAX_VALUES or volumes > MAX_VOLUMES:
        raise ReadError(
            "too_large",
            f"{source} has {volumes} volumes of shape {shape} with {channels} values a voxel, at "
            f"most {MAX_VOLUMES} of {MAX_VALUES} values are read: crop or split it",
        )


def _scaling(header: Nifti1Header, source: str) -> tuple[float, float]:
    try:
        slope, offset = header.get_slope_inter()
    except HeaderDataError as error:
        raise _bad_header(source, f"rescale intercept {header['scl_inter']}") from error
    # The standard: a slope of 0 means "not scaled". RGB values are never scaled.
    if slope is None or np.dtype(header.get_data_dtype()).names:
        return 1.0, 0.0
    return slope, offset


def placement(
    header: Nifti1Header, shape: tuple[int, int, int], source: str
) -> tuple[Affine | None, tuple[str, ...]]:
    """The affine from (i, j, k, 1) to RAS+ mm, sform before qform, and flags about it.

    None and NO_ORIENTATION when the header sets neither. AFFINES_DIFFER when it sets two that
    disagree. Raises ReadError for an affine that is not finite or flattens the volume.
    """
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # the standard reads 0 as 1
    sform, _ = header.get_sform(coded=True)
    qform = _qform(header, source)
    chosen = qform if sform is None else sform
    if chosen is None:
        return None, ("NO_ORIENTATION",)
    for affine in (sform, qform):
        if affine is not None and not _usable(affine):
            raise ReadError(
                "bad_affine",
                f"{source} has an affine that is not finite or not invertible: repair its "
                "sform and qform or convert the scan again",
            )
    scale = np.diag([*[millimetres(header)] * 3, 1.0])
    flags: tuple[str, ...] = ()
    if sform is not None and qform is not None:
        limit = AFFINE_TOLERANCE * voxel_mm(sform).min()
        flags = ("AFFINES_DIFFER",) if grid_distance(sform, qform, shape) > limit else ()
    return scale @ chosen, flags


def millimetres(header: Nifti1Header) -> float:
    """How many mm one spatial unit of the header is."""
    return _MILLIMETRES.get(int(header["xyzt_units"]) & 0b111, 1.0)


def _qform(header: Nifti1Header, source: str) -> Affine | None:
    try:
        qform: Affine | None = header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError) as error:
        raise _bad_header(source, "qform") from error
    return qform


def _usable(affine: Affine) -> bool:
    if not np.isfinite(affine).all():
        return False
    edges = voxel_mm(affine)
    # The determinant of the unit directions: 1 when square, 0 when they share a plane.
    return bool(edges.all() and abs(np.linalg.det(affine[:3, :3] / edges)) > 1e-3)


def _bad_header(source: str, what: str) -> ReadError:
    return ReadError(
        "broken_header", f"{source} has an impossible {what} in its header: export it again"
    )
