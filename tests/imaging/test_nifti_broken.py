"""NIfTI files that are broken, hostile or incomplete end in one clear error."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair

from wsseg.imaging import FileRef, ReadError, read_volume, volume_header, volume_refs

AFFINE = np.diag([-0.5, -0.8, 3.0, 1.0])
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


def reason(file):
    with pytest.raises(ReadError) as caught:
        read(file)
    assert file.source in str(caught.value)
    return caught.value.reason


def test_a_header_without_its_voxels_says_so(tmp_path):
    file = save(tmp_path / "a.hdr", kind=Nifti1Pair)
    (tmp_path / "a.img").unlink()
    assert reason(file) == "no_img_file"


def test_a_scan_without_any_finite_value_is_refused(tmp_path):
    file = save(tmp_path / "a.nii", np.full((2, 2, 2), np.nan, np.float32))
    assert reason(file) == "no_finite_values"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dim": [3, -4, 5, 3, 1, 1, 1, 1]}, "broken_header"),
        ({"dim": [0, 4, 5, 3, 1, 1, 1, 1]}, "broken_header"),
        ({"dim": [9, 4, 5, 3, 1, 1, 1, 1]}, "broken_header"),
        ({"dim": [1, 60, 1, 1, 1, 1, 1, 1]}, "not_an_image"),
        ({"dim": [6, 4, 5, 1, 2, 1, 2, 1]}, "too_many_dimensions"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "truncated"),
        ({"dim": [3, 512, 512, 512, 1, 1, 1, 1]}, "truncated"),
        ({"datatype": 999}, "broken_header"),
        ({"datatype": 32}, "unsupported_type"),
        ({"vox_offset": -5}, "broken_header"),
        ({"vox_offset": np.nan}, "broken_header"),
        ({"srow_x": [np.nan] * 4}, "bad_affine"),
        ({"srow_x": [0] * 4}, "bad_affine"),
        ({"scl_slope": 1, "scl_inter": np.inf}, "broken_header"),
        ({"magic": b"zzz"}, "not_nifti"),
    ],
)
def test_a_broken_header_is_one_clear_error(tmp_path, fields, expected):
    assert reason(patch(save(tmp_path / "a.nii"), **fields)) == expected


def test_a_compressed_file_cannot_promise_what_deflate_cannot_hold(tmp_path):
    file = patch(save(tmp_path / "a.nii"), dim=[3, 1000, 1000, 500, 1, 1, 1, 1])
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(file.path.read_bytes()))
    assert reason(FileRef(packed, "a.nii.gz")) == "truncated"


def test_the_number_of_volumes_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(volume_header, "MAX_VOLUMES", 1)
    assert reason(save(tmp_path / "a.nii", np.stack([VOXELS] * 2, axis=-1))) == "too_large"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_truncated_files_are_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(-999, 999, (30, 30, 9)).astype(np.int16)
    file = save(tmp_path / name, noise)
    file.path.write_bytes(file.path.read_bytes()[: file.path.stat().st_size * 6 // 10])
    assert reason(file) == "truncated"


def test_a_compressed_file_with_too_few_voxels_is_refused(tmp_path):
    file = save(tmp_path / "a.nii", np.zeros((64, 64, 9), np.uint8))
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(file.path.read_bytes()[:-5000]))
    assert reason(FileRef(packed, "a.nii.gz")) == "truncated"


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x1f\x8b", bytes(400), b"\x5c\x01\x00\x00" * 90]
)
def test_other_content_is_not_nifti(tmp_path, content):
    for name in ("a.nii", "a.nii.gz", "a.hdr"):
        (tmp_path / name).write_bytes(content)
        assert reason(FileRef(tmp_path / name, name))


def test_a_file_that_is_gone_is_a_read_error(tmp_path):
    assert reason(FileRef(tmp_path / "no.nii", "no.nii")) == "file_gone"
