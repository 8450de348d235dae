"""Headers written as text: NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd).

The voxels follow the header in the same file, or are in a file that the header names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wsseg.imaging.errors import ReadError
from wsseg.imaging.orientation import RAS_TO_LPS, Affine
from wsseg.imaging.volume_header import (
    TEXT_HEADER_BYTES,
    Layout,
    Lengths,
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

# NRRD: https://teem.sourceforge.net/nrrd/format.html

NRRD_MAGIC = b"NRRD000"
SEGMENTS = "segments"  # why a header says that it is a label map: 3D Slicer's fields

_NRRD_DTYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int"), "i2"),
    **dict.fromkeys(("int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int"), "u2"),
    **dict.fromkeys(("uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("signed long long", "signed long long int"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int"), "u8"),
    **dict.fromkeys(("uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_ENDIANS: dict[str, Literal["<", ">"]] = {"little": "<", "big": ">"}
_PACKINGS: dict[str, Packing] = {"raw": "none", "gzip": "voxels", "gz": "voxels"}
_MILLIMETRES = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "nm": 1e-6}
# Signs that bring the axes of a named space to RAS; spaces without a body have no entry.
_SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras", "rast"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las", "last"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps", "lpst"), (-1, -1, 1)),
}
_COLOUR_KINDS = ("rgb-color", "rgba-color", "3-color", "4-color")
# Kinds of axes along which the same quantity is repeated; all others hold parts of one value.
_SERIES_KINDS = ("time", "list", "none", "???", "domain", "space")
_SEGMENT = re.compile(r"Segment\d+_(ID|LabelValue|Name)$")
_NRRD_DATA = re.compile(rb"^data ?file: *(.+?) *\r?$", re.MULTILINE)


def read_nrrd(path: Path, source: str) -> VolumeHeader:
    """The header of an NRRD file; raises ReadError for one that is broken or holds no image.

    A further axis of time or a list, first or last, gives volumes; one of colours gives RGB.
    """
    fields, start = _nrrd_fields(path, source)
    sizes = [int(size) for size in fields["sizes"]]
    if int(fields["dimension"]) != len(sizes) or min(sizes) < 1:
        raise bad_header(source, f"number or size of dimensions {sizes}")
    directions = _directions(fields, len(sizes))
    spatial = _spatial_axes(fields, directions, source)
    layout = _nrrd_layout(fields, spatial, source)
    name = fields.get("data file", fields.get("datafile"))
    data = path if name is None else beside(path, str(name), source)
    packing = _PACKINGS[str(fields["encoding"]).lower()]
    lines = int(fields.get("line skip", fields.get("lineskip", 0)))
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    if lines or skip < -1 or (skip and packing == "voxels"):
        raise ReadError(
            "unsupported_format",
            f"{source} has its voxels after skipped lines or skipped packed bytes, which is not "
            "read: save it as one .nrrd",
        )
    if skip == -1:
        layout = _at_the_end(layout, data, source)
    else:
        layout = replace(layout, start=(start if name is None else 0) + skip)
    check_layout(layout, data, packing, source)
    affine, lengths = _nrrd_placement(fields, directions, spatial, source)
    return VolumeHeader(
        layout=layout,
        data=data,
        packing=packing,
        affine=affine,
        lengths_mm=lengths,
        flags=("NO_ORIENTATION",) if affine is None else (),
        label_map=SEGMENTS if any(_SEGMENT.match(field) for field in fields) else "",
    )


def nrrd_data_name(text: bytes) -> str:
    """The file that an NRRD header names for its voxels; "" where they follow the header."""
    match = _NRRD_DATA.search(text)
    return match[1].decode("utf-8", "replace") if match else ""


def _nrrd_fields(path: Path, source: str) -> tuple[Mapping[str, Any], int]:
    """The fields of the header, and the offset of the first byte after it."""
    import nrrd

    with path.open("rb") as file:
        text = file.read(TEXT_HEADER_BYTES)
    blank = re.search(rb"\r?\n\r?\n", text)
    header = text[: blank.end()] if blank else text
    _refuse_several_files(nrrd_data_name(header), source, ".nrrd")
    try:
        fields: Mapping[str, Any] = nrrd.read_header(header.splitlines())
    except Exception as error:  # pynrrd raises many kinds on malformed fields
        raise bad_header(source, "field") from error
    missing = [name for name in ("dimension", "sizes", "type", "encoding") if name not in fields]
    if missing:
        raise ReadError(
            "broken_header", f"{source} has no {missing[0]!r} in its header: export it again"
        )
    encoding = str(fields["encoding"])
    if encoding.lower() not in _PACKINGS:
        raise ReadError(
            "unsupported_format",
            f"{source} is encoded otherwise than as raw or gzip: save it as one of them",
        )
    return fields, len(header)


def _directions(fields: Mapping[str, Any], axes: int) -> Affine | None:
    """The (axis, 2 to 4) steps in the space, NaN for an axis without one; None if not given."""
    steps = fields.get("space directions")
    if steps is None:
        return None
    width = max((len(row) for row in steps if row is not None), default=0)
    rows = [[np.nan] * width if row is None else row for row in steps]
    return np.asarray(rows, np.float64) if len(rows) == axes and width in (2, 3, 4) else None


def _kinds(fields: Mapping[str, Any]) -> list[str]:
    return [str(kind).lower() for kind in fields.get("kinds", ())]


def _spatial_axes(
    fields: Mapping[str, Any], directions: Affine | None, source: str
) -> tuple[int, ...]:
    """The axes of the image: those with directions, else those whose kind says so.

    Of four the last is time, as where a series was joined to one volume.
    """
    axes = len(fields["sizes"])
    kinds = _kinds(fields)
    if directions is not None:
        spatial = tuple(np.flatnonzero(np.isfinite(directions).all(axis=1)).tolist())
    elif any(kind in ("domain", "space") for kind in kinds):
        spatial = tuple(i for i, kind in enumerate(kinds) if kind in ("domain", "space"))
    else:
        # Where nothing is stated, colours come first, as in pictures, and time last.
        first = int(bool(kinds) and kinds[0] in _COLOUR_KINDS)
        spatial = tuple(range(first, min(axes, first + 4)))
    spatial = spatial[:3] if len(spatial) == 4 else spatial
    adjacent = bool(spatial) and spatial == tuple(range(spatial[0], spatial[-1] + 1))
    if len(spatial) not in (2, 3) or not adjacent or axes - len(spatial) > 1:
        raise ReadError(
            "too_many_dimensions",
            f"{source} has {axes} axes, {len(spatial)} of them in space: an image of two or three "
            "with one more of time or colour is read; save its parts as files of their own",
        )
    return spatial


def _nrrd_layout(fields: Mapping[str, Any], spatial: tuple[int, ...], source: str) -> Layout:
    """The layout of the voxels, which begin at byte 0 of it."""
    name = str(fields["type"]).lower()
    if name not in _NRRD_DTYPES:
        raise bad_header(source, "type")
    dtype: np.dtype[np.generic] = np.dtype(_NRRD_DTYPES[name])
    if dtype.itemsize > 1:
        endian = str(fields.get("endian", "")).lower()
        if endian not in _ENDIANS:
            raise ReadError(
                "broken_header",
                f"{source} does not state its endian, little or big: export it again",
            )
        dtype = dtype.newbyteorder(_ENDIANS[endian])
    sizes = [int(size) for size in fields["sizes"]]
    size_i, size_j, size_k = [sizes[axis] for axis in spatial] + [1] * (3 - len(spatial))
    grid = (size_i, size_j, size_k)
    other = next((axis for axis in range(len(sizes)) if axis not in spatial), None)
    if other is None:
        return Layout(grid, 1, dtype, 0)
    kinds = _kinds(fields)
    kind = kinds[other] if other < len(kinds) else "none"
    first = other < spatial[0]
    if sizes[other] == 1 or kind in _SERIES_KINDS:
        return Layout(grid, sizes[other], dtype, 0, order="vijk" if first else "ijkv")
    colours = kind in (*_COLOUR_KINDS, "vector")
    channels = colour_channels(sizes[other], dtype, stated=colours, source=source)
    return Layout(grid, 1, dtype, 0, channels=channels, order="cijkv" if first else "ijkcv")


def _nrrd_placement(
    fields: Mapping[str, Any], directions: Affine | None, spatial: tuple[int, ...], source: str
) -> tuple[Affine | None, Lengths]:
    """The affine (i, j, k, 1) to RAS+ mm, None where there is none, and the edges of a voxel."""
    units: Sequence[str] = fields.get("space units") or fields.get("units") or ()
    unit = _MILLIMETRES.get(str(units[0]).lower(), 1.0) if len(units) else 1.0
    if directions is None:
        spacings = fields.get("spacings")
        chosen = [] if spacings is None else [spacings[axis] for axis in spatial]
        return None, known_lengths(np.array(chosen) * unit)
    steps = directions[list(spatial)] * unit
    lengths = known_lengths(np.linalg.norm(steps, axis=1))
    signs = _SPACES.get(re.sub(r"-time$", "", str(fields.get("space", "")).lower()))
    # A plane, or axes that mix with time, have no place in a body.
    if signs is None or len(spatial) != 3 or len(steps[0]) < 3 or steps[:, 3:].any():
        return None, lengths
    affine = np.eye(4)
    affine[:3, :3] = steps[:, :3].T
    origin = fields.get("space origin")
    if origin is not None and len(origin) >= 3:
        affine[:3, 3] = np.asarray(origin, np.float64)[:3] * unit
    affine = np.diag([*signs, 1.0]) @ affine
    if not usable(affine):
        raise bad_header(source, "set of space directions")
    return affine, lengths


# MetaImage: https://itk.org/Wiki/ITK/MetaIO/Documentation

_META_DTYPES = {
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
_META_DATA = re.compile(rb"^[ \t]*ElementDataFile[ \t]*=[ \t]*(.+?)[ \t]*\r?$", re.MULTILINE)
_LOCAL = "local"


def is_meta_image(start: bytes) -> bool:
    """Whether a file starts with the text of a MetaImage header."""
    match = _FIRST_LINES.match(start)
    return match is not None and (match[1] == b"ObjectType" or b"NDims" in start)


def read_meta_image(path: Path, source: str) -> VolumeHeader:
    """The header of a MetaImage file; raises ReadError for one that is broken or no image.

    A fourth dimension is time. Positions are those of ITK: LPS mm.
    """
    fields, end = _meta_fields(path, source)
    if fields.get("objecttype", "image").lower() != "image" and "dimsize" not in fields:
        raise NoImageError("no_image", f"{source} is a MetaIO object, not an image to segment")
    sizes = [int(size) for size in _numbers(fields, source, "dimsize")]
    count = int(_number(fields, source, "ndims"))
    if count not in (2, 3, 4) or len(sizes) != count or min(sizes) < 1:
        raise bad_header(source, f"number or size of dimensions {sizes[:5]}")
    slope = _numbers(fields, source, "elementtointensityfunctionslope") or [1.0]
    offset = _numbers(fields, source, "elementtointensityfunctionoffset") or [0.0]
    if slope != [1.0] or offset != [0.0]:
        raise ReadError(
            "unsupported_format",
            f"{source} asks for its values to be rescaled, on which readers of MetaImage "
            "disagree: save it with rescaled values",
        )
    name = fields.get("elementtype", "").lower().removeprefix("met_").removesuffix("_array")
    if name not in _META_DTYPES:
        raise bad_header(source, "element type")
    big = _true(fields, "binarydatabyteordermsb", "elementbyteordermsb")
    dtype = np.dtype(_META_DTYPES[name]).newbyteorder(">" if big else "<")
    values = int(fields.get("elementnumberofchannels", "1"))
    channels = colour_channels(values, dtype, stated=True, source=source)
    layout = Layout(
        (sizes[0], sizes[1], sizes[2] if count > 2 else 1),
        sizes[3] if count == 4 else 1,
        dtype,
        end,
        channels=channels,
        order="cijkv" if channels > 1 else "ijkv",
    )
    data, packing, layout = _meta_data(path, fields, layout, source)
    check_layout(layout, data, packing, source)
    affine = _meta_affine(fields, count, source)
    edges = _numbers(fields, source, "elementspacing", "elementsize")
    flags = ("NO_ORIENTATION",) if affine is None else ()
    return VolumeHeader(layout, data, packing, affine, known_lengths(edges), flags)


def meta_image_data_name(text: bytes) -> str:
    """The file that a MetaImage header names for its voxels; "" where they follow the header."""
    match = _META_DATA.search(text)
    name = match[1].decode("utf-8", "replace") if match else ""
    return "" if name.lower() == _LOCAL else name


def _meta_fields(path: Path, source: str) -> tuple[Mapping[str, str], int]:
    """The fields of the header by lower-case name, and the offset of the first byte after it."""
    with path.open("rb") as file:
        text = file.read(TEXT_HEADER_BYTES)
    fields: dict[str, str] = {}
    end = 0
    while match := _LINE.match(text, end):
        end = match.end()
        name = match[1].decode().lower()
        fields[name] = match[2].decode("utf-8", "replace")
        if name == "elementdatafile":  # always the last
            return fields, end
    # The last line may lack its end where the voxels are in another file.
    if name := meta_image_data_name(text[end:]):
        return fields | {"elementdatafile": name}, len(text)
    raise ReadError(
        "broken_header", f"{source} does not state where its voxels are: copy or export it again"
    )


def _numbers(fields: Mapping[str, str], source: str, *names: str) -> list[float]:
    """The numbers in the first of these fields that is filled; none where none is."""
    for name in names:
        try:
            numbers = [float(word) for word in fields.get(name, "").split()]
        except ValueError as error:
            raise bad_header(source, name) from error
        if numbers:
            return numbers
    return []


def _number(fields: Mapping[str, str], source: str, name: str) -> float:
    numbers = _numbers(fields, source, name)
    if len(numbers) != 1:
        raise bad_header(source, name)
    return numbers[0]


def _true(fields: Mapping[str, str], *names: str) -> bool:
    return any(fields.get(name, "").lower() in ("true", "1", "yes") for name in names)


def _meta_data(
    path: Path, fields: Mapping[str, str], layout: Layout, source: str
) -> tuple[Path, Packing, Layout]:
    """The file with the voxels, how they are packed in it, and the layout with their offset."""
    name = fields["elementdatafile"]
    _refuse_several_files(name.upper(), source, ".mha")
    if not _true(fields, "binarydata") and "binarydata" in fields:
        raise ReadError(
            "unsupported_format", f"{source} holds its voxels as text: save it as binary"
        )
    local = name.lower() == _LOCAL
    data = path if local else beside(path, name, source)
    packing: Packing = "voxels" if _true(fields, "compresseddata") else "none"
    skip = int(_number(fields, source, "headersize")) if "headersize" in fields else 0
    if skip == -1 and packing == "none":
        return data, packing, _at_the_end(layout, data, source)
    if skip < 0 or (skip and local):
        raise bad_header(source, f"header size {skip}")
    return data, packing, layout if local else replace(layout, start=skip)


def _meta_affine(fields: Mapping[str, str], count: int, source: str) -> Affine | None:
    """The map from (i, j, k, 1) to RAS+ mm; None without a body, or where the axes mix with time.

    The matrix holds the direction of each axis in a row.
    """
    matrix = _numbers(fields, source, "transformmatrix", "rotation", "orientation")
    spacing = _numbers(fields, source, "elementspacing")
    if count == 2 or not matrix or not spacing:
        return None
    if len(matrix) != count**2 or len(spacing) != count:
        raise bad_header(source, "direction or spacing")
    directions = np.reshape(matrix, (count, count))
    if count == 4 and (directions[3, :3].any() or directions[:3, 3].any()):
        return None
    affine = np.eye(4)
    affine[:3, :3] = (directions[:3, :3] * np.array(spacing[:3])[:, np.newaxis]).T
    origin = _numbers(fields, source, "offset", "position", "origin")
    affine[:3, 3] = (origin + [0.0] * 3)[:3]
    affine = RAS_TO_LPS @ affine
    if not usable(affine):
        raise bad_header(source, "direction or spacing")
    return affine


# Both formats.


def _refuse_several_files(name: str, source: str, single: str) -> None:
    """Raise ReadError for a header that names more than one file of voxels."""
    if name.startswith("LIST") or "%" in name:
        raise ReadError(
            "unsupported_format",
            f"{source} has its voxels in several files, which is not read: save it as one {single}",
        )


def _at_the_end(layout: Layout, data: Path, source: str) -> Layout:
    """The layout of voxels that are the last bytes of their file."""
    start = data.stat().st_size - layout.stored_bytes
    if start < 0:
        raise ReadError("truncated", f"{source} has too few voxels: copy or export it again")
    return replace(layout, start=start)
