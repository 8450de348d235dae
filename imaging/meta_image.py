"""MetaImage headers: .mha, and .mhd with its voxels in another file."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsseg.imaging.errors import ReadError
from wsseg.imaging.orientation import RAS_TO_LPS, Affine
from wsseg.imaging.volume_header import (
    TEXT_HEADER_BYTES,
    Layout,
    NoImageError,
    Packing,
    VolumeHeader,
    bad_header,
    beside,
    check_layout,
    colour_channels,
    known_lengths,
    usable,
)

# https://itk.org/Wiki/ITK/MetaIO/Documentation
_DTYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "long": "i4",  # four bytes by the format, whatever the machine
    "ulong": "u4",
    "long_long": "i8",
    "ulong_long": "u8",
    "float": "f4",
    "double": "f8",
}
_FIRST_LINES = re.compile(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=")
_LINE = re.compile(rb"[ \t]*([A-Za-z]+)[ \t]*=[ \t]*(.*?)[ \t]*\r?\n")
_LOCAL = "local"
_DIMENSIONS = (2, 3, 4)


def is_meta_image(start: bytes) -> bool:
    """Whether a file starts with the text of a MetaImage header."""
    found = _FIRST_LINES.match(start)
    return found is not None and (found[1] == b"ObjectType" or b"NDims" in start)


def read_meta_image(path: Path, source: str) -> VolumeHeader:
    """The header of a MetaImage file; raises ReadError for one that is broken or no image.

    A fourth dimension is time. Positions are those of ITK: LPS mm.
    """
    fields, end = _fields(path, source)
    if fields.get("objecttype", "image").lower() != "image" and "dimsize" not in fields:
        raise NoImageError("no_image", f"{source} is a MetaIO object, not an image to segment")
    sizes = [int(size) for size in _numbers(fields, "dimsize", source)]
    count = int(_number(fields, "ndims", source))
    if count not in _DIMENSIONS or len(sizes) != count or min(sizes) < 1:
        raise bad_header(source, f"number or size of dimensions {sizes[:5]}")
    if _scaled(fields, source):
        raise ReadError(
            "unsupported_format",
            f"{source} asks for its values to be rescaled, which readers of MetaImage do not "
            "agree on: save it with the values that it means",
        )
    shape = (sizes[0], sizes[1], sizes[2] if count > 2 else 1)
    dtype = _dtype(fields, source)
    values = int(fields.get("elementnumberofchannels", "1"))
    channels = colour_channels(values, dtype, said=True, source=source)
    volumes = sizes[3] if count == 4 else 1
    order = "cijkv" if channels > 1 else "ijkv"
    layout = Layout(shape, volumes, dtype, end, channels=channels, order=order)
    data, packing, layout = _data(path, fields, layout, source)
    check_layout(layout, data, packing, source)
    affine = _affine(fields, count, source)
    edges = _numbers(fields, "elementspacing", source) or _numbers(fields, "elementsize", source)
    flags = ("NO_ORIENTATION",) if affine is None else ()
    return VolumeHeader(layout, data, packing, affine, known_lengths(edges), flags)


def data_name(text: bytes) -> str:
    """The file that a MetaImage header names for its voxels; "" where they follow it."""
    found = re.search(rb"^[ \t]*ElementDataFile[ \t]*=[ \t]*(.+?)[ \t]*\r?$", text, re.MULTILINE)
    name = found[1].decode("utf-8", "replace") if found else ""
    return "" if name.lower() == _LOCAL else name


def _fields(path: Path, source: str) -> tuple[Mapping[str, str], int]:
    """The fields of the header by their lower-case names, and the place of the first byte after."""
    with path.open("rb") as file:
        text = file.read(TEXT_HEADER_BYTES)
    fields: dict[str, str] = {}
    place = 0
    while found := _LINE.match(text, place):
        place = found.end()
        name = found[1].decode().lower()
        fields[name] = found[2].decode("utf-8", "replace")
        if name == "elementdatafile":  # always the last
            return fields, place
    # The last line may lack its end where the voxels lie elsewhere.
    if name := data_name(text[place:]):
        return fields | {"elementdatafile": name}, len(text)
    raise ReadError(
        "broken_header", f"{source} does not say where its voxels are: copy or export it again"
    )


def _numbers(fields: Mapping[str, str], name: str, source: str) -> list[float]:
    try:
        return [float(word) for word in fields.get(name, "").split()]
    except ValueError as error:
        raise bad_header(source, name) from error


def _number(fields: Mapping[str, str], name: str, source: str) -> float:
    found = _numbers(fields, name, source)
    if len(found) != 1:
        raise bad_header(source, name)
    return found[0]


def _true(fields: Mapping[str, str], *names: str) -> bool:
    return any(fields.get(name, "").lower() in ("true", "1", "yes") for name in names)


def _scaled(fields: Mapping[str, str], source: str) -> bool:
    slope = _numbers(fields, "elementtointensityfunctionslope", source) or [1.0]
    offset = _numbers(fields, "elementtointensityfunctionoffset", source) or [0.0]
    return slope != [1.0] or offset != [0.0]


def _dtype(fields: Mapping[str, str], source: str) -> np.dtype[np.generic]:
    name = fields.get("elementtype", "").lower().removeprefix("met_").removesuffix("_array")
    if name not in _DTYPES:
        raise bad_header(source, f"element type {name[:20]!r}")
    big = _true(fields, "binarydatabyteordermsb", "elementbyteordermsb")
    return np.dtype(_DTYPES[name]).newbyteorder(">" if big else "<")


def _data(
    path: Path, fields: Mapping[str, str], layout: Layout, source: str
) -> tuple[Path, Packing, Layout]:
    """The file with the voxels, how they are packed in it, and the layout with their place."""
    name = fields["elementdatafile"]
    if name.upper().startswith("LIST") or "%" in name:
        raise ReadError(
            "unsupported_format",
            f"{source} keeps its voxels in several files, which is not read: save it as one .mha",
        )
    if not _true(fields, "binarydata") and "binarydata" in fields:
        raise ReadError(
            "unsupported_format", f"{source} holds its voxels as text: save it as binary"
        )
    local = name.lower() == _LOCAL
    data = path if local else beside(path, name, source)
    packing: Packing = "voxels" if _true(fields, "compresseddata") else "none"
    skip = int(_number(fields, "headersize", source)) if "headersize" in fields else 0
    start = layout.start if local else 0
    if skip == -1 and packing == "none":  # the voxels are what the file ends with
        start = data.stat().st_size - layout.stored_bytes
    elif skip > 0 and not local:
        start = skip
    elif skip:
        raise bad_header(source, f"header size {skip}")
    if start < 0:
        raise ReadError("truncated", f"{source} has too few voxels: copy or export it again")
    return data, packing, replace(layout, start=start)


def _affine(fields: Mapping[str, str], count: int, source: str) -> Affine | None:
    """The map from (i, j, k, 1) to RAS+ mm; None without a body, or where the axes mix with time.

    The matrix holds the direction of each axis in a row.
    """
    named = ("transformmatrix", "rotation", "orientation")
    matrix = next((found for name in named if (found := _numbers(fields, name, source))), [])
    spacing = _numbers(fields, "elementspacing", source)
    if count == 2 or not matrix or not spacing:
        return None
    if len(matrix) != count**2 or len(spacing) != count:
        raise bad_header(source, "direction or spacing")
    directions = np.reshape(matrix, (count, count))
    if count == 4 and (directions[3, :3].any() or directions[:3, 3].any()):
        return None
    named = ("offset", "position", "origin")
    place = next((found for name in named if (found := _numbers(fields, name, source))), [])
    affine = np.eye(4)
    affine[:3, :3] = (directions[:3, :3] * np.array(spacing[:3])[:, np.newaxis]).T
    affine[:3, 3] = (place + [0.0] * 3)[:3]
    affine = RAS_TO_LPS @ affine
    if not usable(affine):
        raise bad_header(source, "direction or spacing")
    return affine
