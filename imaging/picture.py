"""Pictures: PNG, JPEG, TIFF and their kin, which know pixels but no millimetres."""

import math
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
from wsseg.imaging.scan import FileRef, Geometry, Scan, ScanRef, SliceId

# Formats that hold pixels and nothing to run: no EPS, which would start an interpreter.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
MAX_STACK_VALUES = 2**30  # of all pages and channels together: 4 GiB of float32

_GREY_MODES = {"L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_ONE_CHANNEL = _GREY_MODES | {"1", "LA"}
_UPRIGHT = (None, 1)
_WHITE_IS_ZERO = 0


def picture_ref(file: FileRef) -> ScanRef:
    """The scan in a picture file, by its header; what is wrong with it is told when it is read."""
    try:
        with reading(file.source), open_picture(file.path, file.source) as picture:
            pages = page_count(picture)
            channels = 1 if picture.mode in _ONE_CHANNEL else 3
            size = picture.width * picture.height * pages * channels * 4
    except ReadError:
        size = 0
    return ScanRef("picture", (file,), decoded_bytes=size)


def read_picture(ref: ScanRef) -> Scan:
    """Read a picture as one slice, or a TIFF of several pages as that many.

    Grey values keep the file's own units (0..255, 0..65535 or float); 1-bit becomes 0 and 255;
    colour becomes RGB 0..255 (slice, row, column, 3), or grey where its three channels are equal.
    Raises ReadError.
    """
    file = ref.files[0]
    with reading(file.source), open_picture(file.path, file.source) as picture:
        flags = (*ref.flags, "PX_ONLY", *_flags(picture))
        pixels = grey_if_equal(_stack(picture, file.source), axes=3)
        if fill_nonfinite(pixels, file.source):
            flags = (*flags, "NONFINITE")
        slices = (SliceId(file.source),) * len(pixels)
        return Scan(pixels, Geometry(), slices, ref, flags=flags)


@contextmanager
def open_picture(path: Path, source: str) -> Iterator[Image.Image]:
    """Open a picture by its content, not its suffix; no pixel is decoded yet.

    Raises ReadError for more pixels than Pillow holds to be safe.
    """
    too_large = ReadError(
        "too_large",
        f"{source} has more than {Image.MAX_IMAGE_PIXELS} pixels: crop it or make it smaller",
    )
    with quiet:
        try:
            picture = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise too_large from error
        except UnidentifiedImageError as error:
            known = ", ".join(FORMATS)
            raise ReadError("not_a_picture", f"{source} is none of {known}: convert it") from error
        with picture:
            # Pillow itself only warns between its limit and twice that.
            if picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or MAX_STACK_VALUES):
                raise too_large
            yield picture


def page_count(picture: Image.Image) -> int:
    """Pages of a TIFF; 1 for everything else: an animation counts by its first frame."""
    return getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1


def page_values(page: Image.Image) -> NDArray[np.float32]:
    """The pixels of the current page: (row, column), or (row, column, 3) RGB 0..255."""
    if page.mode == "1":
        return np.asarray(page.convert("L"), np.float32)
    if page.mode == "LA":
        return np.asarray(page.getchannel("L"), np.float32)
    if page.mode in _GREY_MODES:
        return np.asarray(page, np.float32)
    return np.asarray(page.convert("RGB"), np.float32)


def grey_if_equal(pixels: NDArray[np.float32], *, axes: int) -> NDArray[np.float32]:
    """RGB (..., 3) as grey (...) where its channels are equal throughout; grey as it is.

    axes: how many axes grey pixels have, 2 for a slice and 3 for a stack.
    """
    # Part by part: a comparison of the whole would need a quarter of its memory again.
    if pixels.ndim == axes or any((part != part[..., :1]).any() for part in pixels):
        return pixels
    return np.ascontiguousarray(pixels[..., 0])


def _stack(picture: Image.Image, source: str) -> NDArray[np.float32]:
    size, count = picture.size, page_count(picture)
    colour = any(mode not in _ONE_CHANNEL for mode in _modes(picture, count, source))
    shape = (count, picture.height, picture.width, *((3,) if colour else ()))
    if math.prod(shape) > MAX_STACK_VALUES:
        what = f"{count} pages of {size} {'colour' if colour else 'grey'} pixels"
        raise ReadError("too_large", f"{source} has {what}: split it or make it smaller")
    pixels = np.empty(shape, np.float32)
    for index in range(count):
        picture.seek(index)
        page = page_values(picture)
        pixels[index] = page[..., np.newaxis] if page.ndim < pixels.ndim - 1 else page
    return pixels


def _modes(picture: Image.Image, count: int, source: str) -> set[str]:
    """The pixel formats of all pages, none of them decoded. Raises ReadError for unequal sizes."""
    size, modes = picture.size, set()
    for index in range(count):
        picture.seek(index)
        modes.add(picture.mode)
        if picture.size != size:
            raise ReadError(
                "pages_differ",
                f"page {index + 1} of {source} has {picture.size} pixels, page 1 has {size}: "
                "save pages of equal size, or one file each",
            )
    return modes


def _flags(picture: Image.Image) -> tuple[str, ...]:
    """What was left out or could be misread, judged by the first page."""
    white_is_zero = getattr(picture, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation)
    rules = {
        "ALPHA_DROPPED": picture.mode in ("LA", "PA", "RGBA", "RGBa")
        or "transparency" in picture.info,
        "FIRST_FRAME": picture.format != "TIFF" and getattr(picture, "n_frames", 1) > 1,
        # Pillow has no 16-bit colour: it keeps the upper 8 bits.
        "REDUCED_TO_8_BIT": "16" in str(getattr(picture, "tile", ""))
        and picture.mode not in _GREY_MODES,
        # Pillow inverts such pictures to black-is-zero up to 8 bits only.
        "WHITE_IS_ZERO": white_is_zero == _WHITE_IS_ZERO and picture.mode not in ("L", "1"),
        # Not applied: masks and marks drawn in other programs lie on the pixels as stored, and
        # a turned image would no longer match them.
        "EXIF_ORIENTATION": picture.getexif().get(ExifTags.Base.Orientation) not in _UPRIGHT,
    }
    return tuple(flag for flag, true in rules.items() if true)
