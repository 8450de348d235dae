"""NRRD headers: .nrrd, and .nhdr with its voxels in another file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wsseg.imaging.errors import ReadError
from wsseg.imaging.orientation import Affine
from wsseg.imaging.volume_header import (
    TEXT_HEADER_BYTES,
    Layout,
    Lengths,
    Packing,
    VolumeHeader,
    bad_header,
    beside,
    check_layout,
    colour_channels,
    known_lengths,
    usable,
)

NRRD_MAGIC = b"NRRD000"

# https://teem.sourceforge.net/nrrd/format.html
_DTYPES = {
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
# Kinds of axes along which the same quantity is seen again; all others hold parts of one value.
_SERIES_KINDS = ("time", "list", "none", "???", "domain", "space")
SEGMENTS = "segments"  # why a header says that it is a label map: 3D Slicer's fields
_SEGMENT = re.compile(r"Segment\d+_(ID|LabelValue|Name)$")
_SPATIAL_AXES = (2, 3)


def read_nrrd(path: Path, source: str) -> VolumeHeader:
    """The header of an NRRD file; raises ReadError for one that is broken or holds no image.

    A further axis of time or a list, first or last, gives volumes; one of colours RGB.
    """
    fields, start = _fields(path, source)
    sizes = [int(size) for size in fields["sizes"]]
    if int(fields["dimension"]) != len(sizes) or min(sizes) < 1:
        raise bad_header(source, f"number or size of dimensions {sizes}")
    directions = _directions(fields, len(sizes))
    spatial = _spatial_axes(fields, directions, source)
    dtype = _dtype(fields, source)
    layout = _layout(fields, sizes, spatial, dtype, source)
    data, packing, layout = _data(path, fields, layout, start, source)
    check_layout(layout, data, packing, source)
    affine, lengths = _placement(fields, directions, spatial, source)
    return VolumeHeader(
        layout=layout,
        data=data,
        packing=packing,
        affine=affine,
        lengths_mm=lengths,
        flags=("NO_ORIENTATION",) if affine is None else (),
        label_map=SEGMENTS if any(_SEGMENT.match(field) for field in fields) else "",
    )


def data_name(text: bytes) -> str:
    """The file that an NRRD header names for its voxels; "" where they follow it."""
    found = re.search(rb"^data ?file: *(.+?) *\r?$", text, re.MULTILINE)
    return found[1].decode("utf-8", "replace") if found else ""


def _fields(path: Path, source: str) -> tuple[Mapping[str, Any], int]:
    """The fields of the header, and the place of the first byte after it."""
    import nrrd

    with path.open("rb") as file:
        text = file.read(TEXT_HEADER_BYTES)
    blank = re.search(rb"\r?\n\r?\n", text)
    end = blank.end() if blank else len(text)
    header = text[:end]
    if data_name(header).startswith("LIST") or "%" in data_name(header):
        raise ReadError(
            "unsupported_format",
            f"{source} keeps its voxels in several files, which is not read: save it as one .nrrd",
        )
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
            f"{source} is encoded as {encoding[:20]!r}, which is not read: save it as raw or gzip",
        )
    return fields, end


def _dtype(fields: Mapping[str, Any], source: str) -> np.dtype[np.generic]:
    name = str(fields["type"]).lower()
    if name not in _DTYPES:
        raise bad_header(source, f"type {name[:20]!r}")
    dtype = np.dtype(_DTYPES[name])
    if dtype.itemsize == 1:
        return dtype
    endian = str(fields.get("endian", "")).lower()
    if endian not in _ENDIANS:
        raise ReadError(
            "broken_header", f"{source} does not say its endian, little or big: export it again"
        )
    return dtype.newbyteorder(_ENDIANS[endian])


def _directions(fields: Mapping[str, Any], axes: int) -> Affine | None:
    """The (axis, 2 to 4) steps in the space, NaN for an axis without one; None if not given."""
    found = fields.get("space directions")
    if found is None:
        return None
    width = max((len(row) for row in found if row is not None), default=0)
    rows = [[np.nan] * width if row is None else row for row in found]
    return np.asarray(rows, np.float64) if len(rows) == axes and width in (2, 3, 4) else None


def _spatial_axes(
    fields: Mapping[str, Any], directions: Affine | None, source: str
) -> tuple[int, ...]:
    """The axes of the picture: those with directions, else those whose kind says so.

    Of four the last is time, as where a series was joined to one volume.
    """
    axes = len(fields["sizes"])
    kinds = _kinds(fields)
    if directions is not None:
        spatial = tuple(np.flatnonzero(np.isfinite(directions).all(axis=1)).tolist())
    elif any(kind in ("domain", "space") for kind in kinds):
        spatial = tuple(i for i, kind in enumerate(kinds) if kind in ("domain", "space"))
    else:
        # Without a word of it colours come first, as a picture's do, and time last.
        first = int(bool(kinds) and kinds[0] in _COLOUR_KINDS)
        spatial = tuple(range(first, min(axes, first + 4)))
    spatial = spatial[:3] if len(spatial) == 4 else spatial
    together = spatial == tuple(range(spatial[0], spatial[-1] + 1)) if spatial else False
    if len(spatial) not in _SPATIAL_AXES or not together or axes - len(spatial) > 1:
        raise ReadError(
            "too_many_dimensions",
            f"{source} has {axes} axes, {len(spatial)} of them in space: a picture of two or three "
            "with one more of time or colour is read; save its parts as files of their own",
        )
    return spatial


def _kinds(fields: Mapping[str, Any]) -> list[str]:
    return [str(kind).lower() for kind in fields.get("kinds", ())]


def _layout(
    fields: Mapping[str, Any],
    sizes: list[int],
    spatial: tuple[int, ...],
    dtype: np.dtype[np.generic],
    source: str,
) -> Layout:
    shape = [sizes[axis] for axis in spatial] + [1] * (3 - len(spatial))
    grid = (shape[0], shape[1], shape[2])
    others = [axis for axis in range(len(sizes)) if axis not in spatial]
    if not others:
        return Layout(grid, 1, dtype, 0)
    (other,) = others
    kinds = _kinds(fields)
    kind = kinds[other] if other < len(kinds) else "none"
    first = other < spatial[0]
    if sizes[other] == 1 or kind in _SERIES_KINDS:
        return Layout(grid, sizes[other], dtype, 0, order="vijk" if first else "ijkv")
    colours = kind in (*_COLOUR_KINDS, "vector")
    channels = colour_channels(sizes[other], dtype, said=colours, source=source)
    return Layout(grid, 1, dtype, 0, channels=channels, order="cijkv" if first else "ijkcv")


def _data(
    path: Path, fields: Mapping[str, Any], layout: Layout, start: int, source: str
) -> tuple[Path, Packing, Layout]:
    """The file with the voxels, how they are packed in it, and the layout with their place."""
    name = fields.get("data file", fields.get("datafile"))
    data = path if name is None else beside(path, str(name), source)
    start = start if name is None else 0
    packing = _PACKINGS[str(fields["encoding"]).lower()]
    lines = int(fields.get("line skip", fields.get("lineskip", 0)))
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    if lines or skip < -1 or (skip and packing == "voxels"):
        raise ReadError(
            "unsupported_format",
            f"{source} has its voxels after lines or packed bytes to be passed over, which is not "
            "read: save it as one .nrrd",
        )
    if skip == -1:  # the voxels are what the file ends with
        start = data.stat().st_size - layout.stored_bytes
        if start < 0:
            raise ReadError("truncated", f"{source} has too few voxels: copy or export it again")
    return data, packing, replace(layout, start=start + max(skip, 0))


def _placement(
    fields: Mapping[str, Any], directions: Affine | None, spatial: tuple[int, ...], source: str
) -> tuple[Affine | None, Lengths]:
    """The affine (i, j, k, 1) to RAS+ mm, and the edges of a voxel where there is none."""
    units: Sequence[str] = fields.get("space units") or fields.get("units") or ()
    unit = _MILLIMETRES.get(str(units[0]).lower(), 1.0) if len(units) else 1.0
    if directions is None:
        spacings = fields.get("spacings")
        chosen = [] if spacings is None else [spacings[axis] for axis in spatial]
        return None, known_lengths(np.array(chosen) * unit)
    steps = np.asarray(directions)[list(spatial)] * unit
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
