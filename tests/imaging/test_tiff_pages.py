"""The pages of a TIFF are the slices and volumes that its writer stated, or it is refused."""

import struct

import numpy as np
import pytest
import tifffile

from tests.imaging.tiffs import GREY, RANDOM, refusal, scans, written
from wsseg.imaging import read_slice


def test_times_are_scans_of_their_own_and_slices_are_slices(tmp_path):
    values = RANDOM.integers(0, 256, (2, 3, 40, 56), np.uint8)
    for name, options in (
        ("a.tif", {"imagej": True, "metadata": {"axes": "TZYX", "unit": "mm", "spacing": 2.5}}),
        ("b.ome.tif", {"metadata": {"axes": "TZYX"}}),
        ("c.tif", {"photometric": "minisblack", "metadata": {"axes": "TZYX"}}),
    ):
        path = tmp_path / name
        tifffile.imwrite(path, values, **options)
        found = scans(path)
        assert [scan.ref.volume for scan in found] == [0, 1]
        for volume, scan in enumerate(found):
            assert np.array_equal(scan.pixels, values[volume])
            plane = read_slice(path, slice_index=2, volume=volume)
            assert np.array_equal(plane, values[volume, 2])


@pytest.mark.parametrize("compression", [None, "zlib", "jpeg"])
def test_pages_of_a_hyperstack_are_found_where_they_are_compressed(tmp_path, compression):
    values = np.repeat(np.arange(6, dtype=np.uint8) * 40, 40 * 56).reshape(2, 3, 40, 56)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, values, compression=compression, metadata={"axes": "ZTYX"})
    found = scans(path)
    assert [scan.pixels[:, 0, 0].tolist() for scan in found] == [[0, 120], [40, 160], [80, 200]]


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_channels_are_no_slices(tmp_path, kind):
    values = np.zeros((2, 3, 40, 56), np.uint8)
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    tifffile.imwrite(path, values, imagej=kind == "imagej", metadata={"axes": "ZCYX"})
    reason, message = refusal(path)
    assert reason == "channels"
    assert "3 channels (axes ZCYX)" in message


def test_pages_whose_axes_nobody_names_are_slices_in_stored_order(tmp_path):
    values = RANDOM.integers(0, 256, (2, 3, 40, 56), np.uint8)
    one = written(tmp_path / "a.tif", values[0], photometric="minisblack")
    assert np.array_equal(one.pixels, values[0])
    assert one.flags == ()
    both = written(tmp_path / "b.tif", values, photometric="minisblack")
    assert np.array_equal(both.pixels, values.reshape(6, 40, 56))
    assert both.flags == ("MIXED_FRAMES",)


def test_other_axes_are_refused_by_name(tmp_path):
    values = np.zeros((4, 40, 56), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", metadata={"axes": "AYX"})
    reason, message = refusal(tmp_path / "a.tif")
    assert reason == "axes"
    assert "AYX" in message


def imagej_of_one_directory(path, values, described=""):
    """What ImageJ writes for stacks: one directory, and the pixels of all slices behind it."""
    count, rows, columns = values.shape
    text = f"ImageJ=1.53t\nimages={count}\n{described}".encode() + b"\0"
    entries = [
        (256, 3, 1, columns),
        (257, 3, 1, rows),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (270, 2, len(text), 0),
        (273, 4, 1, 0),
        (277, 3, 1, 1),
        (278, 3, 1, rows),
        (279, 4, 1, rows * columns),
    ]
    start = 8 + 2 + 12 * len(entries) + 4
    places = {270: start, 273: start + len(text)}
    directory = b"".join(
        struct.pack("<HHII", code, kind, number, places.get(code, value))
        for code, kind, number, value in entries
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + struct.pack("<I", 0)
    path.write_bytes(head + text + values.tobytes())


@pytest.mark.parametrize("described", ["", "slices=5\n"])
def test_all_slices_of_an_imagej_stack_with_one_directory_are_read(tmp_path, described):
    values = RANDOM.integers(0, 256, (5, 40, 56), np.uint8)
    imagej_of_one_directory(tmp_path / "a.tif", values, described)
    (scan,) = scans(tmp_path / "a.tif")
    assert np.array_equal(scan.pixels, values)
    assert np.array_equal(read_slice(tmp_path / "a.tif", slice_index=3), values[3])


@pytest.mark.parametrize("described", ["", "slices=5\n"])
def test_an_imagej_stack_that_is_cut_is_refused(tmp_path, described):
    values = np.zeros((5, 40, 56), np.uint8)
    imagej_of_one_directory(tmp_path / "a.tif", values, described)
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-30])
    assert refusal(tmp_path / "a.tif")[0] == "incomplete"


def test_only_the_full_resolution_of_a_pyramid_is_read(tmp_path):
    for name, options in (("a.ome.tif", {"subifds": 1}), ("b.tif", {"metadata": None})):
        with tifffile.TiffWriter(tmp_path / name) as writer:
            writer.write(GREY, tile=(16, 16), photometric="minisblack", **options)
            writer.write(GREY[::2, ::2], subfiletype=1, photometric="minisblack", metadata=None)
        (scan,) = scans(tmp_path / name)
        assert np.array_equal(scan.pixels, GREY[None])


def test_a_picture_below_its_small_copy_is_read_and_not_the_copy(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(GREY[::4, ::4], subfiletype=1, subifds=1, metadata=None)
        writer.write(GREY, metadata=None)
    (scan,) = scans(tmp_path / "a.tif")
    assert np.array_equal(scan.pixels, GREY[None])


def test_several_images_in_one_file_are_refused_by_name(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(GREY)
        writer.write(GREY[:20])
    reason, message = refusal(tmp_path / "a.ome.tif")
    assert reason == "several_images"
    assert "2 images" in message


def test_pixels_in_other_files_are_missed(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.stack([GREY] * 3), metadata={"axes": "ZYX"})
    path = tmp_path / "a.ome.tif"
    text = str(tifffile.tiffcomment(path))
    named = '<UUID FileName="b.ome.tif">urn:uuid:1</UUID>'
    other = f'<TiffData FirstZ="1" PlaneCount="2">{named}</TiffData>'
    tifffile.tiffcomment(path, text.replace("</Pixels>", f"{other}</Pixels>"))
    assert refusal(path)[0] == "incomplete"


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}])
def test_pages_that_lead_back_to_an_earlier_one_are_refused(tmp_path, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([GREY] * 3), photometric="minisblack", metadata=None, **options)
    with tifffile.TiffFile(path) as file:
        form, first, last = file.tiff, file.pages[0].offset, file.pages[2].offset
    content = bytearray(path.read_bytes())
    (tags,) = struct.unpack_from(form.tagnoformat, content, last)
    end = last + form.tagnosize + tags * form.tagsize
    assert struct.unpack_from(form.offsetformat, content, end) == (0,)
    struct.pack_into(form.offsetformat, content, end, first)
    path.write_bytes(content)
    assert refusal(path)[0] == "broken_header"
