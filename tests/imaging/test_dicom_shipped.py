"""The files that pydicom ships are read as pydicom itself decodes them."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from wsseg.imaging import FileRef, ScanRef
from wsseg.imaging.dicom import read_dicom


def shipped(name):
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(path)


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "JPEG2000.dcm",
        "JPEGLSNearLossless_16.dcm",
        "ExplVR_BigEnd.dcm",
        "examples_overlay.dcm",
        "image_dfl.dcm",
    ],
)
def test_shipped_grey_files_agree_with_pydicom(name):
    path = shipped(name)
    dataset = dcmread(path)
    slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
    expected = dataset.pixel_array * float(slope) + float(intercept)
    scan = read_dicom(ScanRef("dicom", (FileRef(path, name),)))
    pixels = np.asarray(scan.pixels)
    if "PADDING_REPLACED" in scan.flags:
        expected = np.where(pixels == pixels.min(), pixels, expected)
    np.testing.assert_allclose(pixels.squeeze(), expected.squeeze(), rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_rle.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "examples_rgb_color.dcm",
        "examples_jpeg2k.dcm",
        "examples_ybr_color.dcm",
    ],
)
def test_shipped_colour_files_are_rgb(name):
    path = shipped(name)
    scan = read_dicom(ScanRef("dicom", (FileRef(path, name),)))
    expected = np.atleast_3d(dcmread(path).pixel_array)
    np.testing.assert_array_equal(np.reshape(scan.pixels, expected.shape), expected)


def test_a_shipped_ultrasound_palette_becomes_colours():
    path = shipped("examples_palette.dcm")
    scan = read_dicom(ScanRef("dicom", (FileRef(path, "examples_palette.dcm"),)))
    assert scan.pixels.shape == (1, 350, 800, 3)
    assert 250 < np.max(scan.pixels) <= 255
