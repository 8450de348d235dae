"""DICOM files from lines of text, so that mutations change values and not the encoding."""

import re
import struct
from collections.abc import Iterator

from pydicom.datadict import dictionary_VR, tag_for_keyword

FILES = 6
"""Files of one input at most."""
_MOST_ITEMS = 8
_META = ("TransferSyntaxUID", b"1.2.840.10008.1.2.1")
_LONG = ("OB", "OW", "SQ", "UN", "UT", "UC", "UR", "OF", "OD", "OL", "OV", "SV", "UV")
_SHORTS = {"US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "FD": "<d", "FL": "<f"}
_STEP = re.compile(r"(\w+?)(?:\.(\d))?$")
_BASE = (
    b"SOPClassUID=1.2.840.10008.5.1.4.1.1.2\nStudyInstanceUID=1.2\nSeriesInstanceUID=1.2.3\n"
    b"Modality=CT\nImageOrientationPatient=1\\0\\0\\0\\1\\0\nPixelSpacing=1\\1\nSamplesPerPixel=1\n"
    b"PhotometricInterpretation=MONOCHROME2\nRows=2\nColumns=2\nBitsAllocated=8\nBitsStored=8\n"
    b"HighBit=7\nPixelRepresentation=0\nPixelData=\1\2\3\4\n"
)

Elements = dict[int, "bytes | list[Elements]"]


def dicom_files(text: bytes) -> Iterator[bytes]:
    """The files that a text describes: a line `Keyword=value` an element, an empty line between.

    `Sequence.1>Keyword=value` is an element of the second item of a sequence. A line replaces what
    a plain CT slice states; one without a value removes it. Lines of no element are ignored.
    """
    for index, part in enumerate(text.split(b"\n\n")[:FILES]):
        own = f"SOPInstanceUID=1.2.3.{index}\nImagePositionPatient=0\\0\\{index}\n".encode()
        elements: Elements = {}
        for line in (_BASE + own + part).split(b"\n"):
            path, _, value = line.partition(b"=")
            _put(elements, path.decode("latin-1"), value)
        meta = _encoded({_tag(_META[0]): _META[1]})
        yield bytes(128) + b"DICM" + meta + _encoded(elements)


def _tag(keyword: str) -> int:
    return tag_for_keyword(keyword) or 0


def _put(elements: Elements, path: str, value: bytes) -> None:
    *steps, last = path.split(">")
    for step in steps:
        found = _STEP.match(step)
        tag = _tag(found[1]) if found else 0
        if not tag or dictionary_VR(tag) != "SQ":
            return
        items = elements.setdefault(tag, [])
        place = min(int(found[2] or 0) if found else 0, _MOST_ITEMS)
        if not isinstance(items, list):
            return
        items += [{} for _ in range(place + 1 - len(items))]
        elements = items[place]
    tag = _tag(last)
    if tag and value:
        elements[tag] = value
    elif tag:
        elements.pop(tag, None)


def _encoded(elements: Elements) -> bytes:
    """Explicit VR, little endian; values of numbers are written as such where they are some."""
    parts = []
    for tag in sorted(elements):
        value, vr = elements[tag], dictionary_VR(tag)[:2]
        if isinstance(value, list):
            items = (_encoded(item) for item in value)
            value, vr = b"".join(b"\xfe\xff\0\xe0" + _length(item) + item for item in items), "SQ"
        elif form := _SHORTS.get(vr):
            value = _packed(value, form)
        value += bytes(len(value) % 2)
        head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
        length = bytes(2) + _length(value) if vr in _LONG else struct.pack("<H", len(value) % 65536)
        parts.append(head + length + value)
    return b"".join(parts)


def _length(value: bytes) -> bytes:
    return struct.pack("<I", len(value))


def _packed(value: bytes, form: str) -> bytes:
    try:
        numbers = [float(each) for each in value.split(b"\\")]
        whole = form[-1].islower() and form[-1] in "df"
        return b"".join(struct.pack(form, each if whole else int(each)) for each in numbers)
    except (ValueError, OverflowError, struct.error):
        return value
