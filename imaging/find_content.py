"""What a file is by its content: names and suffixes are only believed where content is mute."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import FileRef

HEAD_BYTES = 512

Content = Literal["dicom", "volume", "picture", "zip"]

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
# Office documents, array files and libraries are zip archives too, but nobody means them.
_ZIP_SUFFIXES = (".zip", "")
_NIFTI_NAME = re.compile(r"\.(nii|hdr)(\.gz)?$", re.IGNORECASE)
_IMAGE_NAME = re.compile(r"\.(dcm|dicom|zip|nii(\.gz)?|png|jpe?g|tiff?)$", re.IGNORECASE)
_DETACHED = re.compile(r"(?P<stem>.+)\.img(\.gz)?$", re.IGNORECASE)
_GZIP = b"\x1f\x8b"
# (first bytes, where the magic lies) of both versions of the format, in both byte orders.
_NIFTI_STARTS = {
    (348).to_bytes(4, "little"): 344,
    (348).to_bytes(4, "big"): 344,
    (540).to_bytes(4, "little"): 4,
    (540).to_bytes(4, "big"): 4,
}
_NIFTI_MAGICS = (b"n+1", b"ni1", b"n+2", b"ni2")
_UNPACK = "unpack it first"
_CONVERT = "convert it to DICOM, NIfTI, PNG, JPEG or TIFF first"
# Things that hold images but are not read: (first bytes, name, remedy).
_OTHERS = (
    (_GZIP, "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"NRRD000", "an NRRD image", _CONVERT),
    (b"ObjectType =", "a MetaImage", _CONVERT),
    (b"\x5c\x01\0\0", "an Analyze header", _CONVERT),
    (b"\0\0\x01\x5c", "an Analyze header", _CONVERT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _CONVERT),
    (b"GIF8", "a GIF picture", _CONVERT),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture", _CONVERT),
    (b"\xffO\xffQ", "a JPEG 2000 picture", _CONVERT),
)
# DICOM without preamble: a known first element of group 0002 or 0008.
_FIRST_ELEMENTS = {
    0x0002: {0x0000, 0x0001, 0x0002, 0x0003, 0x0010},
    0x0008: {0x0000, 0x0001, 0x0005, 0x0008, 0x0012, 0x0013, 0x0014, 0x0016, 0x0018, 0x0020},
}
_LONGEST_FIRST_VALUE = 512


@dataclass(frozen=True)
class Head:
    """The first bytes of a file and its size."""

    file: FileRef
    start: bytes
    size: int


def content_of(head: Head) -> Content | Failure:
    """What the file is, or why it is passed over (not an image) or broken (named as one)."""
    name, start = head.file.source, head.start
    if is_dicom(start):
        return "dicom"
    if _NIFTI_NAME.search(name) and _is_nifti(name, start):
        return "volume"
    if start.startswith(_PICTURES):
        return "picture"
    if start.startswith(_ZIP) and _suffix(name) in _ZIP_SUFFIXES:
        return "zip"
    return _no_image(head)


def header_beside(path: Path) -> Path | None:
    """The .hdr file whose voxels the .img file `path` holds, if it is such a file."""
    found = _DETACHED.match(path.name)
    if found is None:
        return None
    names = [f"{found['stem']}.{hdr}{gz}" for hdr in ("hdr", "HDR") for gz in ("", ".gz")]
    beside = (path.with_name(name) for name in names)
    return next((header for header in beside if header.is_file()), None)


def is_dicom(start: bytes) -> bool:
    """True for the DICOM magic, or a plausible first element where the preamble was lost."""
    return start[128:132] == b"DICM" or _starts_data_set(start)


def _starts_data_set(start: bytes) -> bool:
    if len(start) < 8:
        return False
    order: Literal["little", "big"] = "big" if start[0] == 0 else "little"
    group, element = (int.from_bytes(start[at : at + 2], order) for at in (0, 2))
    if element not in _FIRST_ELEMENTS.get(group, ()):
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return explicit or int.from_bytes(start[4:8], order) <= _LONGEST_FIRST_VALUE


def _is_nifti(name: str, start: bytes) -> bool:
    if name.lower().endswith(".gz"):
        return start.startswith(_GZIP)
    at = _NIFTI_STARTS.get(start[:4])
    return at is not None and start[at : at + 3] in _NIFTI_MAGICS


def _suffix(name: str) -> str:
    base = name.rpartition("/")[2]
    return "." + base.rpartition(".")[2].lower() if "." in base else ""


def _no_image(head: Head) -> Failure:
    source = head.file.source
    other = next(
        ((name, todo) for magic, name, todo in _OTHERS if head.start.startswith(magic)), None
    )
    if not head.size:
        reason, what = "empty_file", "is empty: copy or export it again"
    elif other:
        reason, what = "unsupported_format", f"is {other[0]}, which is not read: {other[1]}"
    elif _IMAGE_NAME.search(source):
        reason, what = (
            "broken_file",
            "is named like an image or archive but is none: export it again",
        )
    else:
        return Failure(source, "not_an_image", f"{source} is not an image", status="skipped")
    failed = _IMAGE_NAME.search(source) is not None
    return Failure(source, reason, f"{source} {what}", status="failed" if failed else "skipped")
