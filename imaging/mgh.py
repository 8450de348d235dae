"""Headers of FreeSurfer's volumes, .mgh and .mgz."""

import gzip
from pathlib import Path

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import HeaderDataError

from wsseg.imaging.errors import ReadError
from wsseg.imaging.orientation import Affine
from wsseg.imaging.volume_header import (
    Layout,
    VolumeHeader,
    bad_header,
    check_layout,
    file_packing,
    known_lengths,
    usable,
)

_VERSION = b"\0\0\0\x01"
_NUMBERS_END = 30  # of the seven numbers and the flag that begin the header
_TYPES = range(11)
_LARGEST_SIDE = 1 << 20


def is_mgh(start: bytes) -> bool:
    """Whether a file starts like an MGH volume: its version, then four sizes and a type."""
    if not start.startswith(_VERSION) or len(start) < _NUMBERS_END:
        return False
    *sizes, kind = np.frombuffer(start, ">i4", 5, offset=4).tolist()
    flag = int.from_bytes(start[28:30], "big")
    return all(0 < size < _LARGEST_SIDE for size in sizes) and kind in _TYPES and flag in (0, 1)


def read_mgh(path: Path, source: str) -> VolumeHeader:
    """The header of an MGH file, packed or not. Raises ReadError for one that cannot be true.

    Without its goodRASFlag the header knows neither lengths nor directions.
    """
    packing = file_packing(path)
    with gzip.open(path) if packing == "file" else path.open("rb") as stream:
        block = stream.read(MGHHeader.template_dtype.itemsize)
    if len(block) < MGHHeader.template_dtype.itemsize:
        raise ReadError("truncated", f"{source} ends within its header: copy or export it again")
    # nibabel fills in a place where the flag says that there is none.
    placed = int.from_bytes(block[28:30], "big") == 1
    header = MGHHeader(block, check=False)
    try:
        dtype = np.dtype(header.get_data_dtype()).newbyteorder(">")
    except (KeyError, HeaderDataError) as error:
        raise bad_header(source, f"data type code {int(header['type'])}") from error
    *shape, frames = (int(size) for size in header["dims"])
    size_i, size_j, size_k = shape
    layout = Layout((size_i, size_j, size_k), frames, dtype, header.get_data_offset())
    check_layout(layout, path, packing, source)
    affine: Affine | None = header.get_affine() if placed else None
    if affine is not None and not usable(affine):
        raise bad_header(source, "direction or voxel size")
    flags = () if placed else ("NO_ORIENTATION",)
    lengths = known_lengths(header["delta"] if placed else ())
    return VolumeHeader(layout, path, packing, affine, lengths, flags)
