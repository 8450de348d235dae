"""TIFF pictures: every number format, colour space and pixel size, by their own tags."""

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from wsseg.imaging.codestreams import stated_pixels
from wsseg.imaging.errors import ReadError
from wsseg.imaging.files import open_file, version_of
from wsseg.imaging.picture_page import (
    ORIENTED,
    SIDEWAYS,
    UNKNOWN_LENGTHS,
    UPRIGHT,
    WHITE,
    Lengths,
    Page,
    Picture,
    Stored,
    most_pixels,
    too_many_pixels,
)
from wsseg.imaging.tiff_pages import Plane, planes_of

if TYPE_CHECKING:
    from tifffile import TiffFile

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF, in both byte orders."""

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_SPACES = {4: "a transparency mask", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "a raw sensor"}
# Tag values of Compression whose decoders are well maintained; the second group is lossy.
_LOSSLESS = {1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000}
_JPEG = 7
_LOSSY = {_JPEG, 33005, 34712, 50001}
_INKS_CMYK = 1
# The size of a codestream stands in its first bytes; encoders round it up to whole blocks.
_CODESTREAM_HEAD, _SPARE = 1 << 16, 4
_PREMULTIPLIED = 1
_ALPHA = {_PREMULTIPLIED, 2}
# ImageJ's number of a calibration function, and the depths that it calibrates.
_STRAIGHT_LINE = 0
_CALIBRATED_BITS = (8, 16)
_CONVERT = "save it as an RGB or grey TIFF or PNG"

# Millimetres of a unit as ImageJ and OME write it. What is not here (pixel, reference frame) is
# no length.
UNITS_MM = {
    "m": 1000.0, "dm": 100.0, "cm": 10.0, "mm": 1.0, "nm": 1e-6, "pm": 1e-9,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "\\u00b5m": 1e-3, "micron": 1e-3, "microns": 1e-3,
    "micrometer": 1e-3, "micrometre": 1e-3, "millimeter": 1.0, "millimetre": 1.0,
    "in": 25.4, "inch": 25.4, "inches": 25.4, "centimeter": 10.0, "centimetre": 10.0, "å": 1e-7,
}  # fmt: skip
# Programs that write the size of what is pictured. A resolution in inches, or of any other
# program, is that of a screen or of paper.
_WRITERS = ("tifffile", "imagej", "fiji", "ome bio-formats", "scifio", "metamorph", "zen", "leica")
_CENTIMETRE = 3
_TYPOGRAPHIC_DPI = (72, 96, 100, 120, 144, 150, 180, 200, 240, 250, 300, 360, 400, 600, 720, 1200)
_DPI_TOLERANCE = 0.005
_MM_PER_CM, _MM_PER_INCH = 10.0, 25.4


@contextmanager
def open_tiff(path: Path, source: str) -> Iterator[Picture]:
    """Open a TIFF by its tags; no pixel is decoded yet.

    Pages of one size are slices. Where the writer names axes (ImageJ, OME, tifffile and their
    kin), Z is slices and T volumes. Of a pyramid only the full resolution is read. Raises
    ReadError for channels that are neither grey nor RGB, several images, and unknown axes.
    """
    from tifffile import TiffFile

    # Its messages quote descriptions, which may name a patient.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    with (
        open_file(path) as stream,
        TiffFile(stream, name=path.name, _multifile=False) as file,
    ):
        planes, mixed = planes_of(file, version_of(path)[0], source)
        pages = list({id(plane.page): plane.page for plane in planes.flat}.values())
        first = planes[0, 0].page
        shape = _shown_shape(first)
        for number, page in enumerate(pages, 1):
            _check_page(page, source)
            if _shown_shape(page) != shape:
                raise ReadError(
                    "pages_differ",
                    f"page {number} of {source} has {_shown_shape(page)} rows and columns, page 1 "
                    f"has {shape}: save pages of equal size, or one file each",
                )
        lengths = _lengths(file)

        def page_of(slice_index: int, volume: int) -> Page:
            plane: Plane = planes[volume, slice_index]
            values = _stored(file, plane, source)
            return _interpreted(file, plane.page, values, source).turned(_orientation(plane.page))

        yield Picture(
            shape=shape,
            slices=planes.shape[1],
            volumes=planes.shape[0],
            colour=any(_space(page) in (_RGB, _PALETTE, _CMYK, _YCBCR) for page in pages),
            lengths=lengths.swapped() if _orientation(first) in SIDEWAYS else lengths,
            flags=(*_flags(pages, file), *(("MIXED_FRAMES",) if mixed else ())),
            lossy=any(int(page.keyframe.compression) in _LOSSY for page in pages),
            page=page_of,
        )


# What a page is, by its tags.


def _orientation(page: Any) -> int:
    orientation = page.keyframe.tags.valueof(274, UPRIGHT)
    return int(orientation) if orientation in range(1, 9) else UPRIGHT


def _shown_shape(page: Any) -> tuple[int, int]:
    rows, columns = page.keyframe.imagelength, page.keyframe.imagewidth
    return (columns, rows) if _orientation(page) in SIDEWAYS else (rows, columns)


def _space(page: Any) -> int:
    return int(page.keyframe.photometric or 0)


def _bits(page: Any) -> int:
    return int(np.atleast_1d(page.bitspersample)[0])


def _name(value: Any) -> str:
    return getattr(value, "name", str(value))


def _check_page(page: Any, source: str) -> None:
    """Raise ReadError for a page of which no slice can be made."""
    page = page.keyframe
    if not page.imagelength * page.imagewidth:
        raise ReadError("broken_header", f"{source} states no rows or no columns: export it again")
    if page.imagelength * page.imagewidth > most_pixels():
        raise too_many_pixels(source)
    if int(page.compression) not in _LOSSLESS | _LOSSY:
        raise ReadError(
            "compression",
            f"{source} is compressed by {_name(page.compression)}, which is not read: save it "
            "without compression, or with LZW or Deflate",
        )
    bits = page.bitspersample
    if page.dtype is None or page.dtype.kind not in "buif" or len(set(np.atleast_1d(bits))) > 1:
        raise ReadError(
            "number_format",
            f"{source} holds numbers of {bits} bits in the format {_name(page.sampleformat)}, "
            f"which is no picture: {_CONVERT}",
        )
    _check_channels(page, source)


def _check_channels(page: Any, source: str) -> None:
    space, samples = _space(page), page.samplesperpixel
    extra = [int(kind) for kind in page.extrasamples or ()]
    needed = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _PALETTE: 1, _RGB: 3, _CMYK: 4, _YCBCR: 3}
    one_byte = page.dtype is not None and page.dtype == np.uint8
    what = ""
    if space not in needed:
        what = f"{_SPACES.get(space, _name(page.photometric))}, which is not read"
    elif space in (_CMYK, _YCBCR) and not one_byte:
        what = _name(page.photometric)
    elif space == _CMYK and page.tags.valueof(332, _INKS_CMYK) != _INKS_CMYK:
        what = "inks that are not CMYK"
    elif space == _YCBCR and int(page.compression) != _JPEG:
        subsampled = tuple(page.tags.valueof(530, (2, 2))) != (1, 1)
        what = "subsampled YCbCr" if subsampled else ""
    grey_alpha = samples == 2 and len(extra) == 1 and extra[0] in _ALPHA
    surplus = needed.get(space) == 1 and samples > 1 and not grey_alpha
    if samples < needed.get(space, 0) or surplus:
        raise ReadError(
            "channels",
            f"{source} has {samples} channels, which are no colours: save the channel to measure, "
            "or an RGB picture",
        )
    if what:
        raise ReadError("colour_space", f"{source} holds {what}: {_CONVERT}")


def _flags(pages: Iterable[Any], file: "TiffFile") -> tuple[str, ...]:
    """Facts of any page that a reader of the numbers should know."""
    keys = [page.keyframe for page in pages]
    deep = [key for key in keys if _space(key) == _RGB and _bits(key) > 8]
    rules = {
        ORIENTED: any(_orientation(key) != UPRIGHT for key in keys),
        "ALPHA_DROPPED": any(key.extrasamples for key in keys),
        "SCALED_TO_8_BIT": any(key.dtype is not None and key.dtype.kind == "u" for key in deep),
        "WHITE_IS_ZERO": any(_is_mirrored(key, file) for key in keys),
    }
    return tuple(flag for flag, true in rules.items() if true)


# What the numbers of a page mean.


def _stored(file: "TiffFile", plane: Plane, source: str) -> Stored:
    """The plane as it is stored: (row, column) or (row, column, sample)."""
    page: Any = plane.page
    key = page.keyframe
    if plane.offset is not None:
        dtype = key.dtype.newbyteorder(file.byteorder)
        count = math.prod(key.shape)
        values = file.filehandle.read_array(dtype, count, offset=plane.offset).reshape(key.shape)
    else:
        ends = [at + n for at, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if 0 in page.databytecounts or not ends or max(ends) > file.filehandle.size:
            raise ReadError("damaged", f"{source} lacks a part of its pixels: export it again")
        if int(key.compression) in _LOSSY:
            _check_codestreams(file, page, source)
        values = np.asarray(page.asarray(maxworkers=1)).reshape(key.shape)
    return np.moveaxis(values, 0, -1) if key.axes == "SYX" else values


def _check_codestreams(file: "TiffFile", page: Any, source: str) -> None:
    """Raise ReadError for a part of the page that is compressed as a far larger picture."""
    key = page.keyframe
    rows = key.tilelength if key.is_tiled else min(key.rowsperstrip, key.imagelength)
    columns = key.tilewidth if key.is_tiled else key.imagewidth
    for offset, nbytes in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.filehandle.seek(offset)
        found = stated_pixels(file.filehandle.read(min(nbytes, _CODESTREAM_HEAD)))
        if found > _SPARE * rows * columns:
            raise ReadError(
                "too_large",
                f"{source} has a part of {rows} x {columns} pixels that is compressed as "
                f"{found} pixels: export it again",
            )


def _interpreted(file: "TiffFile", page: Any, values: Stored, source: str) -> Page:
    """Stored values as a page: grey, colours or palette indices, by the tags."""
    key = page.keyframe
    space, extra = _space(key), [int(kind) for kind in key.extrasamples or ()]
    own = key.samplesperpixel - len(extra)
    alpha = values[..., own] if extra and extra[0] in _ALPHA and values.ndim == 3 else None
    if alpha is not None and extra[0] == _PREMULTIPLIED and space != _PALETTE:
        values = _unmultiplied(values[..., :own], alpha, _bits(key))
    if space == _PALETTE:
        index = values if values.ndim == 2 else values[..., 0]
        table = np.asarray(key.colormap)
        if table.ndim != 2 or index.max(initial=0) >= table.shape[1]:
            raise ReadError("damaged", f"{source} has colours beyond its palette: export it again")
        # Palettes of 16 bits by the standard; some writers leave them at 8.
        colours = (table >> 8 if table.max(initial=0) > WHITE else table).T.astype(np.uint8)
        return Page(colours[index], alpha=alpha, index=index, numbered=_stores_numbers(file))
    if space == _CMYK or (space == _YCBCR and int(key.compression) != _JPEG):
        mode, samples = ("CMYK", 4) if space == _CMYK else ("YCbCr", 3)
        stored = Image.fromarray(np.ascontiguousarray(values[..., :samples]), mode)
        return Page(np.asarray(stored.convert("RGB")))
    bits, unsigned = _bits(key), values.dtype.kind in "bu"
    white = 2**bits - 1
    if space in (_RGB, _YCBCR):
        return Page(values[..., :3], WHITE / white if unsigned else 1.0, alpha=alpha)
    grey = values if values.ndim == 2 else values[..., 0]
    if line := _calibration(key, file):
        # What the program shows, such as HU of signed images, which it stores from 0 on.
        return Page(line[0] + line[1] * grey.astype(np.float64), alpha=alpha)
    mirror = white if _is_mirrored(key, file) else None
    return Page(
        grey,
        WHITE / white if unsigned and bits < 8 else 1.0,
        mirror=mirror,
        label_mirror=None if _stores_numbers(file) else mirror,
        alpha=alpha,
    )


def _unmultiplied(values: Stored, alpha: Stored, bits: int) -> Stored:
    """Samples (row, column, sample) that were multiplied by their opacity, without it.

    Whole numbers stay whole; what is wholly transparent keeps its values.
    """
    whole = values.dtype.kind in "bu"
    white = 2**bits - 1 if whole else 1.0
    if (alpha == white).all():
        return values
    opacity = np.where(alpha > 0, alpha / white, 1.0)[..., np.newaxis]
    plain = np.minimum(values / opacity, white)
    return np.rint(plain).astype(values.dtype) if whole else plain.astype(values.dtype)


def _calibration(key: Any, file: "TiffFile") -> tuple[float, float] | None:
    """Value of a stored 0 and of a step, where ImageJ calibrated the values by a straight line."""
    stated: dict[str, Any] = file.imagej_metadata or {}
    unsigned = key.dtype is not None and key.dtype.kind == "u"
    if not unsigned or _bits(key) not in _CALIBRATED_BITS or stated.get("cf") != _STRAIGHT_LINE:
        return None
    try:
        base, step = float(stated["c0"]), float(stated["c1"])
    except (KeyError, TypeError, ValueError):
        return None
    return (base, step) if math.isfinite(base) and math.isfinite(step) and step else None


def _is_mirrored(key: Any, file: "TiffFile") -> bool:
    """Whether 0 is white; never in signed, fractional or calibrated numbers, which are measured."""
    if _space(key) != _WHITE_IS_ZERO or key.dtype is None or _calibration(key, file):
        return False
    return key.dtype.kind in "bu" and not (_bits(key) == 1 and _by_tifffile(file))


def _stores_numbers(file: "TiffFile") -> bool:
    """Whether the writer stores the numbers it works with, whatever tags make viewers show.

    ImageJ and tifffile do; tifffile gives every boolean array the tag that 0 is white.
    """
    return bool(file.is_imagej or _by_tifffile(file))


def _by_tifffile(file: "TiffFile") -> bool:
    first = file.pages.first
    return bool(first.is_shaped or str(first.software).startswith("tifffile"))


# How long a pixel is, where the writer knows: ImageJ, OME, or a resolution in cm.


def _lengths(file: "TiffFile") -> Lengths:
    """The lengths of what is shown; resolutions of screens and printers do not count."""
    if file.is_ome:
        from xml.etree import ElementTree

        root = ElementTree.fromstring(file.ome_metadata or "")
        pixels = next((node for node in root.iter() if node.tag.endswith("Pixels")), None)
        if pixels is None:
            return UNKNOWN_LENGTHS
        x, y, z = (
            _length_mm(
                pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
            )
            for axis in "XYZ"
        )
        return Lengths((y, x) if x and y else None, z)
    page: Any = file.pages.first
    resolutions = [page.tags.valueof(code) for code in (282, 283)]
    if not all(isinstance(each, tuple) and len(each) == 2 and all(each) for each in resolutions):
        return UNKNOWN_LENGTHS
    across, down = (float(above / below) for above, below in resolutions)  # columns, rows a unit
    if not file.is_imagej:
        by_size = str(page.software).lower().startswith(_WRITERS)
        if int(page.tags.valueof(296, 2)) != _CENTIMETRE or not by_size:
            return UNKNOWN_LENGTHS
        if _typographic(across) or _typographic(down):
            return UNKNOWN_LENGTHS
        return Lengths((_MM_PER_CM / down, _MM_PER_CM / across))
    stated: dict[str, Any] = file.imagej_metadata or {}
    unit = str(stated.get("unit", ""))
    per_cm = _MM_PER_CM / UNITS_MM.get(unit.strip().lower(), math.inf)
    if _typographic(across * per_cm) or _typographic(down * per_cm):
        return UNKNOWN_LENGTHS
    x = _length_mm(1 / across, unit)
    y = _length_mm(1 / down, str(stated.get("yunit", unit)))
    z = _length_mm(stated.get("spacing"), str(stated.get("zunit", unit)))
    return Lengths((y, x) if x and y else None, z)


def _typographic(per_cm: float) -> bool:
    """Whether so many pixels per cm are a usual resolution of screens or printers."""
    dpi = per_cm * _MM_PER_INCH / _MM_PER_CM
    return any(abs(dpi - usual) <= _DPI_TOLERANCE * usual for usual in _TYPOGRAPHIC_DPI)


def _length_mm(value: Any, unit: str) -> float | None:
    """A stated length in mm; None for anything that is no length."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    scale = UNITS_MM.get(unit.strip().lower())
    if scale is None or not math.isfinite(number) or number <= 0:
        return None
    return number * scale
