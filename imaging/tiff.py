"""TIFF pictures: every number format, stacks and hyperstacks, pixel sizes; by their own tags."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
)

# How long a pixel of a TIFF is, where its writer knows: ImageJ, OME, or a resolution in cm.

if TYPE_CHECKING:
    from tifffile import TiffFile

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


def tiff_lengths(file: "TiffFile") -> Lengths:
    """The lengths that a TIFF states as those of what it shows; screens' and printers' are none."""
    if file.is_ome:
        return _ome(file.ome_metadata or "")
    if file.is_imagej:
        return _imagej(file)
    return _resolution(file)


def _ome(text: str) -> Lengths:
    from xml.etree import ElementTree

    root = ElementTree.fromstring(text)
    pixels = next((node for node in root.iter() if node.tag.endswith("Pixels")), None)
    if pixels is None:
        return UNKNOWN_LENGTHS
    x, y, z = (
        _length(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "XYZ"
    )
    return Lengths((y, x) if x and y else None, z)


def _imagej(file: "TiffFile") -> Lengths:
    stated: dict[str, Any] = file.imagej_metadata or {}
    unit = str(stated.get("unit", ""))
    across, down = _per_unit(file)
    if not (across and down):
        return UNKNOWN_LENGTHS
    per_cm = _MM_PER_CM / UNITS_MM.get(unit.strip().lower(), math.inf)
    if any(_typographic(per_unit * per_cm) for per_unit in (across, down)):
        return UNKNOWN_LENGTHS
    x = _length(1 / across, unit)
    y = _length(1 / down, str(stated.get("yunit", unit)))
    z = _length(stated.get("spacing"), str(stated.get("zunit", unit)))
    return Lengths((y, x) if x and y else None, abs(z) if z else None)


def _resolution(file: "TiffFile") -> Lengths:
    page: Any = file.pages.first
    software = str(page.software).lower()
    across, down = _per_unit(file)
    unit = int(page.tags.valueof(296, 2))
    if unit != _CENTIMETRE or not software.startswith(_WRITERS) or not (across and down):
        return UNKNOWN_LENGTHS
    if any(_typographic(per_cm) for per_cm in (across, down)):
        return UNKNOWN_LENGTHS
    return Lengths((_MM_PER_CM / down, _MM_PER_CM / across))


def _typographic(per_cm: float) -> bool:
    dpi = per_cm * _MM_PER_INCH / _MM_PER_CM
    return any(abs(dpi - usual) <= _DPI_TOLERANCE * usual for usual in _TYPOGRAPHIC_DPI)


def _per_unit(file: "TiffFile") -> tuple[float | None, float | None]:
    """Columns and rows a unit of length."""
    page: Any = file.pages.first
    across, down = (_fraction(page.tags.valueof(code)) for code in (282, 283))
    return across, down


def _fraction(value: Any) -> float | None:
    if not isinstance(value, tuple) or len(value) != 2 or not value[0] or not value[1]:
        return None
    return float(value[0] / value[1])


def _length(value: Any, unit: str) -> float | None:
    """A stated length in mm; None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    scale = UNITS_MM.get(unit.strip().lower())
    if scale is None or not math.isfinite(number) or number <= 0:
        return None
    return number * scale


if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF, in both byte orders."""

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_SPACES = {4: "a transparency mask", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "a raw sensor"}
# Tag values of Compression whose decoders are well kept; the second group changes pixel values.
_LOSSLESS = {1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000}
_JPEG = 7
_LOSSY = {_JPEG, 33005, 34712, 50001}
_INKS_CMYK = 1
_PREMULTIPLIED = 1
_ALPHA = {_PREMULTIPLIED, 2}
# ImageJ's number of a calibration function, and the depths that it calibrates.
_STRAIGHT_LINE = 0
_CALIBRATED_BITS = (8, 16)
# Tag values of NewSubfileType.
_REDUCED, _MASK = 1, 4
# One scan each: pyramids of slides beside pictures of the label and the whole slide.
_SLIDES = {"svs", "ndpi", "scn", "bif", "qpi", "philips", "avs", "lsm"}
_SLICES = "ZQI"
_CONVERT = "save it as an RGB or grey TIFF or PNG"


@dataclass(frozen=True)
class _Plane:
    """A page, or the n-th plane of a series whose pixels lie in one piece behind one page."""

    page: Any
    offset: int | None = None


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
        yield _picture(file, version_of(path)[0], source)


def _picture(file: "TiffFile", size: int, source: str) -> Picture:
    planes, mixed = _planes(file, size, source)
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
    lengths = tiff_lengths(file)

    def page_of(slice_index: int, volume: int) -> Page:
        plane: _Plane = planes[volume, slice_index]
        values = _stored(file, plane, source)
        return _meant(file, plane.page, values, source).turned(_orientation(plane.page))

    return Picture(
        shape=shape,
        slices=planes.shape[1],
        volumes=planes.shape[0],
        colour=any(_coloured(page) for page in pages),
        lengths=lengths.swapped() if _orientation(first) in SIDEWAYS else lengths,
        flags=(*_flags(pages, file), *(("MIXED_FRAMES",) if mixed else ())),
        lossy=any(int(page.keyframe.compression) in _LOSSY for page in pages),
        page=page_of,
    )


def _planes(file: "TiffFile", size: int, source: str) -> tuple[NDArray[Any], bool]:
    """All planes (volume, slice) of full resolution, and whether several axes are slices."""
    series = list(file.series)
    kind = series[0].kind if series else ""
    _check_images(file, series, kind, source)
    if not series or kind in ("generic", "uniform") or (kind == "shaped" and len(series) > 1):
        pages = _whole([*file.pages])
        # Cameras put a small copy first, and the whole picture in a directory below it.
        pages = pages or _whole([sub for page in file.pages for sub in page.pages or ()])
        pages = pages or [file.pages[0]]
        return _grid([_Plane(page) for page in pages], (1, len(pages))), False
    found = series[0].levels[0]
    if kind == "imagej":
        count = _imagej_images(file)
        if math.prod(_lead(found, source).values()) < count:
            # Plain stacks of old versions say how many images follow, and of no axis.
            return _grid(_in_a_row(found, count, size, source), (1, count)), False
    return _by_axes(found, _lead(found, source), size, source)


def _check_images(
    file: "TiffFile", series: "Sequence[TiffPageSeries]", kind: str, source: str
) -> None:
    """Refuse files that promise other pixels than they have, or several images."""
    told = (file.is_imagej and kind != "imagej") or (file.is_ome and kind != "ome")
    if told or (file.is_ome and _elsewhere(file)):
        raise ReadError(
            "incomplete",
            f"{source} lacks pixels that its description promises: it is cut, or the others lie "
            "in other files; export it again as one file",
        )
    if kind not in {"generic", "uniform", "shaped", *_SLIDES} and len(series) > 1:
        raise ReadError(
            "several_images",
            f"{source} holds {len(series)} images of their own: save each as a file",
        )


def _elsewhere(file: "TiffFile") -> bool:
    """Whether OME metadata name pixels in other files."""
    from xml.etree import ElementTree

    root = ElementTree.fromstring(file.ome_metadata or "<OME/>")
    own = root.get("UUID")
    named = [node for node in root.iter() if node.tag.endswith("}UUID") and node.get("FileName")]
    return any((node.text or "").strip() != own for node in named)


def _whole(pages: Sequence[Any]) -> list[Any]:
    return [page for page in pages if not _is_aside(page)]


def _is_aside(page: Any) -> bool:
    """Whether a page is a smaller copy or the transparency of another."""
    return bool(int(page.subfiletype) & (_REDUCED | _MASK))


def _imagej_images(file: "TiffFile") -> int:
    return int((file.imagej_metadata or {}).get("images", 1))


def _lead(series: "TiffPageSeries", source: str) -> dict[str, int]:
    """The axes of a series before those of its pages, with their lengths."""
    own = series.keyframe.axes
    if own not in ("YX", "YXS", "SYX") or not series.axes.endswith(own):
        raise ReadError(
            "axes", f"{source} has the axes {series.axes}, not of pages: save slices as pages"
        )
    count = len(series.axes) - len(own)
    lead = dict(zip(_distinct(series.axes[:count]), series.shape[:count], strict=True))
    if lead.get("C", 1) > 1:
        raise ReadError(
            "channels",
            f"{source} has {lead['C']} channels (axes {series.axes}), which are no slices and no "
            "colours: save the channel to measure, or an RGB picture; if they are slices, save "
            "it with the axis Z",
        )
    strange = [axis for axis in lead if axis[0] not in "CT" + _SLICES and lead[axis] > 1]
    if strange:
        raise ReadError(
            "axes",
            f"{source} has the axes {series.axes}; only slices (Z) and times (T) are read: save "
            f"one file for each {strange[0][0]}",
        )
    return lead


def _distinct(axes: str) -> list[str]:
    """Names of axes, told apart where a letter comes again."""
    return [axis + "'" * axes[:place].count(axis) for place, axis in enumerate(axes)]


def _by_axes(
    series: "TiffPageSeries", lead: dict[str, int], size: int, source: str
) -> tuple[NDArray[Any], bool]:
    shape = tuple(lead.values())
    count = math.prod(shape)
    if series.dataoffset is not None:
        planes = _in_a_row(series, count, size, source)
    else:
        pages = list(series.pages)
        if len(pages) != count or any(page is None for page in pages):
            raise ReadError("incomplete", f"{source} lacks pages: export it again")
        planes = [_Plane(page) for page in pages]
    names = list(lead)
    times = lead.get("T", 1)
    stacked = _grid(planes, shape)
    if "T" in lead:
        stacked = np.moveaxis(stacked, names.index("T"), 0)
    mixed = sum(lead[axis] > 1 for axis in names if axis[0] in _SLICES) > 1
    return stacked.reshape(times, count // times), mixed


def _in_a_row(series: "TiffPageSeries", count: int, size: int, source: str) -> list[_Plane]:
    """Planes that follow each other from where the first page's pixels begin."""
    page: Any = series.keyframe
    nbytes = math.prod(page.shape) * page.dtype.itemsize
    start = page.dataoffsets[0] if series.dataoffset is None else series.dataoffset
    packed = int(page.compression) != 1 or page.dtype.kind == "b"
    if packed or start + count * nbytes > size:
        raise ReadError(
            "incomplete",
            f"{source} lacks pixels of the {count} images that its description promises: export "
            "it again",
        )
    return [_Plane(page, start + index * nbytes) for index in range(count)]


def _grid(planes: Sequence[_Plane], shape: tuple[int, ...]) -> NDArray[Any]:
    grid = np.empty(len(planes), object)
    grid[:] = planes
    return grid.reshape(shape)


def _orientation(page: Any) -> int:
    found = page.keyframe.tags.valueof(274, UPRIGHT)
    return int(found) if found in range(1, 9) else UPRIGHT


def _shown_shape(page: Any) -> tuple[int, int]:
    rows, columns = page.keyframe.imagelength, page.keyframe.imagewidth
    return (columns, rows) if _orientation(page) in SIDEWAYS else (rows, columns)


def _coloured(page: Any) -> bool:
    return int(page.keyframe.photometric or 0) in (_RGB, _PALETTE, _CMYK, _YCBCR)


def _bits(page: Any) -> int:
    bits = page.bitspersample
    return int(bits[0] if isinstance(bits, tuple) else bits)


def _check_page(page: Any, source: str) -> None:
    """Refuse by name what no slice can be made of. Raises ReadError."""
    page = page.keyframe
    limit = Image.MAX_IMAGE_PIXELS
    if limit and page.imagelength * page.imagewidth > limit:
        raise ReadError(
            "too_large", f"{source} has more than {limit} pixels: crop it or make it smaller"
        )
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
    space, samples = int(page.photometric or 0), page.samplesperpixel
    extra = [int(kind) for kind in page.extrasamples or ()]
    needed = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _PALETTE: 1, _RGB: 3, _CMYK: 4, _YCBCR: 3}
    if space not in needed:
        what = _SPACES.get(space, _name(page.photometric))
        raise ReadError("colour_space", f"{source} holds {what}, which is not read: {_CONVERT}")
    grey = space in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE)
    if samples < needed[space] or (grey and samples > 1 and not _grey_alpha(samples, extra)):
        raise ReadError(
            "channels",
            f"{source} has {samples} channels, which are no colours: save the channel to measure, "
            "or an RGB picture",
        )
    plain = page.dtype is not None and page.dtype == np.uint8
    if space in (_CMYK, _YCBCR) and not plain:
        raise ReadError("colour_space", f"{source} holds {_name(page.photometric)}: {_CONVERT}")
    if space == _CMYK and page.tags.valueof(332, _INKS_CMYK) != _INKS_CMYK:
        raise ReadError("colour_space", f"{source} holds inks that are not CMYK: {_CONVERT}")
    if (
        space == _YCBCR
        and int(page.compression) != _JPEG
        and tuple(page.tags.valueof(530, (2, 2))) != (1, 1)
    ):
        raise ReadError("colour_space", f"{source} holds subsampled YCbCr: {_CONVERT}")


def _grey_alpha(samples: int, extra: Sequence[int]) -> bool:
    return samples == 2 and len(extra) == 1 and extra[0] in _ALPHA


def _name(value: Any) -> str:
    return getattr(value, "name", str(value))


def _stored(file: "TiffFile", plane: _Plane, source: str) -> Stored:
    """The plane as it lies in the file: (row, column) or (row, column, sample)."""
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
        values = np.asarray(page.asarray(maxworkers=1)).reshape(key.shape)
    return np.moveaxis(values, 0, -1) if key.axes == "SYX" else values


def _meant(file: "TiffFile", page: Any, values: Stored, source: str) -> Page:
    """What the numbers of a page mean, by its tags."""
    key = page.keyframe
    space, extra = int(key.photometric or 0), [int(kind) for kind in key.extrasamples or ()]
    own = key.samplesperpixel - len(extra)
    alpha = values[..., own] if extra and extra[0] in _ALPHA and values.ndim == 3 else None
    if alpha is not None and extra[0] == _PREMULTIPLIED and space != _PALETTE:
        values = _unmultiplied(values[..., :own], alpha, _bits(key))
    if space == _PALETTE:
        index = values if values.ndim == 2 else values[..., 0]
        painted = _painted(key, index, alpha, source)
        return replace(painted, numbered=_stores_numbers(file))
    if space == _CMYK:
        inks = np.ascontiguousarray(values[..., :4])
        return Page(np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")))
    if space == _YCBCR and int(key.compression) != _JPEG:
        stored = Image.fromarray(np.ascontiguousarray(values[..., :3]), "YCbCr")
        return Page(np.asarray(stored.convert("RGB")))
    bits, unsigned = _bits(key), values.dtype.kind in "bu"
    white = float(2**bits - 1)
    if space in (_RGB, _YCBCR):
        return Page(values[..., :3], WHITE / white if unsigned else 1.0, alpha=alpha)
    grey = values if values.ndim == 2 else values[..., 0]
    line = _calibration(key, file)
    if line:
        # What the program shows, such as HU of signed images, which it stores from 0 on.
        return Page(line[0] + line[1] * grey.astype(np.float64), alpha=alpha)
    shown_mirrored = _is_mirrored(key, file)
    return Page(
        grey,
        WHITE / white if unsigned and bits < 8 else 1.0,
        mirror=2**bits - 1 if shown_mirrored else None,
        label_mirror=2**bits - 1 if shown_mirrored and not _stores_numbers(file) else None,
        alpha=alpha,
    )


def _unmultiplied(values: Stored, alpha: Stored, bits: int) -> Stored:
    """Samples (row, column, sample) that were multiplied by their opacity, without it.

    Whole numbers stay whole; what is wholly transparent keeps what it holds.
    """
    whole = values.dtype.kind in "bu"
    white = 2**bits - 1 if whole else 1.0
    if (alpha == white).all():
        return values
    share = np.where(alpha > 0, alpha / white, 1.0)[..., np.newaxis]
    plain = np.minimum(values / share, white)
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
    if int(key.photometric or 0) != _WHITE_IS_ZERO or key.dtype is None or _calibration(key, file):
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


def _painted(page: Any, index: Stored, alpha: Stored | None, source: str) -> Page:
    """Palette indices as colours 0..255."""
    table = np.asarray(page.colormap)
    if table.ndim != 2 or index.max(initial=0) >= table.shape[1]:
        raise ReadError("damaged", f"{source} has colours beyond its palette: export it again")
    # Palettes of 16 bits by the standard; some writers leave them at 8.
    colours = (table >> 8 if table.max(initial=0) > WHITE else table).T.astype(np.uint8)
    return Page(colours[index], alpha=alpha, index=index)


def _flags(pages: Iterable[Any], file: "TiffFile") -> tuple[str, ...]:
    """Facts of any page that a reader of the numbers should know."""
    keys = [page.keyframe for page in pages]
    deep = [key for key in keys if int(key.photometric or 0) == _RGB and _bits(key) > 8]
    rules = {
        ORIENTED: any(_orientation(key) != UPRIGHT for key in keys),
        "ALPHA_DROPPED": any(key.extrasamples for key in keys),
        "SCALED_TO_8_BIT": any(key.dtype is not None and key.dtype.kind == "u" for key in deep),
        "WHITE_IS_ZERO": any(_is_mirrored(key, file) for key in keys),
    }
    return tuple(flag for flag, true in rules.items() if true)
