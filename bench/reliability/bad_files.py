"""Bad files of each kind, made on the spot and never kept: some would fill a careless program's
memory, or crash it.

Each kind costs its own file its result, with the reason that is named here.
"""

import gzip
import io
import math
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from tests.imaging.conftest import _write_dicom

_CHUNK = 1 << 20
_SEQUENCE = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"

Write = Callable[[Path, int], object]


@dataclass(frozen=True)
class Bad:
    """A kind of bad file.

    write: makes it at a path without a suffix, given to how many bytes a bomb should grow.
    reasons: of its row in the failures table, as far as it has one. skipped: it is not an image,
    and does not change the exit code. harmless: measured as any other file.
    """

    write: Write
    reasons: tuple[str, ...]
    skipped: bool = False


def _dicom(path: Path, **elements: Any) -> Path:
    own: dict[str, Any] = {"SeriesInstanceUID": "1.2.9", "SOPInstanceUID": "1.2.9.1"}
    return _write_dicom(path.with_suffix(".dcm"), **(own | elements))


def _patched(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _zeros(nbytes: int, *, wbits: int) -> bytes:
    """So many zeros, deflated without ever being in memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    parts = [packer.compress(bytes(min(_CHUNK, nbytes - at))) for at in range(0, nbytes, _CHUNK)]
    return b"".join((*parts, packer.flush()))


def _deflated(path: Path, nbytes: int) -> None:
    """A header with a private element of zeros, ahead of its pixels."""
    file = _dicom(path, syntax=DeflatedExplicitVRLittleEndian)
    content = file.read_bytes()
    meta = 144 + struct.unpack("<I", content[140:144])[0]
    body = zlib.decompress(content[meta:], -zlib.MAX_WBITS)
    at = body.index(b"\x10\x00\x10\x00PN")
    element = b"\x09\x00\x10\x10OB\0\0" + struct.pack("<I", nbytes)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [packer.compress(body[:at] + element)]
    parts += [packer.compress(bytes(min(_CHUNK, nbytes - k))) for k in range(0, nbytes, _CHUNK)]
    parts += [packer.compress(body[at:]), packer.flush()]
    file.write_bytes(content[:meta] + b"".join(parts))


def _endless_value(path: Path, _nbytes: int) -> None:
    """Pixels that claim 4 GiB."""
    file = _dicom(path, Rows=4096, Columns=4096)
    _patched(
        file, lambda content: content.replace(b"OW\0\0\0\2\0\0", b"OW\0\0" + b"\xf0\xff\xff\xff")
    )


def _nested(path: Path, _nbytes: int) -> None:
    def change(content: bytes) -> bytes:
        at = content.index(b"\x10\x00\x10\x00PN")
        return content[:at] + _SEQUENCE * 5000 + content[at:]

    _patched(_dicom(path), change)


def _random(suffix: str) -> Write:
    def write(path: Path, _nbytes: int) -> None:
        content = np.random.default_rng(0).bytes(20_000)
        path.with_suffix(suffix).write_bytes(content)

    return write


def _truncated(path: Path, _nbytes: int) -> None:
    _patched(_dicom(path), lambda content: content[: len(content) * 6 // 10])


def _nan_slope(path: Path, _nbytes: int) -> None:
    file = _dicom(path, RescaleSlope=12345678)
    _patched(file, lambda content: content.replace(b"12345678", b"nan     "))


def _crashing(syntax: str) -> Write:
    def write(path: Path, _nbytes: int) -> None:
        pixels = np.random.default_rng(1).bytes(2000)
        _dicom(path, syntax=syntax, PixelData=encapsulate([pixels]))

    return write


def _looping(path: Path, _nbytes: int) -> None:
    """A box of JPEG 2000 that claims to be empty, whose end pydicom 3.0 looks for without end."""
    endless = b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100)
    _dicom(path, syntax=JPEG2000, PixelData=encapsulate([endless]))


def _nifti(*fields: tuple[str, int, tuple[float, ...]]) -> Write:
    """A NIfTI file of 4 x 4 x 4 voxels, with (format, offset, values) put into its header."""

    def write(path: Path, _nbytes: int) -> None:
        header = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).header
        content = bytearray(header.binaryblock + bytes(132))
        for form, at, values in fields:
            struct.pack_into(form, content, at, *values)
        path.with_suffix(".nii").write_bytes(content)

    return write


def _packed_volume(path: Path, nbytes: int) -> None:
    side = 512
    shape = (side, side, max(1, nbytes // side**2))
    header = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4)).header
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = 352
    head = header.binaryblock + bytes(4)
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    parts = [packer.compress(head)]
    parts += [packer.compress(bytes(side**2)) for _ in range(shape[2])]
    path.with_suffix(".nii.gz").write_bytes(b"".join((*parts, packer.flush())))


def _png(path: Path, nbytes: int) -> None:
    side = int(nbytes**0.5)
    packer = zlib.compressobj(9)
    lines = b"".join((*(packer.compress(bytes(side + 1)) for _ in range(side)), packer.flush()))
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", head), (b"IDAT", lines), (b"IEND", b""))
    )
    path.with_suffix(".png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def _tiff(path: Path, nbytes: int) -> None:
    """One strip of zeros."""
    side = int(nbytes**0.5)
    strip = _zeros(side * side, wbits=zlib.MAX_WBITS)
    tags = [
        *((256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 8)),
        *((277, 3, 1), (278, 4, side), (279, 4, len(strip))),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    head = b"II*\0" + struct.pack("<I", 8 + len(strip))
    path.with_suffix(".tif").write_bytes(head + strip + directory)


def _looping_tiff(path: Path, _nbytes: int) -> None:
    """A directory that leads to itself."""
    file = path.with_suffix(".tif")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file)

    def change(content: bytes) -> bytes:
        (at,) = struct.unpack_from("<I", content, 4)
        (tags,) = struct.unpack_from("<H", content, at)
        end = at + 2 + 12 * tags
        return content[:end] + struct.pack("<I", at) + content[end + 4 :]

    _patched(file, change)


def _zip_bomb(path: Path, nbytes: int) -> None:
    with (
        zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros.dcm", "w", force_zip64=True) as member,
    ):
        for _ in range(0, nbytes, _CHUNK):
            member.write(bytes(_CHUNK))


def _zip_slip(path: Path, _nbytes: int) -> None:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.writestr("../../escaped.dcm", b"x")


def _nested_zip(path: Path, _nbytes: int) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.png", b"x")
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.writestr("inner.zip", inner.getvalue())


def _tar_link(path: Path, _nbytes: int) -> None:
    with tarfile.open(path.with_suffix(".tar"), "w") as archive:
        member = tarfile.TarInfo("passwords.dcm")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)


def _gzip_bomb(path: Path, nbytes: int) -> None:
    """A packed DICOM file with an endless tail."""
    file = _dicom(path)
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    parts = [packer.compress(file.read_bytes())]
    parts += [packer.compress(bytes(_CHUNK)) for _ in range(0, nbytes, _CHUNK)]
    file.unlink()
    path.with_suffix(".dcm.gz").write_bytes(b"".join((*parts, packer.flush())))


def _cut_gzip(path: Path, _nbytes: int) -> None:
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(9, 9, 9)), np.eye(4))
    content = gzip.compress(image.to_bytes())
    path.with_suffix(".nii.gz").write_bytes(content[: len(content) // 2])


def _long_nrrd_line(path: Path, nbytes: int) -> None:
    path.with_suffix(".nrrd").write_bytes(b"NRRD0004\n" + b"# " + b"x" * (nbytes // 64))


KINDS: dict[str, Bad] = {
    "DICOM of 65,535 x 65,535 pixels": Bad(
        lambda path, _: _dicom(path, Rows=65535, Columns=65535), ("truncated", "too_large")
    ),
    "DICOM of 2^31 - 1 frames": Bad(
        lambda path, _: _dicom(path, NumberOfFrames=2**31 - 1), ("truncated", "too_many_frames")
    ),
    "RLE that promises 8 GiB": Bad(
        lambda path, _: _dicom(
            path,
            syntax=RLELossless,
            Rows=65535,
            Columns=65535,
            PixelData=encapsulate([bytes(1000)]),
        ),
        ("too_large",),
    ),
    "deflated DICOM bomb": Bad(_deflated, ("too_large",)),
    "pixels that claim 4 GiB": Bad(_endless_value, ("truncated",)),
    "5,000 nested sequences": Bad(_nested, ("broken_header",)),
    "random bytes named .dcm": Bad(_random(".dcm"), ("broken_file",)),
    "random bytes without a name": Bad(_random(""), ("unknown_content",)),
    "DICOM cut at 60 %": Bad(_truncated, ("no_pixels",)),
    "slope that is not a number": Bad(_nan_slope, ("broken_header",)),
    "damaged JPEG-LS": Bad(_crashing(JPEGLSLossless), ("not_decoded", "decoder_crashed")),
    "decoder that loops": Bad(_looping, ("timed_out", "not_decoded")),
    "NIfTI of 32,767^3 voxels": Bad(
        _nifti(("<4h", 40, (3, 32767, 32767, 32767))), ("too_large", "truncated")
    ),
    "NIfTI of negative size": Bad(_nifti(("<4h", 40, (3, -4, 4, 4))), ("broken_header",)),
    "NIfTI placed nowhere": Bad(
        _nifti(("<h", 254, (1,)), ("<4f", 280, (math.nan,) * 4)), ("bad_affine",)
    ),
    "packed NIfTI bomb": Bad(_packed_volume, ("too_large", "inflates")),
    "packed NIfTI that is cut": Bad(_cut_gzip, ("truncated",)),
    "NRRD without an end of its header": Bad(_long_nrrd_line, ("broken_header",)),
    "PNG bomb": Bad(_png, ("too_large", "inflates")),
    "TIFF bomb": Bad(_tiff, ("too_large", "inflates")),
    "TIFF that leads to itself": Bad(_looping_tiff, ("broken_header",)),
    "zip bomb": Bad(_zip_bomb, ("archive_too_large", "archive_bomb")),
    "zip that climbs out": Bad(_zip_slip, ("unsafe_path",)),
    "zip in a zip": Bad(_nested_zip, ("nested_archive",)),
    "tar with a link": Bad(_tar_link, ("unsafe_path",)),
    "gzip bomb": Bad(_gzip_bomb, ("archive_too_large", "archive_bomb")),
    "empty file": Bad(lambda path, _: path.with_suffix(".dcm").touch(), ("empty_file",)),
    "text named .png": Bad(
        lambda path, _: path.with_suffix(".png").write_text("x"), ("broken_file",)
    ),
    "named pipe": Bad(lambda path, _: os.mkfifo(path), ("special_file",), skipped=True),
    "link to a device": Bad(
        lambda path, _: path.symlink_to("/dev/zero"), ("special_file",), skipped=True
    ),
    "link to itself": Bad(lambda path, _: path.symlink_to(path), ("unreadable",)),
    "link to nothing": Bad(lambda path, _: path.symlink_to("nowhere"), ("broken_link",)),
}
"""Every kind, by its name."""
