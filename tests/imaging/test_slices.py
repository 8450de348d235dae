"""One slice of any file equals that slice of the whole scan; labels are whole numbers."""

import gzip
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from nibabel import openers
from nibabel.nifti1 import Nifti1Image
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import RTDoseStorage

from wsseg.imaging import (
    ReadError,
    ScanRef,
    find,
    read,
    read_label_slice,
    read_slice,
    slice_count,
    slice_shape,
    write_labels,
)
from wsseg.imaging.archive import KEPT
from wsseg.imaging.reading import grid_difference, pixel_mm2

# Sagittal, stored feet to head and back to front: display order turns every axis.
AFFINE = np.array([[0, 0, -3, 5], [0.5, 0, 0, 6], [0, 0.8, 0, 7], [0, 0, 0, 1.0]])
RANDOM = np.random.default_rng(1)


def nifti(path, voxels, affine=AFFINE):
    Nifti1Image(voxels, affine).to_filename(path)
    return path


def picture(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path


def make(folder, name):
    if name.endswith(".dcm"):
        return Path(str(get_testdata_file(name, download=False)))
    if ".nii" in name:
        values = RANDOM.normal(size=(4, 5, 3, 2)).astype(np.float32)
        values[1, 1, 1, 1] = np.nan
        return nifti(folder / name, values)
    first, *others = (
        Image.fromarray(plane) for plane in RANDOM.integers(0, 255, (3, 4, 5, 3), np.uint8)
    )
    if name.endswith(".tif"):
        first.save(folder / name, save_all=True, append_images=others)
    else:
        first.save(folder / name)
    return folder / name


def reason(function, *arguments, **options):
    with pytest.raises(ReadError) as caught:
        function(*arguments, **options)
    return caught.value.reason


@pytest.mark.parametrize(
    "name",
    ["a.nii", "a.nii.gz", "a.png", "a.tif", "CT_small.dcm", "SC_rgb_rle_2frame.dcm"],
)
def test_a_slice_read_alone_is_that_slice_of_the_scan(tmp_path, name):
    path = make(tmp_path, name)
    found_refs = list(find([path], scratch=tmp_path / "scratch"))
    scans = [read(ref) for ref in found_refs if isinstance(ref, ScanRef)]
    assert len(scans) == len(found_refs) > 0
    for volume, scan in enumerate(scans):
        assert slice_count(path) == len(scan.pixels)
        for index, plane in enumerate(scan.pixels):
            found = read_slice(path, slice_index=index, volume=volume)
            assert np.array_equal(found, plane)
            assert found.dtype == np.float32
            assert slice_shape(path, slice_index=index, volume=volume) == plane.shape[:2]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.png", "a.tif", "CT_small.dcm"])
@pytest.mark.parametrize("index", [-1, 999])
def test_a_slice_that_is_not_there_is_told(tmp_path, name, index):
    path = make(tmp_path, name)
    for function in (read_slice, slice_shape, read_label_slice):
        assert reason(function, path, slice_index=index) == "no_such_slice"


def test_a_volume_that_is_not_there_is_told(tmp_path):
    path = make(tmp_path, "a.nii")
    assert reason(read_slice, path, volume=2) == "no_such_volume"
    assert reason(slice_shape, path, volume=2) == "no_such_volume"


@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
def test_labels_written_for_a_scan_come_back_in_the_order_of_its_pixels(tmp_path, suffix):
    values = RANDOM.integers(0, 255, (4, 5) if suffix == ".png" else (4, 5, 3), np.uint8)
    source = tmp_path / f"a{suffix}"
    _ = picture(source, values) if suffix == ".png" else nifti(source, values)
    (ref,) = find([source], scratch=tmp_path / "scratch")
    assert isinstance(ref, ScanRef)
    scan = read(ref)
    path = write_labels(scan, np.asarray(scan.pixels, np.uint8), tmp_path / "out")
    assert grid_difference(source, path) == ""
    for index in range(slice_count(source)):
        labels = read_label_slice(path, slice_index=index)
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, read_slice(source, slice_index=index))


def test_labels_stored_in_another_axis_order_still_fit_the_image(tmp_path):
    image = RANDOM.integers(0, 255, (4, 5, 3)).astype(np.uint8)
    source = nifti(tmp_path / "image.nii", image)
    flipped = AFFINE @ np.array([[0, -1, 0, 3], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    labels = nifti(tmp_path / "labels.nii", image.swapaxes(0, 1)[:, ::-1], flipped)
    assert grid_difference(source, labels) == ""
    for index in range(3):
        plane = read_slice(source, slice_index=index)
        assert np.array_equal(plane, read_label_slice(labels, slice_index=index))


def test_one_label_volume_serves_every_time_volume(tmp_path):
    path = nifti(tmp_path / "a.nii", np.full((4, 5, 3), 2, np.uint8))
    assert (read_label_slice(path, volume=1) == 2).all()
    assert reason(read_slice, path, volume=1) == "no_such_volume"


def test_one_bit_gives_0_and_1(tmp_path):
    bits = picture(tmp_path / "b.png", np.array([[False, True]]))
    assert read_label_slice(bits).tolist() == [[0, 1]]


def test_black_and_white_and_equal_channels_are_given_as_stored(tmp_path):
    white = np.array([[0, 255]], np.uint8)
    assert np.array_equal(read_label_slice(picture(tmp_path / "a.png", white)), white)
    equal = picture(tmp_path / "b.png", np.stack([white] * 3, axis=-1))
    assert np.array_equal(read_label_slice(equal), white)


def test_a_dicom_file_can_hold_labels(tmp_path):
    path = make(tmp_path, "SC_rgb_rle_2frame.dcm")
    assert reason(read_label_slice, path) == "colour_labels"
    assert reason(read_label_slice, make(tmp_path, "CT_small.dcm")) == "not_labels"


@pytest.mark.parametrize("wrong", [0.5, -1, 256, np.nan, np.inf, 1e20])
def test_numbers_that_are_no_labels_are_refused(tmp_path, wrong):
    values = np.array([[[0.0], [wrong]]], np.float32)
    assert reason(read_label_slice, nifti(tmp_path / "a.nii", values)) == "not_labels"
    assert reason(read_label_slice, picture(tmp_path / "a.tif", values[..., 0])) == "not_labels"


@pytest.mark.parametrize("stored", [np.int16, np.uint8, np.int32])
@pytest.mark.parametrize("most", [1, 2, 7, 100])
def test_float_labels_saved_with_an_integer_header_are_their_whole_numbers(tmp_path, stored, most):
    labels = RANDOM.integers(0, most + 1, (9, 9, 1)).astype(np.float64)
    labels[0, 0], labels[1, 1] = 0, most
    image = Nifti1Image(labels, AFFINE)
    image.header.set_data_dtype(stored)
    image.to_filename(tmp_path / "a.nii.gz")
    found = read_label_slice(tmp_path / "a.nii.gz")
    Nifti1Image(labels.astype(np.uint8), AFFINE).to_filename(tmp_path / "b.nii")
    assert np.array_equal(found, read_label_slice(tmp_path / "b.nii"))


@pytest.mark.parametrize("stored", [np.int16, np.uint8])
@pytest.mark.parametrize("fraction", [0.5, 0.95, 1.02])
def test_true_fractions_saved_with_an_integer_header_are_refused(tmp_path, stored, fraction):
    labels = np.array([[[0.0], [1.0], [2.0], [fraction]]])
    image = Nifti1Image(labels, AFFINE)
    image.header.set_data_dtype(stored)
    image.to_filename(tmp_path / "a.nii")
    assert reason(read_label_slice, tmp_path / "a.nii") == "not_labels"


def test_one_value_that_is_not_finite_does_not_damage_a_training_slice(tmp_path):
    voxels = np.ones((4, 5, 1), np.float32)
    voxels[1, 2] = np.nan
    voxels[0, 0] = -3
    for affine in (AFFINE, np.diag([-1.0, -1, 1, 1])):
        plane = read_slice(nifti(tmp_path / "a.nii", voxels, affine))
        assert sorted(np.unique(plane)) == [-3, 1]
        assert (plane == -3).sum() == 2


def test_colours_and_jpegs_are_no_labels(tmp_path):
    colours = np.array([[[1, 2, 3]]], np.uint8)
    assert reason(read_label_slice, picture(tmp_path / "a.png", colours)) == "colour_labels"
    assert reason(read_label_slice, picture(tmp_path / "a.jpg", colours)) == "lossy_labels"


def test_compression_decides_whether_a_format_may_hold_labels(tmp_path):
    labels = np.zeros((64, 64, 3), np.uint8)
    labels[10:20, 10:30] = 1
    lossy = picture(tmp_path / "a.webp", labels, quality=80)
    assert reason(read_label_slice, lossy) == "lossy_labels"
    exact = picture(tmp_path / "b.webp", labels, lossless=True)
    assert np.array_equal(read_label_slice(exact), labels[..., 0])
    coarse = picture(tmp_path / "a.jp2", labels, irreversible=True, quality_layers=[20])
    assert reason(read_label_slice, coarse) == "lossy_labels"
    whole = picture(tmp_path / "b.jp2", labels[..., 0])
    assert np.array_equal(read_label_slice(whole), labels[..., 0])
    two = picture(
        tmp_path / "a.mpo",
        labels,
        format="MPO",
        save_all=True,
        append_images=[Image.new("RGB", (64, 64))],
    )
    assert reason(read_label_slice, two) == "lossy_labels"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (np.eye(4), ""),
        (np.diag([1.0001, 1, 1, 1]), ""),
        (np.diag([1, 1, -1, 1]), "apart"),
        (np.diag([1.2, 1, 1, 1]), "apart"),
    ],
)
def test_grids_that_lie_elsewhere_are_told(tmp_path, change, expected):
    voxels = np.zeros((4, 5, 3), np.uint8)
    first = nifti(tmp_path / "a.nii", voxels)
    second = nifti(tmp_path / "b.nii", voxels, AFFINE @ change)
    found = grid_difference(first, second)
    assert expected in found if expected else found == ""


def test_grids_of_other_size_or_without_orientation_are_told(tmp_path):
    voxels = np.zeros((4, 5, 3), np.uint8)
    first = nifti(tmp_path / "a.nii", voxels)
    assert "2 of" in grid_difference(first, nifti(tmp_path / "b.nii", voxels[:, :, :2]))
    image = Nifti1Image(voxels, None)
    image.to_filename(tmp_path / "c.nii")
    assert "oriented" in grid_difference(first, tmp_path / "c.nii")
    same_size = picture(tmp_path / "d.png", np.zeros(slice_shape(first), np.uint8))
    one_slice = nifti(tmp_path / "e.nii", voxels[:, :, :1])
    assert grid_difference(one_slice, same_size) == ""
    assert "rows" in grid_difference(first, same_size)


def test_a_header_tells_the_size_without_the_pixels(tmp_path):
    path = make(tmp_path, "a.png")
    path.write_bytes(path.read_bytes()[:60])
    assert slice_shape(path) == (4, 5)
    assert slice_count(path) == 1
    assert reason(read_slice, path)


def test_one_slice_of_a_large_file_is_read_and_not_all_of_it(tmp_path, monkeypatch):
    path = nifti(tmp_path / "a.nii", np.zeros((64, 64, 200), np.int16))
    read_bytes = []
    plain_read = openers.Opener.read

    def counted(self, *arguments):
        content = plain_read(self, *arguments)
        read_bytes.append(len(content))
        return content

    monkeypatch.setattr(openers.Opener, "read", counted)
    read_slice(path, slice_index=150)
    assert 0 < sum(read_bytes) <= 3 * 64 * 64 * 2


def test_reading_on_in_a_compressed_file_does_not_start_again(tmp_path, monkeypatch):
    path = nifti(tmp_path / "a.nii.gz", np.zeros((16, 16, 50), np.int16))
    opened = []
    plain_init = openers.Opener.__init__

    def counted(self, *arguments, **options):
        opened.append(self)
        plain_init(self, *arguments, **options)

    monkeypatch.setattr(openers.Opener, "__init__", counted)
    for index in range(50):
        read_slice(path, slice_index=index)
    assert len(opened) == 1


@pytest.mark.parametrize("name", ["a.nii", "a.dcm", "a.png"])
def test_files_that_are_gone_or_no_image_are_read_errors(tmp_path, name):
    for function in (read_slice, read_label_slice, slice_shape, slice_count):
        assert reason(function, tmp_path / "gone" / name) == "file_gone"
    (tmp_path / name).write_bytes(b"hello")
    for function in (read_slice, read_label_slice, slice_shape, slice_count):
        assert reason(function, tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "CT_small.dcm"])
def test_a_packed_file_is_read_as_what_it_holds(tmp_path, name):
    path = make(tmp_path, name)
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert slice_count(packed) == slice_count(path)
    assert slice_shape(packed) == slice_shape(path)
    for index in range(slice_count(path)):
        plane = read_slice(packed, slice_index=index)
        assert np.array_equal(plane, read_slice(path, slice_index=index))
    (ref,) = find([packed], scratch=tmp_path / "scratch")
    assert isinstance(ref, ScanRef)
    assert np.array_equal(read(ref).pixels[0], read_slice(packed))


def test_copies_of_packed_files_are_removed_with_those_that_use_them(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for index in range(KEPT + 3):
        packed = tmp_path / f"{index}.png.gz"
        packed.write_bytes(gzip.compress(make(tmp_path, "a.png").read_bytes()))
        read_slice(packed)
    assert len(list((tmp_path / "temporary").iterdir())) <= KEPT


def test_archives_are_no_images_of_a_table(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(make(tmp_path, "a.png"), "a.png")
    assert reason(read_slice, tmp_path / "a.zip") == "archive"


def in_centimetres(path):
    tifffile.imwrite(
        path,
        np.zeros((3, 4, 5), np.uint8),
        photometric="minisblack",
        resolution=(20, 40),
        resolutionunit="CENTIMETER",
        software="tifffile.py",
    )
    return path


def test_the_area_of_a_pixel_is_that_of_the_whole_scan(tmp_path):
    volume = nifti(tmp_path / "a.nii", np.zeros((4, 5, 3), np.int16))
    dicom = make(tmp_path, "CT_small.dcm")
    for path in (volume, dicom, in_centimetres(tmp_path / "a.tif")):
        (ref,) = find([path], scratch=tmp_path)
        assert isinstance(ref, ScanRef)
        assert pixel_mm2(path) == pytest.approx(np.prod(read(ref).geometry.pixel_mm or ()))
    assert pixel_mm2(make(tmp_path, "a.png")) is None


def test_a_dicom_object_that_is_no_image_is_no_slice_either(tmp_path):
    dataset = dcmread(make(tmp_path, "CT_small.dcm"))
    dataset.SOPClassUID, dataset.Modality = RTDoseStorage, "RTDOSE"
    dataset.save_as(tmp_path / "dose.dcm")
    assert reason(read_slice, tmp_path / "dose.dcm") == "rt_dose"
