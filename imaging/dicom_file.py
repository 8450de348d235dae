"""A DICOM file, opened without trusting it: bounded, its transfer syntax settled."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from wsseg.imaging.errors import ReadError

# A deflated data set of 1 MB can hold 1 GB of zeros: inflating stops here.
MAX_INFLATED_BYTES = 2**30

PREAMBLE_BYTES = 128
MAGIC = b"DICM"
_META_GROUP = b"\x02\x00"
_PIXELS_FROM = 0x7FE00008
_GROUP_LENGTH_BYTES = 12
# File meta information fits in far less, whatever the implementation writes.
_META_HEAD_BYTES = 4096

# Whole data sets are deflated in these; pixels elsewhere (JPIP) are not there in any case.
_DEFLATED = (
    DeflatedExplicitVRLittleEndian,
    UID("1.2.840.10008.1.2.4.95"),  # JPIP Referenced Deflate
    UID("1.2.840.10008.1.2.4.205"),  # JPIP HTJ2K Referenced Deflate
)

Stop = Callable[[BaseTag, str | None, int], bool]


def open_dicom(
    path: Path,
    source: str,
    *,
    tags: list[int],
    stop: Stop | None = None,
    leave: int | None = None,
) -> tuple[FileDataset, bool]:
    """Parse the elements `tags` of a DICOM file, with or without preamble, up to `stop`.

    Values of more bytes than `leave` stay in a file that has a preamble until they are asked for.
    The data set's file_meta always has a transfer syntax; the flag tells that it was guessed
    from the encoding because the file names none. Raises whatever pydicom raises on damage, and
    ReadError for a deflated file that grows beyond MAX_INFLATED_BYTES.
    """
    with path.open("rb") as file:
        head = file.read(_META_HEAD_BYTES)
        file.seek(0)
        plain = head[PREAMBLE_BYTES : PREAMBLE_BYTES + len(MAGIC)] == MAGIC
        if plain and any(syntax.encode() in head for syntax in _DEFLATED):
            meta = read_file_meta_info(path)
            if meta.get("TransferSyntaxUID") in _DEFLATED:
                return _inflated(file, source, meta, tags, stop), False
        stream: BinaryIO = file
        leave = leave if plain else None
        if not plain and head.startswith(_META_GROUP):
            stream = BytesIO(bytes(PREAMBLE_BYTES) + MAGIC + file.read())
        dataset = read_partial(
            stream, stop_when=stop, force=True, specific_tags=list(tags), defer_size=leave
        )
    if stop is None and not len(dataset):
        # pydicom forgets all it has parsed where a value of unknown length has no end.
        raise ReadError("truncated", f"{source} ends before its pixels do: copy or export it again")
    return dataset, _settle_syntax(dataset)


def at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    """Where to `stop` for all that stands before the pixels."""
    return int(tag) >= _PIXELS_FROM


def what_stopped(error: Exception) -> str:
    """Why a file could not be parsed, in words; the library's own may quote patient data."""
    if isinstance(error, (EOFError, struct.error)):
        return "ended too early"
    return f"stopped with {type(error).__name__}"


def _inflated(
    file: BinaryIO, source: str, meta: FileMetaDataset, tags: list[int], stop: Stop | None
) -> FileDataset:
    length = int(meta.FileMetaInformationGroupLength)
    file.seek(PREAMBLE_BYTES + len(MAGIC) + _GROUP_LENGTH_BYTES + length)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflater.decompress(file.read(), MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise ReadError(
            "too_large",
            f"{source} inflates beyond {MAX_INFLATED_BYTES >> 30} GiB: convert it to an "
            "uncompressed transfer syntax first, e.g. with dcmconv",
        )
    dataset = read_partial(BytesIO(body), stop_when=stop, force=True, specific_tags=list(tags))
    if meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    return dataset


def _settle_syntax(dataset: FileDataset) -> bool:
    """Give the data set a transfer syntax where it names none; True if it was guessed."""
    named = dataset.file_meta.get("TransferSyntaxUID")
    if isinstance(named, UID) and named:
        return False
    implicit, little_endian = dataset.original_encoding
    syntax: UID = ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else syntax
    return True
