"""Pictures: TIFF, PNG, JPEG, BMP, GIF, WebP, PNM, JPEG 2000; most know no millimetres."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from wsseg.imaging.dicom_quiet import quiet
from wsseg.imaging.errors import ReadError
from wsseg.imaging.guard import reading
from wsseg.imaging.nonfinite import fill_nonfinite
from wsseg.imaging.picture_decode import (
    decoded_page,
    is_deep_grey,
    is_lossy,
    is_reduced,
    late_exif,
    unread_jpeg,
)
from wsseg.imaging.picture_page import ORIENTED, SIDEWAYS, UPRIGHT, Page, Picture
from wsseg.imaging.scan import FileRef, Geometry, Scan, ScanRef, SliceId
from wsseg.imaging.tiff import MAGICS, open_tiff

# Formats that hold pixels and nothing to run: no EPS, which would start an interpreter.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
KNOWN = ("TIFF", *FORMATS)
MAX_STACK_VALUES = 2**30  # of all pages and channels together: 4 GiB of float32

_ONE_CHANNEL = {"1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def picture_refs(file: FileRef) -> tuple[ScanRef, ...]:
    """The scans in a picture file, one per time of a TIFF hyperstack, by its header only.

    What is wrong with a file is told when it is read.
    """
    try:
        with reading(file.source), open_picture(file.path, file.source) as picture:
            values = picture.shape[0] * picture.shape[1] * picture.slices
            size = values * (3 if picture.colour else 1) * 4
            volumes = picture.volumes
    except ReadError:
        return (ScanRef("picture", (file,)),)
    if volumes == 1:
        return (ScanRef("picture", (file,), decoded_bytes=size),)
    return tuple(
        ScanRef("picture", (file,), volume=volume, decoded_bytes=size) for volume in range(volumes)
    )


def read_picture(ref: ScanRef) -> Scan:
    """Read a picture as one slice, or a TIFF of several pages as that many; as it is shown.

    Grey values keep the file's own units (0..255, 0..65535, signed or fractional); grey of fewer
    bits than a byte becomes 0..255; colour becomes RGB 0..255 (slice, row, column, 3), or grey
    where its three channels are equal. An orientation tag is applied. Raises ReadError.
    """
    file = ref.files[0]
    with reading(file.source), open_picture(file.path, file.source) as picture:
        flags = (*ref.flags, *picture.flags)
        pixels = grey_if_equal(_stack(picture, ref.volume or 0, file.source), axes=3)
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
    with path.open("rb", buffering=0) as stream:
        is_tiff = stream.read(4) in MAGICS
    with quiet:
        if is_tiff:
            with open_tiff(path, source) as tiff:
                yield tiff
            return
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
    too_large = ReadError(
        "too_large",
        f"{source} has more than {Image.MAX_IMAGE_PIXELS} pixels: crop it or make it smaller",
    )
    try:
        image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise too_large from error
    except UnidentifiedImageError as error:
        known = ", ".join(KNOWN)
        if found := unread_jpeg(path):
            raise ReadError(
                "compression", f"{source} is {found}, which is not read: save it as PNG or TIFF"
            ) from error
        raise ReadError(
            "not_a_picture", f"{source} is none of {known}, or is cut: convert it"
        ) from error
    with image:
        # Pillow itself only warns between its limit and twice that.
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or MAX_STACK_VALUES):
            raise too_large
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


def _stack(picture: Picture, volume: int, source: str) -> NDArray[np.float32]:
    rows, columns = picture.shape
    shape = (picture.slices, rows, columns, *((3,) if picture.colour else ()))
    if picture.slices * rows * columns * (3 if picture.colour else 1) > MAX_STACK_VALUES:
        kind = "colour" if picture.colour else "grey"
        what = f"{picture.slices} pages of {rows} x {columns} {kind} pixels"
        raise ReadError("too_large", f"{source} has {what}: split it or make it smaller")
    pixels = np.empty(shape, np.float32)
    for index in range(picture.slices):
        page = picture.page(index, volume).shown()
        pixels[index] = page[..., np.newaxis] if page.ndim < pixels.ndim - 1 else page
    return pixels


def picture_geometry(picture: Picture) -> Geometry:
    """The lengths that a picture states; where it lies in a body it never knows."""
    lengths = picture.lengths
    through = lengths.slice_mm
    positions = None
    if through and picture.slices > 1:
        positions = np.arange(picture.slices, dtype=np.float64) * through
    return Geometry(pixel_mm=lengths.pixel_mm, positions_mm=positions)
