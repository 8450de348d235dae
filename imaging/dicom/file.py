"""A DICOM file, opened without trusting it: bounded, its transfer syntax settled."""

import re
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from wsseg.imaging.errors import ReadError
from wsseg.imaging.files import open_file

# How the pixels of a DICOM file are encoded, and what to do about what is not decoded here.

ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
# Names of transfer syntaxes that are younger than pydicom 3.0.
_NAMES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    DEFLATED_FRAMES: "Deflated Image Frame Compression",
}
JPEG_XL = frozenset(uid for uid, name in _NAMES.items() if name.startswith("JPEG XL"))
# JPEG of retired processes, which libjpeg-turbo reads: spectral selection and full progression.
_RETIRED_JPEG = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (52, 53, 54, 55, 56))
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
# What is decoded here, without pydicom.
OWN = JPEG_XL | _RETIRED_JPEG | {ENCAPSULATED_UNCOMPRESSED, DEFLATED_FRAMES}

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_DCMTK = "convert it to uncompressed first, e.g. with"
# By the beginning of a name, the first that fits: what is there instead of images, and the remedy.
_REMEDIES = (
    ("JPEG-LS", f"{_DCMTK} dcmdjpls"),
    ("JPEG 2000", f"{_DCMTK} gdcmconv --raw"),
    ("RLE", f"{_DCMTK} dcmdrle"),
    ("JPEG", f"{_DCMTK} dcmdjpeg"),
)
_ELSEWHERE = ("JPIP",)
_VIDEO = ("MPEG", "HEVC")
_STREAM = ("SMPTE",)


def is_compressed(syntax: UID) -> bool:
    """Whether pixels are encapsulated, frame by frame; so are those of what is not known."""
    try:
        return syntax.is_compressed
    except ValueError:  # pydicom knows none of that name
        return True


def is_elsewhere(syntax: UID) -> bool:
    """Whether the file holds an address in place of pixels."""
    return name_of(syntax).startswith(_ELSEWHERE)


def can_decode(syntax: str) -> bool:
    """Whether the pixels of a file can be decoded here, with the decoders that are installed."""
    if syntax in OWN:
        return True
    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except (NotImplementedError, ValueError):  # ValueError: no UID at all
        return False


def name_of(syntax: UID) -> str:
    """The name that the standard gives a transfer syntax; "" for those that are not in it."""
    if syntax in _NAMES:
        return _NAMES[syntax]
    return syntax.name if _is_syntax(syntax) and not syntax.is_private else ""


def _is_syntax(syntax: UID) -> bool:
    return bool(syntax.is_private or syntax.type == "Transfer Syntax")


def undecoded(syntax: UID, source: str) -> ReadError:
    """What to do about a file whose pixels no decoder here could turn into an image."""
    name = name_of(syntax)
    if not name:
        return _unnamed(syntax, source)
    if name.startswith(_ELSEWHERE):
        return ReadError(
            "pixels_elsewhere",
            f"{source} holds the address of its pixels only ({name}): fetch it again from the "
            "archive, with its pixels",
        )
    if name.startswith(_VIDEO):
        return ReadError(
            "video",
            f"{source} is a video ({name}), and videos are not decoded: export it as a multi-frame "
            "image, or its frames as pictures",
        )
    if name.startswith(_STREAM):
        return ReadError(
            "unsupported_compression",
            f"{source} belongs to a live video stream ({name}) and holds no frames: export "
            "the recording as a multi-frame image",
        )
    other = "convert it to uncompressed first, with the software that wrote it"
    remedy = next((remedy for start, remedy in _REMEDIES if name.startswith(start)), other)
    remedy = other if name in _NAMES.values() else remedy
    if can_decode(syntax):
        return ReadError(
            "not_decoded",
            f"{source} is compressed as {name}, and no installed decoder could read it: it is "
            f"damaged or of a rare variant; copy it again, or {remedy}",
        )
    known = syntax not in _NAMES and _has_decoder(syntax)
    install = "pip install 'wsseg[codecs]', or " if known else ""
    return ReadError(
        "unsupported_compression",
        f"{source} is encoded as {name}, which no installed decoder reads: {install}{remedy}",
    )


def _has_decoder(syntax: UID) -> bool:
    try:
        get_decoder(syntax)
    except NotImplementedError:
        return False
    return True


def _unnamed(syntax: UID, source: str) -> ReadError:
    if not _UID.fullmatch(syntax):
        what = "what its header names as transfer syntax is no UID: export it again"
        return ReadError("broken_header", f"{source} is damaged, {what}")
    if syntax.is_private:
        return ReadError(
            "unsupported_compression",
            f"{source} is encoded in a way of its maker's own (transfer syntax {syntax}): convert "
            "it to uncompressed first, with the software that wrote it",
        )
    if syntax.name != syntax:
        what = f"it names {syntax.name} as transfer syntax, which is none: export it again"
        return ReadError("broken_header", f"{source} is damaged, {what}")
    return ReadError(
        "unsupported_compression",
        f"{source} names a transfer syntax that is not known here ({syntax}): convert it to "
        "uncompressed first, with the software that wrote it",
    )


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
    with open_file(path) as file:
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
