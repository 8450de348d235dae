"""Pictures of every pixel format keep their values, or say what was lost."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from PIL import Image

from wsseg.imaging import nifti_header
from wsseg.imaging import picture as picture_module
from wsseg.imaging.errors import ReadError
from wsseg.imaging.picture import read_picture
from wsseg.imaging.scan import FileRef, ScanRef
from wsseg.imaging.volume import volume_refs

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
    assert scan.flags == ("PX_ONLY",)
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
def test_the_size_limit_counts_pages_and_channels(tmp_path, monkeypatch, mode, limit):
    page = Image.new(mode, (5, 2))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    monkeypatch.setattr(picture_module, "MAX_STACK_VALUES", limit)
    assert len(read(tmp_path / "a.tif").pixels) == 2
    monkeypatch.setattr(picture_module, "MAX_STACK_VALUES", limit - 1)
    assert reason(tmp_path / "a.tif") == "too_large"


def test_the_size_limit_of_a_nifti_volume_counts_channels(tmp_path, monkeypatch):
    voxels = np.zeros((4, 5, 3), [(letter, np.uint8) for letter in "RGB"])
    for name in ("a.nii", "b.nii"):
        Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / name)
    monkeypatch.setattr(nifti_header, "MAX_VALUES", 180)
    assert len(volume_refs(FileRef(tmp_path / "a.nii", "a.nii"))) == 1
    monkeypatch.setattr(nifti_header, "MAX_VALUES", 179)
    with pytest.raises(ReadError, match="3 values a voxel"):
        volume_refs(FileRef(tmp_path / "b.nii", "b.nii"))


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


def test_exif_orientation_is_told_and_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    scan = saved(tmp_path / "a.png", Image.fromarray(GREY), exif=exif)
    assert "EXIF_ORIENTATION" in scan.flags
    assert np.array_equal(scan.pixels[0], GREY)


def test_16_bit_colour_is_told_to_lose_its_lower_bits(tmp_path):
    def chunk(name, content):
        total = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", total)

    rows = (b"\0" + bytes(range(12))) * 2
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    scan = read(tmp_path / "a.png")
    assert "REDUCED_TO_8_BIT" in scan.flags
    assert scan.pixels[0, 0, 0].tolist() == [0, 2, 4]


def test_inverted_16_bit_tiff_is_told(tmp_path):
    picture = Image.fromarray(np.array([[0, 999]], np.uint16))
    scan = saved(tmp_path / "a.tif", picture, tiffinfo={262: 0})
    assert "WHITE_IS_ZERO" in scan.flags


@pytest.mark.parametrize("times", [1.5, 3])
def test_more_pixels_than_pillow_holds_safe_are_refused(tmp_path, monkeypatch, times):
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(900 / times))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert reason(tmp_path / "a.png") == "too_large"


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_truncated_pictures_are_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, "PNG"))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    assert reason(path)


def test_other_content_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert reason(tmp_path / "a.png") == "not_a_picture"
