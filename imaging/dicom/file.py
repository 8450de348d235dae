"""A DICOM file opened, and its values read, without trusting either.

The file is bounded and its transfer syntax settled; a value that is absent and one that is
malformed both read as none. Warnings of the libraries are kept off the terminal.
"""

import logging
import math
import re
import struct
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Self, TextIO, cast

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from wsseg.imaging.dicom.stream import PREAMBLE, Inflated, Metered, open_metered
from wsseg.imaging.errors import ReadError
from wsseg.imaging.limits import (
    DEFAULT_LIMITS,
    FRAME_HEADER_READS,
    HEADER_BYTES,
    ReadLimits,
)

logger = logging.getLogger(__name__)

_LIBRARIES = ("pydicom", "highdicom", "PIL", "openjpeg", "rle", "jpeg_ls", "pylibjpeg", "gdcm")
# highdicom logs names of patients that it takes for invalid.
_LOGGERS = ("pydicom", "highdicom")

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
# Transfer syntaxes that are decoded here, without pydicom.
OWN = JPEG_XL | _RETIRED_JPEG | {ENCAPSULATED_UNCOMPRESSED, DEFLATED_FRAMES}
# Whole data sets are deflated in these; JPIP files have no pixels in any case.
_DEFLATED = (
    DeflatedExplicitVRLittleEndian,
    UID("1.2.840.10008.1.2.4.95"),  # JPIP Referenced Deflate
    UID("1.2.840.10008.1.2.4.205"),  # JPIP HTJ2K Referenced Deflate
)

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_CONVERT = "convert it to uncompressed first, "
_CONVERT_WITH_WRITER = f"{_CONVERT}with the software that wrote it"
# Remedies by the beginning of the syntax's name; the first that matches holds.
_REMEDIES = (
    ("JPEG-LS", f"{_CONVERT}e.g. with dcmdjpls"),
    ("JPEG 2000", f"{_CONVERT}e.g. with gdcmconv --raw"),
    ("RLE", f"{_CONVERT}e.g. with dcmdrle"),
    ("JPEG", f"{_CONVERT}e.g. with dcmdjpeg"),
)
_REFERENCED = "JPIP"
_VIDEO = ("MPEG", "HEVC")
_STREAM = "SMPTE"

_MAGIC = slice(128, 132)
_META_GROUP = b"\x02\x00"
_PIXELS_FROM, _PIXELS_TO = 0x7FE00008, 0x7FE00010
# The value of the first element: how many bytes of file meta information follow it.
_META_LENGTH = slice(140, 144)
_META_FROM = _META_LENGTH.stop
# File meta information fits in far less, whatever the implementation writes.
_META_HEAD_BYTES = 4096

# Value representations that are written in plain characters: UIDs, and numbers.
_IDENTIFIERS, _NUMERIC = frozenset({"UI"}), frozenset({"DS", "IS"})
# Scanners round direction cosines; beyond this they describe no plane at all.
_RIGHT_ANGLE_TOLERANCE = 0.02
# Some write vectors of another length, which leaves their direction as it is.
_SHORTEST, _LONGEST = 0.5, 2.0

Stop = Callable[[BaseTag, str | None, int], bool]


class _Silence:
    """A context in which the libraries' warnings become debug lines without their text.

    Their messages may quote header values, hence patient data. Warning filters belong to the whole
    process, so threads share one change of them: the first to enter makes it, the last to leave
    takes it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._levels: dict[str, int] = {}
        self._caught: warnings.catch_warnings[None] = warnings.catch_warnings()

    def __enter__(self) -> Self:
        with self._lock:
            if self._depth == 0:
                self._silence()
            self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._caught.__exit__(None, None, None)
                for name, level in self._levels.items():
                    logging.getLogger(name).setLevel(level)

    def _silence(self) -> None:
        for name in _LOGGERS:
            library = logging.getLogger(name)
            self._levels[name] = library.level
            library.setLevel(logging.CRITICAL + 1)
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.filterwarnings("always", module=rf"({'|'.join(_LIBRARIES)})(\.|$)")
        show = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if set(_LIBRARIES) & set(Path(filename).parts):
                logger.debug("%s at %s:%d", category.__name__, Path(filename).name, lineno)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = note


silence_pydicom = _Silence()


def open_dicom(
    path: Path,
    source: str,
    *,
    tags: list[int],
    stop: Stop | None = None,
    leave: int | None = None,
    reads: int = FRAME_HEADER_READS,
    limits: ReadLimits = DEFAULT_LIMITS,
) -> tuple[FileDataset, bool]:
    """Parse the elements `tags` of a DICOM file, with or without preamble, up to `stop`.

    Without `stop` it ends behind the pixels. Values of more bytes than `leave` stay in a file that
    has a preamble until they are accessed. reads: how often pydicom may read, a few times for each
    element. The data set's file_meta always has a transfer syntax; the flag is True if the file
    names none and it was guessed from the encoding. Raises whatever pydicom raises on damage, and
    ReadError for a header that is too long and for a deflated file that grows beyond the limits.
    """
    nbytes = HEADER_BYTES if stop else limits.scan_bytes
    with ExitStack() as opened:
        stream: Metered = opened.enter_context(closing(open_metered(path)))
        stream.allow(source, nbytes=nbytes, reads=reads)
        head = stream.read(_META_HEAD_BYTES)
        plain = head[_MAGIC] == PREAMBLE[_MAGIC]
        if not plain and head.startswith(_META_GROUP):
            head = PREAMBLE + head
            stream = opened.enter_context(closing(open_metered(path, with_preamble=True)))
        stream.seek(0)
        if meta := _meta_of_deflated(head):
            stream.allow(source, nbytes=path.stat().st_size, reads=reads)
            stream.seek(_META_FROM + int(meta.FileMetaInformationGroupLength))
            stream = opened.enter_context(closing(_inflated(stream, path, stop, limits)))
        stream.allow(source, nbytes=nbytes, reads=reads)
        try:
            dataset = read_partial(
                cast(BinaryIO, stream),
                stop_when=stop or _past_pixels,
                force=True,
                specific_tags=list(tags),
                defer_size=leave if plain else None,
            )
        except Exception as error:
            raise stream.refusal or error from None
    if meta:
        dataset.file_meta = meta
        if meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
    elif stop is None and not len(dataset):
        # pydicom forgets all it has parsed where a value of unknown length has no end.
        raise ReadError("truncated", f"{source} ends before its pixels do: copy or export it again")
    named = dataset.file_meta.get("TransferSyntaxUID")
    if isinstance(named, UID) and named:
        return dataset, False
    implicit, little_endian = dataset.original_encoding
    syntax: UID = ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else syntax
    return dataset, True


def _meta_of_deflated(head: bytes) -> FileMetaDataset | None:
    """The file meta information, if by it the data set that follows is deflated."""
    if not any(syntax.encode() in head for syntax in _DEFLATED):
        return None
    end = _META_FROM + int.from_bytes(head[_META_LENGTH], "little")
    meta = read_partial(BytesIO(head[:end])).file_meta
    deflated = meta.get("TransferSyntaxUID") in _DEFLATED
    return meta if deflated and "FileMetaInformationGroupLength" in meta else None


def _inflated(packed: Metered, path: Path, stop: Stop | None, limits: ReadLimits) -> Inflated:
    """The deflated data set in the rest of a file."""
    most = limits.may_inflate(path.stat().st_size)
    how = "convert it to an uncompressed transfer syntax first, e.g. with dcmconv"
    if most == limits.inflated_bytes:
        how = f"{how}, or raise --max-inflated-mb"
    return Inflated(cast(BinaryIO, packed), min(most, HEADER_BYTES) if stop else most, how)


def at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    """A `stop` before the pixels, for everything that precedes them."""
    return int(tag) >= _PIXELS_FROM


def _past_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) > _PIXELS_TO


def parsing_fault(error: Exception) -> str:
    """Why a file could not be parsed, in words; the library's own may quote patient data."""
    if isinstance(error, (EOFError, struct.error)):
        return "ended too early"
    return f"stopped with {type(error).__name__}"


def is_compressed(syntax: UID) -> bool:
    """Whether pixels are encapsulated frame by frame; True for an unknown transfer syntax."""
    try:
        return syntax.is_compressed
    except ValueError:  # pydicom does not know this UID
        return True


def has_referenced_pixels(syntax: UID) -> bool:
    """Whether the file has the address of its pixels instead of pixels (JPIP)."""
    return syntax_name(syntax).startswith(_REFERENCED)


def can_decode(syntax: str) -> bool:
    """Whether an installed decoder reads pixels of this transfer syntax."""
    if syntax in OWN:
        return True
    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except (NotImplementedError, ValueError):  # ValueError: not a UID at all
        return False


def syntax_name(syntax: UID) -> str:
    """The standard's name of a transfer syntax (PS3.6 A); "" for any other UID."""
    if syntax in _NAMES:
        return _NAMES[syntax]
    return "" if syntax.is_private or syntax.type != "Transfer Syntax" else syntax.name


def undecoded(syntax: UID, source: str) -> ReadError:
    """The error for a file whose pixels no decoder could turn into an image, with its remedy."""
    name = syntax_name(syntax)
    if not name:
        return _unnamed_syntax(syntax, source)
    if name.startswith(_REFERENCED):
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
    remedy = next((remedy for start, remedy in _REMEDIES if name.startswith(start)), "")
    if not remedy or name in _NAMES.values():
        remedy = _CONVERT_WITH_WRITER
    if can_decode(syntax):
        return ReadError(
            "not_decoded",
            f"{source} is compressed as {name}, and no installed decoder could read it: it is "
            f"damaged or of a rare variant; copy it again, or {remedy}",
        )
    install = ""
    if syntax not in _NAMES:
        try:
            get_decoder(syntax)
            install = "pip install 'wsseg[codecs]', or "
        except NotImplementedError:  # pydicom has no decoder of it either
            pass
    return ReadError(
        "unsupported_compression",
        f"{source} is encoded as {name}, which no installed decoder reads: {install}{remedy}",
    )


def _unnamed_syntax(syntax: UID, source: str) -> ReadError:
    if not _UID.fullmatch(syntax):
        what = "the transfer syntax in its header is not a UID"
    elif syntax.is_private:
        return ReadError(
            "unsupported_compression",
            f"{source} is encoded in a format of its manufacturer (transfer syntax {syntax}): "
            f"{_CONVERT_WITH_WRITER}",
        )
    elif syntax.name != syntax:
        what = f"it names {syntax.name} as transfer syntax, which is not one"
    else:
        return ReadError(
            "unsupported_compression",
            f"{source} names an unknown transfer syntax ({syntax}): {_CONVERT_WITH_WRITER}",
        )
    return ReadError("broken_header", f"{source} is damaged, {what}: export it again")


@lru_cache
def _tag(keyword: str | int) -> BaseTag:
    return Tag(keyword)


def tags_of(keywords: tuple[str, ...]) -> list[int]:
    """The tags of DICOM keywords such as "PixelSpacing"."""
    return [_tag(keyword) for keyword in keywords]


def value_of(dataset: Dataset, keyword: str | int) -> object:
    """The element's value, or None where it is absent, empty or cannot be parsed.

    A private element has no keyword and is named by its tag.
    """
    # By tag: a keyword would be looked up in the whole dictionary of DICOM each time.
    tag = _tag(keyword)
    try:
        return dataset[tag].value if tag in dataset else None
    except Exception:  # pydicom converts on access and raises many types on malformed values
        return None


def is_empty(dataset: Dataset, keyword: str) -> bool:
    """True where the element is absent or has no value; False for one that cannot be parsed."""
    tag = _tag(keyword)
    if tag not in dataset:
        return True
    value = dataset.get_item(tag).value
    return not (value.strip(b"\0 ") if isinstance(value, bytes) else value)


def text(dataset: Dataset, keyword: str) -> str:
    """The element as text, "" where there is none; several values are joined by backslashes."""
    stored = _stored(dataset, keyword, _IDENTIFIERS)
    if stored is not None and "\\" not in stored:
        return stored
    value = value_of(dataset, keyword)
    if isinstance(value, (MultiValue, list)):
        value = "\\".join(map(str, value))
    return "" if value is None else str(value).strip("\0 ")


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of an element in capitals, none where there is none."""
    value = value_of(dataset, keyword)
    values = value if isinstance(value, (MultiValue, list)) else [value]
    return tuple(str(each).strip("\0 ").upper() for each in values if each is not None)


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None."""
    stored = _stored(dataset, keyword, _NUMERIC)
    value = value_of(dataset, keyword) if stored is None else stored.split("\\")
    written = list(value) if isinstance(value, (MultiValue, list)) else [value]
    while len(written) > count and str(written[-1]).strip() in ("", "None"):  # trailing backslash
        written.pop()
    if len(written) != count:
        return None
    try:
        values = tuple(float(str(each)) for each in written)
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _stored(dataset: Dataset, keyword: str, kinds: frozenset[str]) -> str | None:
    """The characters of an element with a VR among `kinds`, if pydicom has not parsed it.

    pydicom makes an object of each value, which would take most of the time of reading a header.
    """
    element = dataset.get_item(_tag(keyword))
    if not isinstance(element, RawDataElement) or element.VR not in kinds or not element.value:
        return None
    try:
        return element.value.decode("ascii").strip("\0 ")
    except UnicodeDecodeError:
        return None


def number(dataset: Dataset, keyword: str) -> float | None:
    """One finite number, or None."""
    values = numbers(dataset, keyword, 1)
    return values[0] if values else None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """One whole number, or None."""
    value = number(dataset, keyword)
    return int(value) if value is not None and value == int(value) else None


def lengths(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    """Two positive lengths (row distance, column distance), or None."""
    values = numbers(dataset, keyword, 2)
    return (values[0], values[1]) if values and min(values) > 0 else None


def cosines(dataset: Dataset, keyword: str = "ImageOrientationPatient") -> tuple[float, ...] | None:
    """Direction cosines (x, y, z) along a row, then along a column.

    None unless the two are at right angles; vectors of another length are normalised.
    """
    values = numbers(dataset, keyword, 6)
    if values is None:
        return None
    vectors = (values[:3], values[3:])
    norms = [math.sqrt(_dot(vector, vector)) for vector in vectors]
    if min(norms) < _SHORTEST or max(norms) > _LONGEST:
        return None
    if max(abs(norm**2 - 1) for norm in norms) > _RIGHT_ANGLE_TOLERANCE:
        pairs = zip(vectors, norms, strict=True)
        values = tuple(x / norm for vector, norm in pairs for x in vector)
    return values if abs(_dot(values[:3], values[3:])) <= _RIGHT_ANGLE_TOLERANCE else None


def _dot(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def frame_count(dataset: Dataset) -> int:
    """The number of frames that the header states; 1 where it states none."""
    return max(integer(dataset, "NumberOfFrames") or 1, 1)


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, none where it is absent or malformed."""
    value = value_of(dataset, keyword)
    return list(value) if isinstance(value, Sequence) else []


def first_item(dataset: Dataset, keyword: str) -> Dataset:
    """The first item of a sequence, an empty one where there is none."""
    found = items(dataset, keyword)
    return found[0] if found else Dataset()
