"""One slice of any file equals that slice of the whole scan; labels are whole numbers."""

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from PIL import Image
from pydicom.data import get_testdata_file

from wsseg.imaging import slices as slices_module
from wsseg.imaging.errors import ReadError
from wsseg.imaging.find import find
from wsseg.imaging.labels import write_labels
from wsseg.imaging.read import read
from wsseg.imaging.slices import (
    grid_difference,
    read_label_slice,
    read_slice,
    slice_count,
    slice_shape,
)

AFFINE = np.array([[0, 0, -3, 5], [0.5, 0, 0, 6], [0, 0.8, 0, 7], [0, 0, 0, 1.0]])  # sagittal


def save_nifti(path, voxels, affine=AFFINE):
    Nifti1Image(voxels, affine).to_filename(path)
    return path


def volume(path, **kwargs):
    values = np.random.default_rng(1).integers(-500, 500, (4, 5, 3)).astype(np.int16)
    return save_nifti(path, values, **kwargs)


def make(folder, name):
    path = folder / name
    if ".nii" in name:
        values = np.random.default_rng(1).normal(size=(4, 5, 3, 2)).astype(np.float32)
        values[1, 1, 1, 1] = np.nan
        return save_nifti(path, values)
    if name.endswith(".dcm"):
        return get_testdata_file(name, download=False) and path_of(name)
    colours = np.random.default_rng(1).integers(0, 255, (3, 4, 5, 3), np.uint8)
    pages = [Image.fromarray(plane) for plane in colours]
    tiff = name.endswith(".tif")
    pages[0].save(path, **({"save_all": True, "append_images": pages[1:]} if tiff else {}))
    return path


def path_of(name):
    from pathlib import Path

    return Path(get_testdata_file(name, download=False))


@pytest.mark.parametrize(
    "name", ["a.nii", "a.nii.gz", "a.png", "a.tif", "CT_small.dcm", "rtdose.dcm"]
)
def test_a_slice_read_alone_is_that_slice_of_the_scan(tmp_path, name):
    path = make(tmp_path, name)
    scans = [read(ref) for ref in find([path], scratch=tmp_path / "scratch")]
    for volume_index, scan in enumerate(scans):
        assert slice_count(path) == len(scan.pixels)
        for index, plane in enumerate(scan.pixels):
            found = read_slice(path, slice_index=index, volume=volume_index)
            assert np.array_equal(found, plane)
            assert found.dtype == np.float32
            shape = slice_shape(path, slice_index=index, volume=volume_index)
            assert shape == plane.shape[:2]
