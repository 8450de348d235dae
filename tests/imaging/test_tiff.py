"""TIFFs keep their numbers, whatever their format, and say how they lie and how large they are."""

import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.imaging.tiffs import GREY, RANDOM, refusal, scans, written
from wsseg.imaging import ReadError, read_label_slice

COLOUR16 = RANDOM.integers(0, 65536, (40, 56, 3)).astype(np.uint16)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_colours_are_the_same_however_they_are_stored(
    tmp_path, planar, options, bigtiff, order
):
    values = COLOUR16 if planar == "contig" else np.moveaxis(COLOUR16, -1, 0)
    scan = written(
        tmp_path / "a.tif",
        values,
        photometric="rgb",
        planarconfig=planar,
        bigtiff=bigtiff,
        byteorder=order,
        **options,
    )
    assert np.allclose(scan.pixels[0], COLOUR16 / 257, atol=1e-4)
    assert scan.flags == ("SCALED_TO_8_BIT",)


@pytest.mark.parametrize(
    "dtype",
    [
        *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float16", "float32", "float64"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"compression": "lzw", "predictor": True}])
def test_grey_of_every_number_format_keeps_its_values(tmp_path, dtype, options):
    kind = np.dtype(dtype)
    if kind.kind == "f":
        values = RANDOM.normal(0, 30, (40, 56)).astype(kind)
    else:
        span = np.iinfo(kind)
        values = np.linspace(span.min, span.max * (1 - 2**-20), 40 * 56).astype(kind)
        values = values.reshape(40, 56)
    if kind.itemsize == 8 and options:
        options = {"compression": "lzw"}
    scan = written(tmp_path / "a.tif", values, photometric="minisblack", **options)
    assert np.array_equal(scan.pixels[0], values.astype(np.float32))
    assert scan.flags == ()


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "zstd", "lzma", "jpeg2000"])
def test_compression_changes_nothing(tmp_path, compression):
    scan = written(tmp_path / "a.tif", GREY, photometric="minisblack", compression=compression)
    assert np.array_equal(scan.pixels[0], GREY)


def test_jpeg_compression_gives_rgb_and_is_refused_for_labels(tmp_path):
    picture = Image.new("RGB", (64, 48), (200, 30, 90))
    picture.save(tmp_path / "a.tif", compression="jpeg")
    (scan,) = scans(tmp_path / "a.tif")
    assert np.abs(scan.pixels[0] - (200, 30, 90)).max() <= 2
    with pytest.raises(ReadError, match="with loss"):
        read_label_slice(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12, 14])
def test_packed_bits_keep_their_numbers(tmp_path, bits):
    values = (np.arange(40 * 56) % 2**bits).reshape(40, 56).astype(np.uint16 if bits > 8 else "u1")
    path = tmp_path / "a.tif"
    scan = written(path, values, photometric="minisblack", bitspersample=bits)
    # Fewer bits than a byte are grey from black to white.
    scale = 255 / (2**bits - 1) if bits < 8 else 1
    assert np.allclose(scan.pixels[0], values * scale)
    if bits < 8:
        assert np.array_equal(read_label_slice(path), values)


@pytest.mark.parametrize(
    "options", [{}, {"photometric": "minisblack"}, {"photometric": "miniswhite"}]
)
def test_a_boolean_array_is_its_own_mask(tmp_path, options):
    inside = np.zeros((48, 48), bool)
    inside[10:20, 10:30] = True
    scan = written(tmp_path / "a.tif", inside, **options)
    assert np.array_equal(scan.pixels[0], inside * 255)
    assert np.array_equal(read_label_slice(tmp_path / "a.tif"), inside)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_where_0_is_white_the_picture_is_as_it_looks_and_the_labels_as_numbered(tmp_path, dtype):
    values = np.array([[0, 1, 200]], dtype)
    scan = written(tmp_path / "a.tif", values, photometric="miniswhite")
    assert scan.pixels[0].tolist() == (float(np.iinfo(dtype).max) - values).tolist()
    assert scan.flags == ("WHITE_IS_ZERO",)
    assert np.array_equal(read_label_slice(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_a_physical_value_is_never_mirrored(tmp_path, dtype):
    values = np.array([[-1.5, 2.5]]).astype(dtype)
    scan = written(tmp_path / "a.tif", values, photometric="miniswhite")
    assert np.array_equal(scan.pixels[0], values)
    assert scan.flags == ()


def test_a_bilevel_page_of_other_programs_is_read_as_it_looks(tmp_path):
    inside = np.zeros((16, 16), bool)
    inside[2:5, 3:9] = True
    picture = Image.fromarray(inside)
    picture.save(tmp_path / "a.tif", compression="group4", tiffinfo={262: 0})
    (scan,) = scans(tmp_path / "a.tif")
    looks = np.asarray(Image.open(tmp_path / "a.tif"))
    assert np.array_equal(scan.pixels[0], looks * 255)
    assert np.array_equal(read_label_slice(tmp_path / "a.tif"), looks)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_an_orientation_tag_is_applied(tmp_path, orientation, dtype):
    turned = {
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: np.rot90(GREY, -1),
        7: GREY[::-1, ::-1].T,
        8: np.rot90(GREY),
    }[orientation]
    tags = [(274, "H", 1, orientation, True)]
    scan = written(tmp_path / "a.tif", GREY.astype(dtype), photometric="minisblack", extratags=tags)
    assert np.array_equal(scan.pixels[0], turned)
    assert scan.flags == ("EXIF_ORIENTATION",)


@pytest.mark.parametrize("channels", [2, 3, 5])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_channels_that_are_no_colours_are_refused_by_name(tmp_path, channels, planar):
    shape = (40, 56, channels) if planar == "contig" else (channels, 40, 56)
    path = tmp_path / "a.tif"
    values = np.zeros(shape, np.uint8)
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig=planar)
    reason, message = refusal(path)
    assert reason == "channels"
    assert f"{channels} channels" in message


def test_what_lies_beside_the_colours_is_dropped_and_told(tmp_path):
    values = RANDOM.integers(0, 256, (40, 56, 5), np.uint8)
    scan = written(tmp_path / "a.tif", values, photometric="rgb", planarconfig="contig")
    assert np.array_equal(scan.pixels[0], values[..., :3])
    assert scan.flags == ("ALPHA_DROPPED",)


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_that_were_multiplied_by_their_opacity_are_what_they_were(tmp_path, channels):
    values = RANDOM.integers(0, 256, (40, 56, channels), np.uint8)
    opacity = np.where(np.arange(56) < 20, 128, 255).astype(np.uint8) * np.ones((40, 1), np.uint8)
    stored = np.rint(values * (opacity[..., np.newaxis] / 255)).astype(np.uint8)
    scan = written(
        tmp_path / "a.tif",
        np.dstack([stored, opacity]),
        photometric="rgb" if channels == 3 else "minisblack",
        planarconfig="contig",
        extrasamples=["assocalpha"],
    )
    apart = np.abs(scan.pixels[0].reshape(values.shape) - values)
    assert apart.max() <= 1
    assert not apart[:, 20:].any()
    assert scan.flags == ("ALPHA_DROPPED",)


@pytest.mark.parametrize(
    ("space", "reason"), [("cielab", "colour_space"), ("icclab", "colour_space")]
)
def test_colour_spaces_that_are_not_read_are_named(tmp_path, space, reason):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 56, 3), np.uint8), photometric=space)
    found, message = refusal(tmp_path / "a.tif")
    assert found == reason
    assert "Lab" in message


def test_complex_numbers_are_no_picture(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 56), np.complex64))
    assert refusal(tmp_path / "a.tif")[0] == "number_format"


def test_plain_ycbcr_and_cmyk_become_rgb(tmp_path):
    for mode in ("YCbCr", "CMYK"):
        picture = Image.new("RGB", (8, 8), (200, 30, 90)).convert(mode)
        picture.save(tmp_path / f"{mode}.tif")
        (scan,) = scans(tmp_path / f"{mode}.tif")
        assert np.abs(scan.pixels[0] - (200, 30, 90)).max() <= 2


def test_a_palette_is_looked_up_and_may_be_grey(tmp_path):
    index = (np.arange(40 * 56) % 7).reshape(40, 56).astype(np.uint8)
    ramp = np.arange(256, dtype=np.uint16) * 257
    colours = np.stack([ramp, ramp[::-1], ramp])
    scan = written(tmp_path / "a.tif", index, photometric="palette", colormap=colours)
    assert scan.pixels[0, 0, 3].tolist() == [3, 252, 3]
    reversed_ramp = np.stack([ramp[::-1]] * 3)
    grey = written(tmp_path / "b.tif", index, photometric="palette", colormap=reversed_ramp)
    assert np.array_equal(grey.pixels[0], 255 - index)


def test_the_palette_of_a_label_map_by_a_program_of_science_is_for_the_eye(tmp_path):
    index = (np.arange(40 * 56) % 7).reshape(40, 56).astype(np.uint8)
    colours = RANDOM.integers(0, 65536, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=colours)
    assert np.array_equal(read_label_slice(tmp_path / "a.tif"), index)
    picture = Image.fromarray(index)
    picture.putpalette(list((colours.T >> 8).astype(np.uint8).tobytes()))
    picture.save(tmp_path / "b.tif")
    with pytest.raises(ReadError, match="colours"):
        read_label_slice(tmp_path / "b.tif")


def test_values_that_imagej_calibrated_are_those_that_it_shows(tmp_path):
    units = RANDOM.integers(-1024, 3072, (40, 56))
    signed = "ImageJ=1.54f\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n"
    stored = (units + 32768).astype(np.uint16)
    scan = written(tmp_path / "a.tif", stored, description=signed, metadata=None)
    assert np.array_equal(scan.pixels[0], units)
    labels = units % 3
    stored = (labels + 32768).astype(np.uint16)
    tifffile.imwrite(tmp_path / "b.tif", stored, description=signed, metadata=None)
    assert np.array_equal(read_label_slice(tmp_path / "b.tif"), labels)


@pytest.mark.parametrize(
    ("unit", "millimetres"),
    [
        *(("um", 0.0005), ("\\u00B5m", 0.0005), ("micron", 0.0005), ("mm", 0.5), ("cm", 5)),
        *(("nm", 5e-7), ("pixel", None), ("", None)),
    ],
)
def test_the_pixel_size_of_imagej_is_in_its_unit(tmp_path, unit, millimetres):
    values = np.stack([GREY] * 3)
    scan = written(
        tmp_path / "a.tif",
        values,
        imagej=True,
        resolution=(2, 4),
        metadata={"axes": "ZYX", "unit": unit, "spacing": 3.0},
    )
    geometry = scan.geometry
    if millimetres is None:
        assert geometry.pixel_mm is None
        assert geometry.positions_mm is None
    else:
        assert geometry.pixel_mm == pytest.approx((millimetres / 2, millimetres))
        assert np.allclose(np.diff(geometry.positions_mm), 6 * millimetres)
    assert "PX_ONLY" not in scan.flags


def test_the_resolution_of_a_screen_is_no_pixel_size_where_imagej_copied_it(tmp_path):
    scan = written(
        tmp_path / "a.tif", GREY, imagej=True, resolution=(72, 72), metadata={"unit": "inch"}
    )
    assert scan.geometry.pixel_mm is None


def test_the_pixel_size_of_ome_is_in_its_unit(tmp_path):
    stated = {"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 500, "PhysicalSizeYUnit": "nm"}
    scan = written(tmp_path / "a.ome.tif", np.stack([GREY] * 2), metadata=stated)
    assert scan.geometry.pixel_mm == pytest.approx((0.0005, 0.00025))


@pytest.mark.parametrize(
    ("software", "unit", "per_unit", "millimetres"),
    [
        ("tifffile.py", "CENTIMETER", 20, 0.5),
        ("OME Bio-Formats 7.0", "CENTIMETER", 20, 0.5),
        ("Photo program", "CENTIMETER", 20, None),
        ("tifffile.py", "CENTIMETER", 72 / 2.54, None),
        ("tifffile.py", "INCH", 50.8, None),
        ("tifffile.py", "NONE", 20, None),
    ],
)
def test_a_resolution_is_a_pixel_size_only_in_cm_by_programs_of_science(
    tmp_path, software, unit, per_unit, millimetres
):
    scan = written(
        tmp_path / "a.tif",
        GREY,
        photometric="minisblack",
        resolution=(per_unit, 2 * per_unit),
        resolutionunit=unit,
        software=software,
        metadata=None,
    )
    expected = None if millimetres is None else pytest.approx((millimetres / 2, millimetres))
    assert scan.geometry.pixel_mm == expected


def test_a_turned_picture_has_its_lengths_turned(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        GREY,
        photometric="minisblack",
        resolution=(20, 40),
        resolutionunit="CENTIMETER",
        extratags=[(274, "H", 1, 6, True)],
    )
    (scan,) = scans(tmp_path / "a.tif")
    assert scan.geometry.pixel_mm == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "rowsperstrip": 8}])
def test_a_tiff_that_is_cut_is_refused(tmp_path, options):
    path = tmp_path / "a.tif"
    noise = RANDOM.integers(0, 256, (400, 400), np.uint8)
    tifffile.imwrite(path, noise, photometric="minisblack", **options)
    path.write_bytes(path.read_bytes()[:-9000])
    assert refusal(path)[0]


@pytest.mark.parametrize("tag", ["ImageWidth", "ImageLength"])
def test_a_tiff_that_does_not_state_its_size_is_refused(tmp_path, tag):
    path = tmp_path / "a.tif"
    Image.fromarray(GREY).save(path)
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.tags[tag].offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 2] = struct.pack("<H", 65000)  # of no meaning
    path.write_bytes(content)
    assert refusal(path) == ("broken_header", "a.tif states no rows or no columns: export it again")


def test_one_value_that_is_no_number_costs_a_picture_nothing_in_training(tmp_path):
    values = GREY.astype(np.float32)
    values[0, 0] = np.nan
    scan = written(tmp_path / "a.tif", values, photometric="minisblack")
    assert scan.pixels[0, 0, 0] == np.nanmin(values)
    assert scan.flags == ("NONFINITE",)
