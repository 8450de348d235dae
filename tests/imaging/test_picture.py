"""Pictures of every pixel format keep their values, or say what was lost."""

import io
import struct
import warnings
import zlib

import imagecodecs
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from PIL import Image

from wsseg.imaging import (
    FileRef,
    ReadError,
    ScanRef,
    read_label_slice,
    read_slice,
    slice_shape,
    volume_refs,
)
from wsseg.imaging.limits import ReadLimits
from wsseg.imaging.pictures import read_picture

GREY = np.arange(20, dtype=np.uint8).reshape(4, 5) * 10
COLOUR = np.stack([GREY, GREY + 5, GREY + 9], axis=-1)


def read(path):
    return read_picture(ScanRef("picture", (FileRef(path, path.name),)))


def saved(path, picture, **options):
    picture.save(path, **options)
    return read(path)


def reason(path):
    with pytest.raises(ReadError, match=path.name) as caught:
        read(path)
    return caught.value.reason


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff", "a.bmp", "misnamed.jpg"])
def test_grey_values_are_kept_without_millimetres(tmp_path, name):
    scan = saved(tmp_path / name, Image.fromarray(GREY), format=None if name[0] == "a" else "PNG")
    assert np.array_equal(scan.pixels[0], GREY)
    assert scan.pixels.dtype == np.float32
    assert scan.geometry.pixel_mm is None
    assert scan.flags == ()
    assert [s.source for s in scan.slices] == [name]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_keeps_its_own_units(tmp_path, name):
    values = np.array([[0, 1000], [40000, 65535]], np.uint16)
    assert np.array_equal(saved(tmp_path / name, Image.fromarray(values)).pixels[0], values)


def test_float_tiff_keeps_its_values_and_mends_what_is_not_finite(tmp_path):
    values = np.array([[-1.5, np.nan], [2.5, np.inf]], np.float32)
    scan = saved(tmp_path / "a.tif", Image.fromarray(values))
    assert scan.pixels[0].tolist() == [[-1.5, -1.5], [2.5, -1.5]]
    assert "NONFINITE" in scan.flags


def test_colour_is_rgb_and_equal_channels_are_grey(tmp_path):
    assert np.array_equal(saved(tmp_path / "a.png", Image.fromarray(COLOUR)).pixels[0], COLOUR)
    equal = np.stack([GREY] * 3, axis=-1)
    assert np.array_equal(saved(tmp_path / "b.png", Image.fromarray(equal)).pixels[0], GREY)


def test_a_grey_picture_three_pixels_wide_stays_a_plane(tmp_path):
    assert saved(tmp_path / "a.png", Image.new("L", (3, 4), 7)).pixels.shape == (1, 4, 3)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped_and_told(tmp_path, mode):
    picture = Image.fromarray(COLOUR if mode == "RGBA" else GREY).convert(mode)
    picture.putalpha(Image.new("L", picture.size, 9))
    scan = saved(tmp_path / "a.png", picture)
    assert np.array_equal(scan.pixels[0], COLOUR if mode == "RGBA" else GREY)
    assert "ALPHA_DROPPED" in scan.flags


def test_a_palette_is_looked_up(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8))
    picture.putpalette([1, 2, 3, 40, 50, 60])
    scan = saved(tmp_path / "a.png", picture)
    assert scan.pixels[0, 0].tolist() == [[1, 2, 3], [40, 50, 60]]


def test_one_bit_becomes_black_and_white(tmp_path):
    picture = Image.fromarray(np.array([[False, True]]))
    assert saved(tmp_path / "a.png", picture).pixels[0].tolist() == [[0, 255]]


def test_cmyk_becomes_rgb(tmp_path):
    scan = saved(tmp_path / "a.tif", Image.new("CMYK", (2, 2), (255, 0, 0, 0)))
    assert scan.pixels[0, 0, 0].tolist() == [0, 255, 255]


def test_jpeg_is_read(tmp_path):
    scan = saved(tmp_path / "a.jpg", Image.new("L", (8, 8), 100))
    assert np.abs(scan.pixels - 100).max() <= 1


def test_tiff_pages_are_slices_and_must_agree_in_size(tmp_path):
    pages = [Image.new("L", (5, 4), value) for value in (1, 2, 3)]
    scan = saved(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    assert scan.pixels[:, 0, 0].tolist() == [1, 2, 3]
    assert scan.pixels.shape == (3, 4, 5)
    pages[1] = Image.new("L", (6, 4))
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    assert reason(tmp_path / "b.tif") == "pages_differ"


def test_grey_and_colour_pages_stack_as_colour(tmp_path):
    pages = [Image.fromarray(GREY), Image.fromarray(COLOUR)]
    scan = saved(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    assert np.array_equal(scan.pixels[0], np.stack([GREY] * 3, axis=-1))
    assert np.array_equal(scan.pixels[1], COLOUR)


@pytest.mark.parametrize(("mode", "limit"), [("L", 20), ("RGB", 60)])
def test_the_size_limit_counts_pages_and_channels(tmp_path, mode, limit):
    page = Image.new(mode, (5, 2))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    ref = ScanRef("picture", (FileRef(tmp_path / "a.tif", "a.tif"),))
    assert len(read_picture(ref, ReadLimits(scan_bytes=4 * limit)).pixels) == 2
    with pytest.raises(ReadError, match="--max-scan-mb") as caught:
        read_picture(ref, ReadLimits(scan_bytes=4 * limit - 1))
    assert caught.value.reason == "too_large"


def test_the_size_limit_of_a_nifti_volume_counts_channels(tmp_path):
    voxels = np.zeros((4, 5, 3), [(letter, np.uint8) for letter in "RGB"])
    Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "a.nii")
    file = FileRef(tmp_path / "a.nii", "a.nii")
    assert len(volume_refs(file, ReadLimits(scan_bytes=4 * 180))) == 1
    with pytest.raises(ReadError, match="--max-scan-mb"):
        volume_refs(file, ReadLimits(scan_bytes=4 * 180 - 1))


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_counts_by_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    scan = saved(
        tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options
    )
    assert scan.pixels.shape == (1, 16, 16, 3)
    assert scan.pixels[0, 0, 0].tolist() == [255, 0, 0]
    assert "FIRST_FRAME" in scan.flags


STORED = {  # where the corner at the top left of a picture as shown is stored, by orientation
    1: (0, 0),
    2: (0, -1),
    3: (-1, -1),
    4: (-1, 0),
    5: (0, 0),
    6: (-1, 0),
    7: (-1, -1),
    8: (0, -1),
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_told(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    values = np.zeros((16, 24), np.uint8)
    row, column = STORED[orientation]
    values[row, column] = values.mean() + 200
    values[np.ix_([0, 1, 2] if row == 0 else [-1, -2, -3], range(24))] += 50
    options = {"quality": 100} | ({"lossless": True} if suffix == "webp" else {})
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        scan = saved(path, Image.fromarray(values), tiffinfo={274: orientation})
    else:
        scan = saved(path, Image.fromarray(values), exif=exif, **options)
    shape = (24, 16) if orientation > 4 else (16, 24)
    assert scan.pixels.shape[1:3] == slice_shape(path) == shape
    assert np.unravel_index(scan.pixels[0].reshape(*shape, -1)[..., 0].argmax(), shape) == (0, 0)
    assert ("EXIF_ORIENTATION" in scan.flags) == (orientation != 1)
    assert np.array_equal(scan.pixels[0], read_slice(path))


def test_16_bit_grey_is_turned_as_well(tmp_path):
    values = np.arange(2400, dtype=np.uint16).reshape(40, 60) * 20
    exif = Image.Exif()
    exif[0x0112] = 6
    scan = saved(tmp_path / "a.png", Image.fromarray(values), exif=exif)
    assert np.array_equal(scan.pixels[0], np.rot90(values, -1))


def test_an_orientation_behind_the_pixels_of_a_png_counts(tmp_path):
    saved(tmp_path / "a.png", Image.fromarray(GREY))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = (tmp_path / "a.png").read_bytes()
    end = content.index(b"IEND") - 4
    late = content[:end] + chunk(b"eXIf", exif.tobytes()[6:]) + content[end:]
    (tmp_path / "a.png").write_bytes(late)
    assert slice_shape(tmp_path / "a.png") == (5, 4)
    assert np.array_equal(read(tmp_path / "a.png").pixels[0], np.rot90(GREY, -1))


def chunk(name, content):
    total = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", total)


def png16(path, values):
    """A PNG of 16 bits, of any colour type."""
    rows, columns, samples = values.shape
    kind = {2: 4, 3: 2, 4: 6}[samples]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", columns, rows, 16, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    return read(path)


def test_16_bit_colour_keeps_its_fractions_of_0_to_255(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 3)).astype(np.uint16)
    scan = png16(tmp_path / "a.png", values)
    assert scan.flags == ("SCALED_TO_8_BIT",)
    assert np.allclose(scan.pixels[0], values / 257, atol=1e-4)


def test_16_bit_grey_beside_opacity_keeps_its_units(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 2)).astype(np.uint16)
    scan = png16(tmp_path / "a.png", values)
    assert scan.flags == ("ALPHA_DROPPED",)
    assert np.array_equal(scan.pixels[0], values[..., 0])


@pytest.mark.parametrize("size", [(160, 120), (1600, 16), (16, 16), (150, 150)])
def test_the_size_of_an_8_bit_picture_tells_nothing_of_its_depth(tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    assert saved(tmp_path / "a.png", Image.fromarray(noise)).flags == ()


@pytest.mark.parametrize(
    ("white", "expected"),
    [(255, [0, 1, 200, 255]), (100, [0, 2.55, 127.5, 255]), (4095, None), (65535, None)],
)
@pytest.mark.parametrize("plain", [False, True])
def test_grey_netpbm_keeps_its_units_and_fewer_bits_become_0_to_255(
    tmp_path, white, expected, plain
):
    values = np.array([[0, 1, 200 if white == 255 else white // 2, white]])
    dtype = ">u2" if white > 255 else np.uint8
    body = " ".join(map(str, values[0])).encode() if plain else values.astype(dtype).tobytes()
    head = f"P{2 if plain else 5}\n# made here\n4 1\n{white}\n".encode()
    (tmp_path / "a.pgm").write_bytes(head + body)
    found = read(tmp_path / "a.pgm").pixels[0, 0]
    assert np.allclose(found, values[0] if expected is None else expected)
    assert np.array_equal(found, read_slice(tmp_path / "a.pgm")[0])
    labels = tmp_path / "labels.pgm"
    labels.write_bytes(f"P5 4 1 {white}\n".encode() + np.arange(4).astype(dtype).tobytes())
    assert read_label_slice(labels).tolist() == [[0, 1, 2, 3]]


def test_16_bit_colour_netpbm_is_scaled(tmp_path):
    values = np.arange(12, dtype=">u2").reshape(1, 4, 3) * 5000
    (tmp_path / "a.ppm").write_bytes(b"P6\n4 1\n65535\n" + values.astype(">u2").tobytes())
    scan = read(tmp_path / "a.ppm")
    assert np.allclose(scan.pixels[0], values / 257, atol=1e-4)
    assert scan.flags == ("SCALED_TO_8_BIT",)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_jpeg_2000_keeps_sign_and_depth(tmp_path, dtype):
    span = np.iinfo(dtype)
    values = np.linspace(span.min, span.max, 64 * 64).astype(dtype).reshape(64, 64)
    content = imagecodecs.jpeg2k_encode(values, level=0, reversible=True, codecformat="jp2")
    (tmp_path / "a.jp2").write_bytes(content)
    assert np.array_equal(read(tmp_path / "a.jp2").pixels[0], values)


def test_colour_jpeg_2000_of_16_bits_is_scaled(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (64, 64, 3)).astype(np.uint16)
    content = imagecodecs.jpeg2k_encode(values, level=0, reversible=True)
    (tmp_path / "a.j2k").write_bytes(content)
    scan = read(tmp_path / "a.j2k")
    assert np.allclose(scan.pixels[0], values / 257, atol=1e-4)
    assert scan.flags == ("SCALED_TO_8_BIT",)


@pytest.mark.parametrize("times", [1.5, 3])
def test_more_pixels_than_pillow_holds_safe_are_refused(tmp_path, monkeypatch, times):
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(900 / times))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert reason(tmp_path / "a.png") == "too_large"


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_there_is_a_limit_of_pixels_where_a_program_has_taken_that_of_pillow_away(
    tmp_path, monkeypatch, suffix
):
    Image.new("L", (30, 30)).save(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr("wsseg.imaging.picture_page.SLICE_PIXELS", 899)
    with pytest.raises(ReadError, match="more than 899 pixels: crop it"):
        read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_truncated_pictures_are_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, "PNG"))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    assert reason(path)


@pytest.mark.parametrize(
    ("encode", "options", "kind"),
    [
        ("ljpeg_encode", {"bitspersample": 16}, "a lossless JPEG"),
        ("jpegls_encode", {}, "a JPEG-LS picture"),
        ("jpeg8_encode", {"bitspersample": 12}, "a JPEG of 12 bits"),
    ],
)
def test_a_jpeg_that_is_not_read_is_named(tmp_path, encode, options, kind):
    values = np.arange(40 * 56, dtype=np.uint16).reshape(40, 56)
    content = getattr(imagecodecs, encode)(values, **options)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ReadError, match=f"a.jpg is {kind}, which is not read: save it as PNG"):
        read_slice(tmp_path / "a.jpg")


def test_other_content_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert reason(tmp_path / "a.png") == "not_a_picture"
