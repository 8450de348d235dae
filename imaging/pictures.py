"""Pictures: TIFF, PNG, JPEG, BMP, GIF, WebP, PNM, JPEG 2000; most state no millimetres."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from wsseg.imaging.codestreams import jpeg_frame
from wsseg.imaging.dicom import silence_pydicom
from wsseg.imaging.errors import ReadError, translate_errors
from wsseg.imaging.files import open_file, version_of
from wsseg.imaging.intensity import fill_nonfinite
from wsseg.imaging.limits import DEFAULT_LIMITS, ReadLimits
from wsseg.imaging.picture_page import (
    ORIENTED,
    SIDEWAYS,
    UPRIGHT,
    WHITE,
    Page,
    Picture,
    Stored,
    most_pixels,
    too_many_pixels,
)
from wsseg.imaging.scan import FileRef, Geometry, Scan, ScanRef, SliceId
from wsseg.imaging.stopping import check_not_stopped
from wsseg.imaging.tiff import MAGICS, open_tiff

# Formats that hold pixels and nothing to run: no EPS, which would start an interpreter.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
KNOWN = ("TIFF", *FORMATS)

_ONE_CHANNEL = {"1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}

_SEPARATOR = rb"(?:\s|#[^\r\n]*[\r\n])+"
# Netpbm's grey and colour maps, plain and packed: width, height and the value of white.
_PNM = re.compile(rb"P([2356])" + (_SEPARATOR + rb"(\d+)") * 3 + rb"\s")
_PNM_HEAD_BYTES = 4096
_PNM_COLOURS, _PNM_PLAIN = (b"3", b"6"), (b"2", b"3")
_SIZE_MARKER, _CODING_MARKER = b"\xff\x51", b"\xff\x52"
_J2K_HEAD_BYTES = 1 << 16
# By the marker of the frame.
_LOSSLESS = {0xC3: "a lossless JPEG", 0xC7: "a lossless JPEG", 0xF7: "a JPEG-LS picture"}
_JPEG_HEAD_BYTES = 1 << 18
# Greys of two and four bits, which Pillow spreads over 0..255, but not their transparent value.
_SPREAD = {"L;2": 85, "L;4": 17}


def picture_refs(file: FileRef) -> tuple[ScanRef, ...]:
    """The scans in a picture file, one per time of a TIFF hyperstack, by its header only.

    Errors in a file are reported when it is read.
    """
    try:
        with translate_errors(file.source), open_picture(file.path, file.source) as picture:
            values = picture.shape[0] * picture.shape[1] * picture.slices
            size = values * (3 if picture.colour else 1) * 4
            times = range(picture.volumes) if picture.volumes > 1 else (None,)
    except ReadError:
        return (ScanRef("picture", (file,)),)
    return tuple(ScanRef("picture", (file,), volume=time, decoded_bytes=size) for time in times)


def read_picture(ref: ScanRef, limits: ReadLimits = DEFAULT_LIMITS) -> Scan:
    """Read a picture as one slice, or a TIFF of several pages as that many; as it is shown.

    Grey values keep the file's own units (0..255, 0..65535, signed or fractional); grey of fewer
    bits than a byte becomes 0..255; colour becomes RGB 0..255 (slice, row, column, 3), or grey
    where its three channels are equal. An orientation tag is applied. Raises ReadError.
    """
    file = ref.files[0]
    with translate_errors(file.source), open_picture(file.path, file.source) as picture:
        flags = (*ref.flags, *picture.flags)
        rows, columns = picture.shape
        shape = (picture.slices, rows, columns, *((3,) if picture.colour else ()))
        limits.check_frames(picture.slices, file.source)
        limits.check_scan(4 * math.prod(shape), file.source)
        stored = version_of(file.path)[0]
        limits.check_growth(4 * math.prod(shape) * picture.volumes, stored, file.source)
        pixels = np.empty(shape, np.float32)
        for index in range(picture.slices):
            check_not_stopped()
            page = picture.page(index, ref.volume or 0).shown()
            pixels[index] = page[..., np.newaxis] if page.ndim < pixels.ndim - 1 else page
        pixels = grey_if_equal(pixels, axes=3)
        if fill_nonfinite(pixels, file.source):
            flags = (*flags, "NONFINITE")
        slices = (SliceId(file.source, frame=ref.volume),) * len(pixels)
        return Scan(pixels, picture_geometry(picture), slices, ref, flags=flags)


@contextmanager
def open_picture(path: Path, source: str) -> Iterator[Picture]:
    """Open a picture by its content, not its suffix; no pixel is decoded yet.

    Raises ReadError for more pixels than Pillow holds to be safe, and for TIFFs of more than
    pictures, see `open_tiff`.
    """
    with open_file(path, buffering=0) as stream:
        is_tiff = stream.read(4) in MAGICS
    with silence_pydicom:
        if is_tiff:
            with open_tiff(path, source) as tiff:
                yield tiff
        else:
            with _opened(path, source) as image:
                yield _picture(image, path)


def _picture(image: Image.Image, path: Path) -> Picture:
    orientation = _orientation(image, path)
    size = (image.height, image.width)
    rules = {
        "ALPHA_DROPPED": image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info,
        "FIRST_FRAME": getattr(image, "n_frames", 1) > 1,
        "SCALED_TO_8_BIT": is_reduced(image, path),
        ORIENTED: orientation != UPRIGHT,
    }

    def page(_slice: int, _volume: int) -> Page:
        return decoded_page(image, path).turned(orientation)

    return Picture(
        shape=size[::-1] if orientation in SIDEWAYS else size,
        colour=image.mode not in _ONE_CHANNEL and not is_deep_grey(image),
        flags=tuple(flag for flag, true in rules.items() if true),
        lossy=is_lossy(image, path),
        page=page,
    )


@contextmanager
def _opened(path: Path, source: str) -> Iterator[Image.Image]:
    with open_file(path) as stream:
        try:
            image = Image.open(stream, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise too_many_pixels(source) from error
        except UnidentifiedImageError as error:
            known = ", ".join(KNOWN)
            if jpeg := unread_jpeg(path):
                raise ReadError(
                    "compression", f"{source} is {jpeg}, which is not read: save it as PNG or TIFF"
                ) from error
            raise ReadError(
                "not_a_picture", f"{source} is not one of {known}, or is truncated: convert it"
            ) from error
        with image:
            if image.width * image.height > most_pixels():
                raise too_many_pixels(source)
            yield image


def _orientation(image: Image.Image, path: Path) -> int:
    """EXIF orientation, 1 to 8, from EXIF or XMP, before the pixels or behind them."""
    # The method of the class would decode a PNG to look behind its pixels.
    tags = Image.Image.getexif(image)
    if not tags and image.format == "PNG":
        tags.load(late_exif(path))
    found = tags.get(ExifTags.Base.Orientation)
    return found if isinstance(found, int) and 1 <= found <= 8 else UPRIGHT


def grey_if_equal(pixels: NDArray[np.float32], *, axes: int) -> NDArray[np.float32]:
    """RGB (..., 3) as grey (...) where its channels are equal throughout; grey as it is.

    axes: how many axes grey pixels have, 2 for a slice and 3 for a stack.
    """
    # Part by part: a comparison of the whole would need a quarter of its memory again.
    if pixels.ndim == axes or any((part != part[..., :1]).any() for part in pixels):
        return pixels
    return np.ascontiguousarray(pixels[..., 0])


def picture_geometry(picture: Picture) -> Geometry:
    """The lengths that a picture states; it never states a position in the body."""
    step, positions = picture.lengths.slice_mm, None
    if step and picture.slices > 1:
        positions = np.arange(picture.slices, dtype=np.float64) * step
    return Geometry(pixel_mm=picture.lengths.pixel_mm, positions_mm=positions)


# The pixels as stored, where Pillow alone would lose bits or scale them.


def decoded_page(image: Image.Image, path: Path) -> Page:
    """The pixels in stored orientation. Raises whatever the decoders raise on damage."""
    if image.format == "PPM":
        header = _PNM.match(_head(path, _PNM_HEAD_BYTES))
        if header:
            return _netpbm(path, header)
    if image.format == "PNG" and _is_deep_png(image):
        from imagecodecs import png_decode

        return _of_samples(png_decode(_content(path)), 16)
    # Pillow shifts components of other than 8 bits, and drops signs.
    if image.format == "JPEG2000" and any(size != 7 for size in _j2k_components(path)):
        from imagecodecs import jpeg2k_decode

        return _of_samples(jpeg2k_decode(_content(path)), max(_j2k_depths(path)))
    return _of_pillow(image)


def is_reduced(image: Image.Image, path: Path) -> bool:
    """Whether its colours have more than 8 bits, which become 0..255 with fractions."""
    if image.format == "PNG":
        return _is_deep_png(image) and not is_deep_grey(image)
    if image.format == "PPM":
        header = _PNM.match(_head(path, _PNM_HEAD_BYTES))
        return bool(header and header[1] in _PNM_COLOURS and int(header[4]) > WHITE)
    if image.format == "JPEG2000":
        depths = _j2k_depths(path)
        return len(depths) >= 3 and max(depths) > 8
    return False


def is_deep_grey(image: Image.Image) -> bool:
    """Whether what Pillow opens as colours is a PNG of 16-bit grey with opacity."""
    return image.format == "PNG" and _raw_mode(image).startswith("LA;16")


def is_lossy(image: Image.Image, path: Path) -> bool:
    """Whether its compression changes pixel values."""
    if image.format == "WEBP":
        return b"VP8 " in _head(path, 64)
    if image.format == "JPEG2000":
        head = _head(path, _J2K_HEAD_BYTES)
        at = head.find(_CODING_MARKER)
        return at < 0 or head[at + 13 : at + 14] == b"\0"  # the irreversible wavelet
    return image.format in ("JPEG", "MPO")


def unread_jpeg(path: Path) -> str:
    """What a JPEG is that Pillow does not read, in words; "" for any other file."""
    marker, frame = jpeg_frame(_head(path, _JPEG_HEAD_BYTES))
    return _LOSSLESS.get(marker, "a JPEG of 12 bits" if frame[:1] == b"\x0c" else "")


def late_exif(path: Path) -> bytes:
    """EXIF data that a PNG file has behind its pixels; empty bytes where it has none."""
    # Unbuffered: a few bytes a chunk are wanted, and nothing of the pixels between.
    with open_file(path, buffering=0) as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"eXIf":
                return file.read(length)
            file.seek(length + 4, 1)
    return b""


def _head(path: Path, nbytes: int) -> bytes:
    with open_file(path, buffering=0) as file:
        return file.read(nbytes)


def _content(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read()


def _raw_mode(image: Image.Image) -> str:
    """How Pillow says that pixels are stored before they are decoded, such as RGB;16B."""
    tiles: Any = getattr(image, "tile", ())
    return str(tiles[0].args) if tiles else ""


def _is_deep_png(image: Image.Image) -> bool:
    """Whether a PNG has 16 bits, of which Pillow keeps 8."""
    return _raw_mode(image) in ("RGB;16B", "RGBA;16B", "LA;16B")


def _netpbm(path: Path, header: re.Match[bytes]) -> Page:
    columns, rows, white = (int(header[group]) for group in (2, 3, 4))
    content = _content(path)[header.end() :]
    samples = 3 if header[1] in _PNM_COLOURS else 1
    count = rows * columns * samples
    if header[1] in _PNM_PLAIN:
        text = re.sub(rb"#[^\r\n]*", b"", content).split()
        values: Stored = np.array(text[:count], np.int64)
    else:
        dtype = np.dtype(">u2" if white > WHITE else np.uint8)
        values = np.frombuffer(content, dtype, count)
    shaped = values.reshape((rows, columns, 3) if samples == 3 else (rows, columns))
    # Grey of more than a byte keeps its units, like 12 bits of a camera in 16 of other formats.
    own_units = samples == 1 and white >= WHITE
    return Page(shaped, 1.0 if own_units else WHITE / white)


def _of_samples(values: Stored, bits: int) -> Page:
    """Grey (r, c), grey with alpha, RGB or RGBA, whole numbers of so many bits."""
    samples = 1 if values.ndim == 2 else values.shape[-1]
    alpha = values[..., -1] if samples in (2, 4) else None
    if samples in (1, 2):
        return Page(values if values.ndim == 2 else values[..., 0], alpha=alpha)
    return Page(values[..., :3], WHITE / (2**bits - 1), alpha=alpha)


def _of_pillow(image: Image.Image) -> Page:
    # Decoding clears it.
    mode, spread = image.mode, _SPREAD.get(_raw_mode(image), 1)
    if mode == "1":
        values = np.asarray(image)
        return Page(values, float(WHITE), alpha=_opaque(image, values, spread))
    if mode in ("L", "I", "F") or mode.startswith("I;16"):
        values = np.asarray(image)
        return Page(values, alpha=_opaque(image, values, spread))
    if mode == "LA":
        values = np.asarray(image)
        return Page(values[..., 0], alpha=values[..., 1])
    if mode in ("P", "PA"):
        return _painted(image)
    if mode in ("RGBA", "RGBa"):
        values = np.asarray(image.convert("RGBA"))
        return Page(values[..., :3], alpha=values[..., 3])
    values = np.asarray(image.convert("RGB"))
    return Page(values, alpha=_opaque(image, values, 1) if mode == "RGB" else None)


def _painted(image: Image.Image) -> Page:
    indices = np.asarray(image)
    alpha = None
    if indices.ndim == 3:
        indices, alpha = indices[..., 0], indices[..., 1]
    flat = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(flat)] = flat[:256]
    clear: Any = image.info.get("transparency")
    if isinstance(clear, bytes):
        table = np.full(256, WHITE, np.uint8)
        table[: len(clear)] = list(clear)
        alpha = table[indices]
    elif clear is not None:
        alpha = np.where(indices == clear, 0, WHITE)
    return Page(palette[indices], alpha=alpha, index=indices)


def _opaque(image: Image.Image, values: Stored, spread: int) -> Stored | None:
    """Opacity by the one value or colour that the file calls transparent; None without one.

    spread: the factor by which Pillow multiplied the values, but not the transparent one.
    """
    clear: Any = image.info.get("transparency")
    if clear is None:
        return None
    if values.ndim == 3:
        return np.where((values == np.asarray(clear)).all(axis=-1), 0, WHITE)
    return np.where(values == clear * spread, 0, WHITE)


def _j2k_depths(path: Path) -> list[int]:
    return [(size & 0x7F) + 1 for size in _j2k_components(path)]


def _j2k_components(path: Path) -> list[int]:
    """Depth less one of each component, the highest bit set where it is signed."""
    head = _head(path, _J2K_HEAD_BYTES)
    at = head.find(_SIZE_MARKER)
    size = head[at:] if at >= 0 else b""
    count = int.from_bytes(size[38:40], "big")
    return list(size[40 : 40 + 3 * count : 3])
