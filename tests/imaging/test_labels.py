"""Label maps lie on the voxels they were made for."""

import gzip
import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Image
from nibabel.testing import data_path as nibabel_data
from PIL import Image

from wsseg.imaging import (
    FileRef,
    Geometry,
    ReadError,
    Scan,
    ScanRef,
    SliceId,
    read_volume,
    volume_refs,
    write_labels,
)
from wsseg.imaging.pictures import read_picture

RAS_TO_LPS = np.diag([-1, -1, 1, 1])
SHAPE = (4, 5, 3)
VOXELS = np.arange(60, dtype=np.int16).reshape(SHAPE)
ARRANGEMENTS = [
    np.eye(3)[:, list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
OBLIQUES = [
    nibabel.eulerangles.euler2mat(*angles)
    for angles in ((0.2, 0.1, 0.3), (1.0, -0.5, 0.2), (-2, 1, 3), (0.78, 0.78, 0.78), (3, 0, -1.5))
]


def load(path) -> Any:
    return nibabel.load(path)


def affine_of(directions):
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag([0.5, 0.8, 3.0])
    affine[:3, 3] = (-30.0, 12.0, 7.5)
    return affine


def nifti_scan(path, voxels=VOXELS, affine=None, volume=None, kind=Nifti1Image):
    kind(voxels, affine_of(np.eye(3)) if affine is None else affine).to_filename(path)
    return read_volume(ScanRef("volume", (FileRef(path, path.name),), volume=volume))


def dicom_scan(affine, positions=None, shape=(3, 5, 4), pixel_mm=(0.8, 0.5)):
    ref = ScanRef("dicom", tuple(FileRef(Path("x"), str(k)) for k in range(shape[0])))
    geometry = Geometry(affine, pixel_mm, positions)
    slices = tuple(SliceId(str(k)) for k in range(shape[0]))
    return Scan(np.zeros(shape, np.float32), geometry, slices, ref, "CT", "1.2", "1.2.3")


@pytest.mark.parametrize("directions", [*ARRANGEMENTS, *OBLIQUES])
def test_each_label_lies_on_its_source_voxel_and_place(tmp_path, directions):
    scan = nifti_scan(tmp_path / "a.nii.gz", affine=affine_of(directions))
    source = load(tmp_path / "a.nii.gz")
    written = load(write_labels(scan, np.asarray(scan.pixels, np.uint8), tmp_path / "out"))
    assert np.array_equal(np.asarray(written.dataobj), VOXELS)
    np.testing.assert_array_equal(written.affine, source.affine)
    for k, row, column in np.ndindex(scan.pixels.shape):
        index = np.argwhere(scan.pixels[k, row, column] == VOXELS)[0]
        expected = RAS_TO_LPS @ source.affine @ [*index, 1]
        found = scan.geometry.affine @ [column, row, k, 1]
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (1, 4), (3, 2)])
def test_both_affines_keep_their_codes_and_differences(tmp_path, codes):
    image = Nifti1Image(VOXELS, None)
    image.set_qform(affine_of(OBLIQUES[0]), codes[0])
    image.set_sform(affine_of(OBLIQUES[1]), codes[1])
    image.header["pixdim"][1:4] = (0.5, 0.8, 3)
    image.to_filename(tmp_path / "a.nii.gz")
    (ref,) = volume_refs(FileRef(tmp_path / "a.nii.gz", "a.nii.gz"))
    scan = read_volume(ref)
    labels = np.zeros(scan.pixels.shape, np.uint8)
    written = load(write_labels(scan, labels, tmp_path / "out")).header
    for one, other in (
        (written.get_qform(coded=True), image.header.get_qform(coded=True)),
        (written.get_sform(coded=True), image.header.get_sform(coded=True)),
    ):
        assert one[1] == other[1]
        np.testing.assert_array_equal(one[0], other[0])
    assert written.get_zooms() == pytest.approx((0.5, 0.8, 3))


def test_the_header_says_label_map_and_nothing_about_the_patient(tmp_path):
    image = Nifti1Image(VOXELS, affine_of(np.eye(3)))
    image.header["descrip"] = image.header["db_name"] = b"Doe^Jane"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Doe^Jane"))
    image.header.set_slope_inter(2, -1024)
    image.to_filename(tmp_path / "a.nii.gz")
    (ref,) = volume_refs(FileRef(tmp_path / "a.nii.gz", "a.nii.gz"))
    path = write_labels(read_volume(ref), np.full((3, 5, 4), 7, np.uint8), tmp_path / "out")
    content = gzip.decompress(path.read_bytes())
    header = Nifti1Header(content[:348])
    assert header.get_data_dtype() == np.uint8
    assert (header["scl_slope"], header["scl_inter"]) in ((1, 0), (0, 0))
    assert header["intent_code"] == 1002
    assert header["xyzt_units"] == 2
    assert b"Doe" not in content


def test_lengths_in_microns_stay_microns(tmp_path):
    image = Nifti1Image(VOXELS, affine_of(np.eye(3)))
    image.header.set_xyzt_units("micron", "sec")
    image.to_filename(tmp_path / "a.nii.gz")
    (ref,) = volume_refs(FileRef(tmp_path / "a.nii.gz", "a.nii.gz"))
    scan = read_volume(ref)
    assert scan.geometry.pixel_mm == pytest.approx((0.0008, 0.0005))
    written = load(write_labels(scan, np.asarray(scan.pixels, np.uint8), tmp_path / "out"))
    assert written.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_array_equal(written.affine, load(tmp_path / "a.nii.gz").affine)


def test_a_time_volume_gives_a_volume_and_a_plane_gives_a_plane(tmp_path):
    scan = nifti_scan(tmp_path / "t.nii.gz", np.stack([VOXELS] * 2, axis=-1), volume=1)
    path = write_labels(scan, np.asarray(scan.pixels, np.uint8), tmp_path / "out")
    assert path.name == "t-t001.nii.gz"
    assert load(path).shape == SHAPE
    scan = nifti_scan(tmp_path / "flat.nii.gz", VOXELS[:, :, 0])
    path = write_labels(scan, np.asarray(scan.pixels, np.uint8), tmp_path / "out")
    assert np.array_equal(np.asarray(load(path).dataobj), VOXELS[:, :, 0])


def test_nifti_2_stays_nifti_2(tmp_path):
    scan = nifti_scan(tmp_path / "a.nii.gz", kind=Nifti2Image)
    path = write_labels(scan, np.asarray(scan.pixels, np.uint8), tmp_path / "out")
    assert isinstance(load(path), Nifti2Image)


@pytest.mark.parametrize("name", ["example4d.nii.gz", "anatomical.nii", "standard.nii.gz"])
def test_labels_of_nibabels_own_files_fit_them(tmp_path, name):
    path = Path(str(nibabel_data), name)
    scan = read_volume(volume_refs(FileRef(path, name))[0])
    bright = scan.pixels > np.median(scan.pixels)
    written = load(write_labels(scan, bright.astype(np.uint8), tmp_path))
    source = load(path)
    values = source.get_fdata(dtype=np.float32)
    values = values[..., 0] if values.ndim == 4 else values
    assert np.array_equal(np.asarray(written.dataobj) == 1, values > np.median(scan.pixels))
    np.testing.assert_array_equal(written.affine, source.affine)


def test_a_dicom_label_map_lies_where_the_slices_do(tmp_path):
    affine = RAS_TO_LPS @ affine_of(OBLIQUES[0])
    labels = np.arange(60, dtype=np.uint8).reshape(3, 5, 4)
    written = load(write_labels(dicom_scan(affine), labels, tmp_path))
    stored = np.asarray(written.dataobj)
    for k, row, column in np.ndindex(labels.shape):
        assert stored[column, row, k] == labels[k, row, column]
        place = RAS_TO_LPS @ written.affine @ [column, row, k, 1]
        np.testing.assert_allclose(place, affine @ [column, row, k, 1], atol=1e-3)
    for form in (written.header.get_qform, written.header.get_sform):
        np.testing.assert_allclose(form(coded=True)[0], written.affine, atol=1e-4)
        assert form(coded=True)[1] == 1


def test_a_tilted_stack_has_a_sform_and_no_qform(tmp_path):
    affine = affine_of(np.eye(3))
    affine[1, 2] = 0.8
    header = load(write_labels(dicom_scan(affine), np.zeros((3, 5, 4), np.uint8), tmp_path)).header
    assert header["qform_code"] == 0
    np.testing.assert_allclose(header.get_sform(coded=True)[0], RAS_TO_LPS @ affine, atol=1e-5)


def test_a_stack_with_a_missing_slice_claims_no_places(tmp_path):
    affine = affine_of(np.eye(3))
    labels = np.zeros((3, 5, 4), np.uint8)
    even = write_labels(dicom_scan(affine, np.array([5.0, 8, 11])), labels, tmp_path)
    assert load(even).header["sform_code"] == 1
    gap = write_labels(dicom_scan(affine, np.array([5.0, 8, 14])), labels, tmp_path)
    header = load(gap).header
    assert (header["sform_code"], header["qform_code"]) == (0, 0)
    assert header.get_zooms() == pytest.approx((0.5, 0.8, 4.5))


def test_a_dicom_scan_without_places_or_lengths_still_has_voxels_of_size_one(tmp_path):
    scan = dicom_scan(None, pixel_mm=None)
    header = load(write_labels(scan, np.zeros((3, 5, 4), np.uint8), tmp_path)).header
    assert header.get_zooms() == (1, 1, 1)
    assert header["xyzt_units"] == header["sform_code"] == header["qform_code"] == 0


def test_a_picture_gives_a_png_of_class_numbers_and_pages_give_a_tiff(tmp_path):
    pages = [Image.new("L", (5, 4)) for _ in range(3)]
    pages[0].save(tmp_path / "a.png")
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    for name, suffix, count in (("a.png", ".png", 1), ("b.tif", ".tif", 3)):
        scan = read_picture(ScanRef("picture", (FileRef(tmp_path / name, name),)))
        labels = np.arange(20 * count, dtype=np.uint8).reshape(count, 4, 5)
        path = write_labels(scan, labels, tmp_path / "out")
        assert path.name == name[0] + suffix
        with Image.open(path) as written:
            assert getattr(written, "n_frames", 1) == count
            for index in range(count):
                written.seek(index)
                assert written.mode == "L"
                assert np.array_equal(np.asarray(written), labels[index])


def test_equal_labels_make_equal_files_and_leave_nothing_else(tmp_path):
    scan = nifti_scan(tmp_path / "a.nii.gz")
    labels = np.asarray(scan.pixels, np.uint8)
    first, second = (write_labels(scan, labels, tmp_path / name) for name in ("x", "y"))
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a.nii.gz"]


def test_labels_of_another_shape_or_type_are_our_own_mistake(tmp_path):
    scan = nifti_scan(tmp_path / "a.nii.gz")
    wrong: list[Any] = [np.zeros((3, 4, 5), np.uint8), np.zeros((3, 5, 4), np.int64)]
    for labels in wrong:
        with pytest.raises(ValueError, match="labels"):
            write_labels(scan, labels, tmp_path)


def test_a_source_that_changed_meanwhile_is_not_overlaid(tmp_path):
    scan = nifti_scan(tmp_path / "a.nii.gz")
    Nifti1Image(VOXELS[:3], np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(ReadError, match="changed"):
        write_labels(scan, np.zeros((3, 5, 4), np.uint8), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
