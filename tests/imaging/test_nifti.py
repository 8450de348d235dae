"""NIfTI files as nibabel and the world write them."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel import openers
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Image
from nibabel.testing import data_path as nibabel_data

from wsseg.imaging import FileRef, ReadError, read_volume, volume_refs, write_labels
from wsseg.imaging.volume_header import NoImageError

AFFINE = np.diag([-0.5, -0.8, 3.0, 1.0])  # axial, already in display order
VOXELS = np.arange(4 * 5 * 3, dtype=np.int16).reshape(4, 5, 3)


def save(path, voxels=VOXELS, affine=AFFINE, kind=Nifti1Image, **fields):
    image = kind(voxels, affine)
    image.header["descrip"] = b""
    for name, value in fields.items():
        image.header[name] = value
    image.to_filename(path)
    return FileRef(Path(path), Path(path).name)


def patch(file, **fields):
    """Change header fields of an uncompressed file in place, past all of nibabel's checks."""
    content = bytearray(file.path.read_bytes())
    header = Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    file.path.write_bytes(content)
    return file


def read(file):
    return [read_volume(ref) for ref in volume_refs(file)]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_single_files_are_read_plain_and_compressed(tmp_path, name):
    (scan,) = read(save(tmp_path / name))
    assert np.array_equal(scan.pixels, VOXELS.transpose(2, 1, 0))
    assert scan.pixels.dtype == np.float32
    assert scan.geometry.pixel_mm == pytest.approx((0.8, 0.5))
    assert [s.source for s in scan.slices] == [name] * 3
    assert scan.flags == ()


@pytest.mark.parametrize(("true", "false"), [("a.nii", "a.nii.gz"), ("a.nii.gz", "b.nii")])
def test_a_name_that_belies_its_compression_misleads_nobody(tmp_path, true, false):
    save(tmp_path / true).path.rename(tmp_path / false)
    (scan,) = read(FileRef(tmp_path / false, false))
    assert np.array_equal(scan.pixels, VOXELS.transpose(2, 1, 0))


@pytest.mark.parametrize("asked", ["a.hdr", "a.img"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_pair_is_read_by_either_of_its_files(tmp_path, asked, suffix):
    save(tmp_path / f"a.img{suffix}", kind=Nifti1Pair)
    (scan,) = read(FileRef(tmp_path / f"{asked}{suffix}", "a"))
    assert np.array_equal(scan.pixels, VOXELS.transpose(2, 1, 0))


def test_big_endian_and_nifti_2_files_read_like_others(tmp_path):
    header = Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = Nifti1Image(VOXELS, AFFINE, header)
    image.to_filename(tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:4] == b"\x00\x00\x01\x5c"
    for file in (
        FileRef(tmp_path / "big.nii", "big.nii"),
        save(tmp_path / "two.nii", kind=Nifti2Image),
    ):
        (scan,) = read(file)
        assert np.array_equal(scan.pixels, VOXELS.transpose(2, 1, 0))


def intent(path, shape, code, dtype=np.float32, values=None):
    voxels = np.zeros(shape, dtype) if values is None else values
    return save(path, voxels, intent_code=code)


@pytest.mark.parametrize(
    ("shape", "code", "named"),
    [
        ((4, 5, 3, 1, 3), 1007, "vectors"),
        ((4, 5, 3, 3), 1007, "vectors"),
        ((4, 5, 3, 1, 6), 1005, "symmetric matrices"),
        ((4, 5, 3, 1, 3), 0, "3 values a voxel"),
        ((4, 5, 3, 2, 3), 2001, "3 values a voxel"),
        ((4, 5, 3, 1, 2), 3, "2 statistics a voxel"),
        ((4, 5, 3, 6), 5, "6 statistics a voxel"),
        ((4, 5, 3, 6), 1001, "6 statistics a voxel"),
        ((4, 5, 3, 1, 3), 2003, "3 values a voxel"),  # floats are no colours
    ],
)
def test_several_values_at_one_place_are_no_points_in_time(tmp_path, shape, code, named):
    with pytest.raises(ReadError, match=named) as caught:
        volume_refs(intent(tmp_path / "a.nii", shape, code))
    assert caught.value.reason == "vectors"
    assert not isinstance(caught.value, NoImageError)


@pytest.mark.parametrize(("code", "values"), [(2003, 3), (2004, 4)])
@pytest.mark.parametrize("dimension", [3, 4])
def test_colours_in_a_dimension_of_their_own_are_one_colour_scan(tmp_path, code, values, dimension):
    voxels = np.random.default_rng(0).integers(0, 255, (4, 5, 3, values)).astype(np.uint8)
    stored = voxels if dimension == 3 else voxels[:, :, :, None]
    (scan,) = read(intent(tmp_path / "a.nii", None, code, values=stored))
    assert np.array_equal(scan.pixels, voxels[..., :3].transpose(2, 1, 0, 3))
    assert ("ALPHA_DROPPED" in scan.flags) == (values == 4)


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((4, 5, 3), 1002),
        ((4, 5, 3, 2), 1002),
        ((4, 5, 3), 1003),
        ((4, 5, 3, 1, 3), 1006),
        ((1, 1, 1, 1, 9, 7), 3002),
    ],
)
def test_label_maps_and_transformations_are_no_scans(tmp_path, shape, code):
    with pytest.raises(NoImageError):
        volume_refs(intent(tmp_path / "a.nii", shape, code))


def test_a_map_of_one_statistic_and_a_time_series_are_scans(tmp_path):
    assert len(read(intent(tmp_path / "z.nii", (4, 5, 3), 5))) == 1
    assert len(read(intent(tmp_path / "t.nii", (4, 5, 3, 2), 2001))) == 2
    assert len(read(intent(tmp_path / "five.nii", (4, 5, 3, 2, 1), 0))) == 2


def test_dimensions_of_size_zero_after_the_third_are_not_there(tmp_path):
    (scan,) = read(patch(save(tmp_path / "a.nii"), dim=[5, 4, 5, 3, 0, 0, 0, 0]))
    assert np.array_equal(scan.pixels, VOXELS.transpose(2, 1, 0))


def test_voxels_of_a_single_file_never_start_in_its_header(tmp_path):
    (scan,) = read(patch(save(tmp_path / "a.nii"), vox_offset=0))
    assert np.array_equal(scan.pixels, VOXELS.transpose(2, 1, 0))


def test_each_time_volume_is_a_scan_of_its_own(tmp_path):
    voxels = np.stack([VOXELS, VOXELS + 100], axis=-1)
    for name in ("t.nii", "t.nii.gz"):
        scans = read(save(tmp_path / name, voxels))
        assert [scan.ref.volume for scan in scans] == [0, 1]
        assert np.array_equal(scans[1].pixels, scans[0].pixels + 100)
        assert scans[1].slices[0].frame == 1


def test_time_volumes_of_a_compressed_file_are_read_in_one_pass(tmp_path, monkeypatch):
    file = save(tmp_path / "t.nii.gz", np.zeros((8, 8, 3, 20), np.int16))
    places = []
    plain_seek = openers.Opener.seek

    def noted(self, place, *arguments):
        places.append(place)
        return plain_seek(self, place, *arguments)

    monkeypatch.setattr(openers.Opener, "seek", noted)
    assert len(read(file)) == 20
    assert len(places) >= 20
    assert places == sorted(places)


def test_two_dimensions_are_one_slice_and_empty_dimensions_are_dropped(tmp_path):
    (flat,) = read(save(tmp_path / "flat.nii", VOXELS[:, :, 0]))
    assert flat.pixels.shape == (1, 5, 4)
    five = VOXELS[:, :, :, None, None]
    (scan,) = read(save(tmp_path / "five.nii", five))
    assert scan.pixels.shape == (3, 5, 4)
    assert scan.ref.volume is None


def test_colour_voxels_become_rgb_and_alpha_is_dropped(tmp_path):
    for letters in ("RGB", "RGBA"):
        voxels = np.zeros((4, 5, 2), [(letter, "u1") for letter in letters])
        voxels["R"], voxels["B"] = 7, 9
        (scan,) = read(save(tmp_path / f"{letters}.nii", voxels))
        assert scan.pixels.shape == (2, 5, 4, 3)
        assert scan.pixels[0, 0, 0].tolist() == [7, 0, 9]
        assert ("ALPHA_DROPPED" in scan.flags) == (letters == "RGBA")


@pytest.mark.parametrize(
    ("slope", "inter", "expected"), [(2, -1024, -1022), (0, 5, 1), (np.nan, 5, 1)]
)
def test_stored_values_are_scaled_unless_the_slope_means_none(tmp_path, slope, inter, expected):
    file = patch(save(tmp_path / "a.nii"), scl_slope=slope, scl_inter=inter)
    (scan,) = read(file)
    assert VOXELS[0, 0, 0] == 0
    assert VOXELS[0, 0, 1] == 1
    assert scan.pixels[1, 0, 0] == expected


def test_scaling_keeps_large_stored_values_exact(tmp_path):
    voxels = np.full((2, 2, 1), 2**24 + 1, np.int32)
    (scan,) = read(patch(save(tmp_path / "a.nii", voxels), scl_slope=1, scl_inter=-(2.0**24)))
    assert (scan.pixels == 1).all()


def test_sform_goes_before_qform_and_a_disagreement_is_flagged(tmp_path):
    image = Nifti1Image(VOXELS, AFFINE)
    image.set_sform(AFFINE, 2)
    other = AFFINE.copy()
    other[0, 3] = 20
    image.set_qform(other, 1)
    image.to_filename(tmp_path / "a.nii")
    (scan,) = read(FileRef(tmp_path / "a.nii", "a"))
    assert scan.flags == ("AFFINES_DIFFER",)
    assert scan.geometry.affine[0, 3] == 0
    image.set_sform(None, 0)
    image.to_filename(tmp_path / "b.nii")
    (scan,) = read(FileRef(tmp_path / "b.nii", "b"))
    assert scan.flags == ()
    assert scan.geometry.affine[0, 3] == -20


def both_forms(path):
    image = Nifti1Image(VOXELS, AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    image.to_filename(path)
    return FileRef(path, path.name)


@pytest.mark.parametrize(
    "broken",
    [
        {"srow_x": [0] * 4, "srow_y": [0] * 4, "srow_z": [0] * 4},
        {"srow_y": [np.nan] * 4},
        {"srow_z": AFFINE[1]},
        {"quatern_b": 2},
        {"quatern_c": np.nan},
        {"qoffset_x": np.inf},
        {"pixdim": [1, 0, 0.8, 3, 1, 1, 1, 1]},
        {"pixdim": [1, 0.5, -0.8, 3, 1, 1, 1, 1]},
    ],
)
def test_one_good_affine_is_enough_and_that_the_other_is_not_is_flagged(tmp_path, broken):
    (scan,) = read(patch(both_forms(tmp_path / "a.nii"), **broken))
    assert scan.flags == ("AFFINE_IGNORED",)
    lps = np.diag([-1, -1, 1, 1]) @ AFFINE
    np.testing.assert_allclose(scan.geometry.affine, lps, atol=1e-6)
    written: Any = nibabel.load(write_labels(scan, scan.pixels.astype(np.uint8), tmp_path / "out"))
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)
    assert np.array_equal(np.asarray(written.dataobj), VOXELS)


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_a_single_slice_needs_no_step_to_the_next(tmp_path, form):
    image = Nifti1Image(VOXELS[:, :, :1], AFFINE)
    image.set_sform(AFFINE, int(form == "sform"))
    image.set_qform(AFFINE, int(form == "qform"))
    image.to_filename(tmp_path / "a.nii")
    fields: dict[str, Any] = {"pixdim": [1, 0.5, 0.8, 0, 1, 1, 1, 1]}
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        fields[name] = [*AFFINE[row, :2], 0, AFFINE[row, 3]]
    (scan,) = read(patch(FileRef(tmp_path / "a.nii", "a"), **fields))
    assert scan.flags == ()
    assert scan.geometry.pixel_mm == pytest.approx((0.8, 0.5))
    assert np.array_equal(scan.pixels, VOXELS[:, :, :1].transpose(2, 1, 0))


def test_no_good_affine_is_refused(tmp_path):
    file = patch(both_forms(tmp_path / "a.nii"), srow_x=[0] * 4, quatern_b=2)
    with pytest.raises(ReadError, match="affine") as caught:
        read(file)
    assert caught.value.reason == "bad_affine"


@pytest.mark.parametrize("excess", [2e-7, 1e-5, 5e-4])
def test_a_quaternion_that_was_rounded_above_one_is_a_rotation(tmp_path, excess):
    turned = np.diag([0.5, -0.8, -3.0, 1.0])  # half a turn: the norm of b, c, d is 1
    image = Nifti1Image(VOXELS, None)
    image.set_qform(turned, 1)
    image.to_filename(tmp_path / "a.nii")
    file = patch(FileRef(tmp_path / "a.nii", "a"), quatern_b=1 + excess)
    (scan,) = read(file)
    assert scan.flags == ()
    written: Any = nibabel.load(write_labels(scan, scan.pixels.astype(np.uint8), tmp_path / "out"))
    np.testing.assert_allclose(written.affine, turned, atol=1e-5)


def test_without_orientation_lengths_are_kept_and_places_are_not(tmp_path):
    file = save(tmp_path / "a.nii")
    (scan,) = read(patch(file, qform_code=0, sform_code=0))
    assert scan.flags == ("NO_ORIENTATION",)
    assert scan.geometry.affine is None
    assert scan.geometry.pixel_mm == pytest.approx((0.8, 0.5))
    assert scan.geometry.positions_mm == pytest.approx([0, 3, 6])
    assert np.array_equal(scan.pixels, VOXELS.transpose(2, 1, 0))
    (scan,) = read(patch(file, pixdim=[1, 0, -1, np.nan, 0, 0, 0, 0]))
    assert scan.flags == ("NO_ORIENTATION", "PX_ONLY")
    assert scan.geometry.pixel_mm is None
    assert scan.geometry.positions_mm is None


@pytest.mark.parametrize(("unit", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
def test_lengths_in_metres_and_microns_become_millimetres(tmp_path, unit, factor):
    (scan,) = read(save(tmp_path / "a.nii", xyzt_units=unit))
    assert scan.geometry.pixel_mm == pytest.approx((0.8 * factor, 0.5 * factor))


def test_a_zero_qfac_reads_as_one(tmp_path):
    image = Nifti1Image(VOXELS, None)
    image.set_qform(np.diag([0.5, 0.8, 3, 1]), 1)
    image.to_filename(tmp_path / "a.nii")
    file = patch(FileRef(tmp_path / "a.nii", "a"), pixdim=[0, 0.5, 0.8, 3, 0, 0, 0, 0])
    (scan,) = read(file)
    assert scan.geometry.pixel_mm == pytest.approx((0.8, 0.5))


def test_values_that_are_not_finite_become_the_lowest_of_their_slice(tmp_path):
    voxels = VOXELS.astype(np.float32)
    voxels[0, 0, 1], voxels[1, 1, 1], voxels[..., 2] = np.nan, np.inf, np.nan
    (scan,) = read(save(tmp_path / "a.nii", voxels))
    assert scan.flags == ("NONFINITE",)
    lowest = np.nanmin(np.where(np.isinf(voxels), np.nan, voxels)[..., 1])
    assert scan.pixels[1, 0, 0] == scan.pixels[1, 1, 1] == lowest
    assert (scan.pixels[2] == voxels[..., 0].min()).all()


def test_voxels_beyond_float32_count_as_not_finite(tmp_path):
    voxels = np.ones((2, 2, 1))
    voxels[0, 0, 0] = 1e300
    (scan,) = read(save(tmp_path / "a.nii", voxels))
    assert scan.flags == ("NONFINITE",)
    assert (scan.pixels == 1).all()


def test_a_replaced_file_is_not_read_from_memory_of_the_old_one(tmp_path):
    for value in (1, 2):
        (scan,) = read(save(tmp_path / "a.nii.gz", np.full((9, 9, value), value, np.int16)))
        assert scan.pixels.shape[0] == scan.pixels.max() == value


@pytest.mark.parametrize(
    "name", ["anatomical.nii", "example4d.nii.gz", "example_nifti2.nii.gz", "standard.nii.gz"]
)
def test_nibabels_own_files_have_its_values_at_its_places(name):
    path = Path(str(nibabel_data), name)
    reference: Any = nibabel.load(path)
    scan = read(FileRef(path, name))[-1]
    values = reference.get_fdata(dtype=np.float32)
    values = values[..., -1] if values.ndim == 4 else values
    lps = np.diag([-1, -1, 1, 1]) @ reference.affine
    to_stored = np.linalg.inv(lps) @ scan.geometry.affine
    for index in np.ndindex(*(size // 2 for size in scan.pixels.shape)):
        k, row, column = index
        i, j, slice_index = np.rint(to_stored @ [column, row, k, 1])[:3].astype(int)
        assert scan.pixels[index] == pytest.approx(values[i, j, slice_index], rel=1e-6)
