"""What a file is, by its content; its name decides only where the content does not."""

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from wsseg.imaging.errors import Failure
from wsseg.imaging.files import HeldFile, held_file, holding, seen_by
from wsseg.imaging.hashed_names import real_name, renamed
from wsseg.imaging.nifti import is_analyze, is_mgh
from wsseg.imaging.scan import FileRef
from wsseg.imaging.text_headers import NRRD_MAGIC, is_meta_image
from wsseg.imaging.volume_header import GZIP_MAGIC

HEAD_BYTES = 2048
HELD_BYTES = 1 << 26
"""Size of the largest file that is held in memory while several readers use it."""

Content = Literal["dicom", "volume", "picture", "zip", "tar", "gzip"]
ARCHIVES = ("zip", "tar", "gzip")

_PICTURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # TIFF, BigTIFF
    b"GIF8",
    *(b"\0\0\0\x0cjP  ", b"\xffO\xffQ"),  # JPEG 2000
)
_NETPBM = re.compile(rb"P([1-6]|[fF])\s+[#\d]|P7\s+(#|WIDTH)")
_BITMAP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
# Office documents and libraries are zip archives too, but hold no images to read.
_ZIPPED_DOCUMENT = re.compile(
    r"\.(docx?|docm|xlsx?|xlsm|pptx?|od[tspg]|jar|war|apk|ipa|whl|egg|epub|kmz|xpi|vsix|mlpackage"
    r"|pt|pth|pt2|ckpt|pkg|key|numbers|pages)$",
    re.IGNORECASE,
)
_TAR_MAGIC = (257, b"ustar")
_IMAGE_NAME = re.compile(
    r"\.(dcm|dicom|ima|nii|hdr|img|nrrd|nhdr|mh[ad]|mg[hz]|mnc2?|brik|rec|z?raw|iso"
    r"|vol|vmr|mif|fdf|gipl|ecat|mrxs|vsi|lif|oib|e2e|fda"
    r"|png|jpe?g|jp2|j2k|jpx|tiff?|bmp|dib|gif|webp|p[bgnp]m|tga|pcx|psd|exr|heic|avif"
    r"|zip|tar|tgz|tbz2?|txz|7z|rar)(\.(gz|bz2|xz|zst|z))?$",
    re.IGNORECASE,
)
_VOXELS_NAME = re.compile(r"\.(img|z?raw|rec|brik)(\.gz)?$", re.IGNORECASE)
# (first bytes, where the magic lies) of both versions of the format, in both byte orders.
_NIFTI_STARTS = {
    (348).to_bytes(4, "little"): 344,
    (348).to_bytes(4, "big"): 344,
    (540).to_bytes(4, "little"): 4,
    (540).to_bytes(4, "big"): 4,
}
_NIFTI_MAGICS = (b"n+1", b"ni1", b"n+2", b"ni2")
_UNPACK = "unpack it first"
_CONVERT = "convert it to DICOM, NIfTI, NRRD, PNG or TIFF first"
_FRAMES = "save the frames to be measured as pictures or DICOM first"
_HDF5 = b"\x89HDF\r\n\x1a\n"
# Things that hold images but are not read: (first bytes, name, remedy).
_OTHERS = (
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (b"\x1f\x9d", "a compressed archive", _UNPACK),
    (b"LZIP", "an lzip archive", _UNPACK),
    (_HDF5, "an HDF5 or MINC 2 file", _CONVERT),
    (b"CDF\x01", "a NetCDF or MINC 1 file", _CONVERT),
    (b"CDF\x02", "a NetCDF or MINC 1 file", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", _CONVERT),
    (b"# === DATA DESCRIPTION FILE", "a Philips PAR/REC image", "convert it with dcm2niix first"),
    (b"mrtrix image", "an MRtrix image", "convert it with mrconvert first"),
    (b"#!/usr/local/fdf", "a Varian FDF image", _CONVERT),
    (b"IMGF", "a GE Genesis image", "convert it to DICOM first"),
    (b"!INTERFILE", "an Interfile header", _CONVERT),
    (b"MATRIX7", "an ECAT 7 image", _CONVERT),
    (b"SIMPLE  =", "a FITS image", _CONVERT),
    (b"ZISRAWFILE", "a Zeiss CZI image", _CONVERT),
    (b"\xda\xce\xbe\x0a", "a Nikon ND2 image", _CONVERT),
    (b"\xff\x0a", "a JPEG XL picture", "convert it to PNG or TIFF first"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture", "convert it to PNG or TIFF first"),
    (b"8BPS", "a Photoshop picture", "convert it to PNG or TIFF first"),
    (b"v/1\x01", "an OpenEXR picture", "convert it to TIFF first"),
    (b"#?R", "a Radiance picture", "convert it to TIFF first"),
    (b"II\xbc\x01", "a JPEG XR picture", "convert it to PNG or TIFF first"),
    (b"\x01\xda", "an SGI picture", "convert it to PNG first"),
    (b"\x59\xa6\x6a\x95", "a Sun raster picture", "convert it to PNG first"),
    (b"\x0a\x05\x01\x08", "a PCX picture", "convert it to PNG first"),
    (b"gimp xcf", "a GIMP picture", "export it as PNG first"),
    (b"DDS ", "a DirectDraw picture", "convert it to PNG first"),
    (b"qoif", "a QOI picture", "convert it to PNG first"),
    (b"\x1aE\xdf\xa3", "a video", _FRAMES),
    (b"\x30\x26\xb2\x75", "a video", _FRAMES),
    (b"\0\0\x01\xba", "a video", _FRAMES),
    (b"\0\0\x01\xb3", "a video", _FRAMES),
)
_VTK_IMAGE = re.compile(
    rb"\A(# vtk DataFile.*STRUCTURED_POINTS|.*<VTKFile[^>]*ImageData)", re.DOTALL
)
_ISO_PICTURES = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis")
# Files beside scans, mostly on their discs, that are none: programs, documents.
_NO_IMAGES = (
    *(b"MZ", b"\x7fELF", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe"),
    *(b"%PDF", b"%!PS", b"\xd0\xcf\x11\xe0", b"SQLite format 3"),
)
_MARKS_OF_TEXT = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_ANNEX = re.compile(rb"(\S*/)?annex/objects/")
_LARGE_FILE = b"version https://git-lfs"
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

    @property
    def name(self) -> str:
        """The name of the file, whatever reports call it."""
        return real_name(self.file.source)

    @cached_property
    def unpacked(self) -> "Head":
        """The head of what a gzip file holds, under the name without its suffix."""
        try:
            start = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(self.start, HEAD_BYTES)
        except zlib.error:
            start = b""
        name = re.sub(r"\.t?gz$", "", self.name, flags=re.IGNORECASE)
        source = renamed(self.file.source, name)
        return replace(self, file=replace(self.file, source=source), start=start)


def read_head(file: FileRef) -> Head:
    """The head by which `content_of` recognises a file. Raises OSError."""
    held = held_file(file.path)
    if held is not None:
        return Head(file, held.start, held.version[0])
    with file.path.open("rb") as stream:
        return Head(file, stream.read(HEAD_BYTES), file.path.stat().st_size)


@contextmanager
def opened_once(*paths: Path | None) -> Iterator[None]:
    """Open each file once for all readers of this thread, as long as the block runs.

    A picture or DICOM object of at most HELD_BYTES is read as a whole. Of any other file only the
    head is read: each slice of a volume is read from its own offset. A file that cannot be opened
    is left to its readers, which report why.
    """
    files = {path: _read_once(path) for path in paths if path is not None and not held_file(path)}
    with holding({path: file for path, file in files.items() if file is not None}):
        yield


def _read_once(path: Path) -> HeldFile | None:
    try:
        if not path.is_file():
            return None
        with path.open("rb", buffering=0) as stream:
            about = os.fstat(stream.fileno())
            start = stream.read(HEAD_BYTES)
            whole = about.st_size <= HELD_BYTES and (is_dicom(start) or _is_picture(start))
            content = start + stream.read() if whole else None
    except OSError:
        return None
    return HeldFile(seen_by(about), start, content)


def content_of(head: Head) -> Content | Failure:
    """What to read a file as, by its first bytes; a Failure states why it is no image.

    A packed volume is a volume, any other packed file "gzip". Only where the content does not
    decide it, the name decides whether an image may be lost.
    """
    if head.start.startswith(GZIP_MAGIC):
        return _packed_content(head)
    return _plain_content(head) or _no_image(head)


def _packed_content(head: Head) -> Content | Failure:
    inner = head.unpacked
    if not inner.start:
        return _no_image(head)
    if inner.start.startswith(GZIP_MAGIC):
        return _failed(head, "nested_archive", "is packed twice: unpack it first")
    found = _plain_content(inner)
    if found == "zip":
        return _failed(head, "nested_archive", "is an archive inside an archive: unpack it first")
    if found == "volume":
        in_place = _is_nifti(inner.start) or _is_analyze_pair(inner) or is_mgh(inner.start)
        return "volume" if in_place else "gzip"
    if found:
        return "tar" if found == "tar" else "gzip"
    failure = _no_image(inner)
    message = f"{head.file.source}{failure.message.removeprefix(inner.file.source)}"
    return replace(failure, source=head.file.source, message=message)


def _plain_content(head: Head) -> Content | None:
    name, start = head.name, head.start
    if is_dicom(start):
        return "dicom"
    text = start.startswith(NRRD_MAGIC) or is_meta_image(start)
    if text or _is_nifti(start) or _is_analyze_pair(head) or is_mgh(start):
        return "volume"
    if _is_picture(start):
        return "picture"
    if start.startswith(_ZIP) and not _ZIPPED_DOCUMENT.search(name) and not _is_npz(name):
        return "zip"
    at, magic = _TAR_MAGIC
    return "tar" if start[at : at + len(magic)] == magic else None


def is_dicom(start: bytes) -> bool:
    """True for the DICOM magic, or a plausible first element where the preamble was lost."""
    if start[128:132] == b"DICM":
        return True
    if len(start) < 8:
        return False
    order: Literal["little", "big"] = "big" if start[0] == 0 else "little"
    group, element = (int.from_bytes(start[at : at + 2], order) for at in (0, 2))
    if element not in _FIRST_ELEMENTS.get(group, ()):
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return explicit or int.from_bytes(start[4:8], order) <= _LONGEST_FIRST_VALUE


def _is_nifti(start: bytes) -> bool:
    at = _NIFTI_STARTS.get(start[:4])
    return at is not None and start[at : at + 3] in _NIFTI_MAGICS


def _is_analyze_pair(head: Head) -> bool:
    return head.name.lower().endswith(".hdr") and is_analyze(head.start)


def _is_picture(start: bytes) -> bool:
    if start.startswith(_PICTURES) or _NETPBM.match(start):
        return True
    if start.startswith(b"BM"):
        return int.from_bytes(start[14:18], "little") in _BITMAP_HEADERS
    return start.startswith(b"RIFF") and start[8:12] == b"WEBP"


def _is_npz(name: str) -> bool:
    return name.lower().endswith(".npz")


def _suffix(name: str) -> str:
    """The letters after the last dot; none for a name like IM0001 or 1.2.840.5."""
    found = re.search(r"\.([A-Za-z][A-Za-z0-9_~-]*)$", name.rpartition("/")[2])
    return found[1].lower() if found else ""


def _no_image(head: Head) -> Failure:
    source, start = head.file.source, head.start
    named = _IMAGE_NAME.search(head.name) is not None
    if not head.size:
        # IM0001 or a UID was an image; a DONE or LOCK was left by a program.
        lost = named or (
            not _suffix(head.name) and any(c.isdigit() for c in PurePosixPath(head.name).name)
        )
        message = f"{source} is empty: copy or export it again"
        return Failure(source, "empty_file", message, status="failed" if lost else "skipped")
    if is_pointer(start):
        return _failed(head, "content_missing", f"holds no content: {get_content(start)}")
    if start.startswith(_HDF5) and b"TransformGroup" in start:
        message = f"{source} holds transformations of ITK, not an image to segment"
        return Failure(source, "no_image", message, status="skipped")
    if other := _other(head):
        return _failed(head, "unsupported_format", f"is {other[0]}, which is not read: {other[1]}")
    if _VOXELS_NAME.search(head.name):
        what = "is named like the voxels of an image, but their header is not beside it: copy both"
        return _failed(head, "no_header", what)
    if named and not start.startswith(_NO_IMAGES):
        what = "is named like an image or archive but is none: copy or export it again"
        return _failed(head, "broken_file", what)
    if _suffix(head.name) or start.startswith(_NO_IMAGES) or _is_text(start):
        return Failure(source, "not_an_image", f"{source} is not an image", status="skipped")
    what = "starts like no format that is known here, and may have been an image: "
    return _failed(head, "unknown_content", f"{what}copy it again, or leave it out")


def _failed(head: Head, reason: str, what: str) -> Failure:
    return Failure(head.file.source, reason, f"{head.file.source} {what}")


def is_pointer(content: bytes) -> bool:
    """Whether a link or a file only names content that git-annex or Git LFS stores elsewhere."""
    return _ANNEX.match(content) is not None or content.startswith(_LARGE_FILE)


def get_content(pointer: bytes) -> str:
    """How to get the content that a pointer of git-annex or Git LFS stands for."""
    if pointer.startswith(_LARGE_FILE):
        return "get it first, with git lfs pull"
    return "get it first, with git annex get or datalad get"


def _other(head: Head) -> tuple[str, str] | None:
    start = head.start
    if start[4:8] == b"ftyp":
        picture = start[8:12] in _ISO_PICTURES
        return ("a HEIF picture", "convert it to PNG first") if picture else ("a video", _FRAMES)
    if start.startswith(b"RIFF") and start[8:11] == b"AVI":
        return "a video", _FRAMES
    if _VTK_IMAGE.search(start):
        return "a VTK image", _CONVERT
    if start.startswith(_ZIP) and _is_npz(head.name):
        return "a file of NumPy arrays", _CONVERT
    if _suffix(head.name) == "tga" and start[1] <= 1 and start[2] & ~8 in (1, 2, 3):
        return "a Targa picture", "convert it to PNG first"
    if head.name.endswith(".HEAD") and start.lstrip().startswith(b"type"):
        return "an AFNI header", "convert it with 3dAFNItoNIFTI first"
    if is_analyze(start):
        return "an Analyze header by its start, but not named .hdr", "give the pair its names back"
    found = (other[1:] for other in _OTHERS if start.startswith(other[0]))
    return next(found, None)


def _is_text(start: bytes) -> bool:
    if start.startswith(_MARKS_OF_TEXT):
        return True
    control = sum(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in start)
    return b"\0" not in start and control <= len(start) // 100
