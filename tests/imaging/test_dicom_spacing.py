import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from wsseg.imaging.dicom_read import read_dicom
from wsseg.imaging.scan import FileRef, ScanRef


def ultrasound_region(**changes):
    elements = {
        "PhysicalUnitsXDirection": 3,
        "PhysicalUnitsYDirection": 3,
        "RegionSpatialFormat": 1,
        "PhysicalDeltaX": 0.02,
        "PhysicalDeltaY": -0.03,
    }
    region = Dataset()
    for keyword, value in (elements | changes).items():
        setattr(region, keyword, value)
    return region


def ultrasound(path, write_dicom, regions=()):
    unplaced = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    defaults = {
        "SOPClassUID": UltrasoundImageStorage,
        "Modality": "US",
        "SequenceOfUltrasoundRegions": list(regions),
    }
    return write_dicom(path, np.zeros((16, 16), np.uint8), **(unplaced | defaults))


def size_and_flags(path):
    scan = read_dicom(ScanRef("dicom", (FileRef(path, path.name),)))
    return scan.geometry.pixel_mm, set(scan.flags) & {"PX_ONLY", "DETECTOR_PLANE"}


def test_ultrasound_lengths_come_from_its_region_in_centimetres(tmp_path, write_dicom):
    size, flags = size_and_flags(ultrasound(tmp_path / "a", write_dicom, [ultrasound_region()]))
    np.testing.assert_allclose(size, (0.3, 0.2))
    assert flags == set()


@pytest.mark.parametrize(
    "regions",
    [
        (),
        (ultrasound_region(PhysicalUnitsXDirection=4),),
        (ultrasound_region(RegionSpatialFormat=3),),
        (ultrasound_region(), ultrasound_region(PhysicalDeltaX=0.05)),
        (ultrasound_region(PhysicalDeltaX=0.0),),
    ],
    ids=["none", "seconds", "spectral", "contradicting", "zero"],
)
def test_ultrasound_without_one_clear_scale_has_no_lengths(tmp_path, write_dicom, regions):
    found = size_and_flags(ultrasound(tmp_path / "a", write_dicom, regions))
    assert found == (None, {"PX_ONLY"})


def test_a_doppler_region_does_not_spoil_the_scale_of_the_picture(tmp_path, write_dicom):
    regions = [ultrasound_region(), ultrasound_region(PhysicalUnitsXDirection=4, PhysicalDeltaX=9)]
    size, _ = size_and_flags(ultrasound(tmp_path / "a", write_dicom, regions))
    np.testing.assert_allclose(size, (0.3, 0.2))


def radiograph(path, write_dicom, **elements):
    unplaced = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    xray = {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX"}
    return write_dicom(path, **(unplaced | xray | elements))


@pytest.mark.parametrize(
    ("elements", "size", "flags"),
    [
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1), {"DETECTOR_PLANE"}),
        (
            {
                "ImagerPixelSpacing": [0.2, 0.1],
                "EstimatedRadiographicMagnificationFactor": 2,
            },
            (0.1, 0.05),
            {"DETECTOR_PLANE"},
        ),
        (
            {"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0.2, 0.1]},
            (0.2, 0.1),
            {"DETECTOR_PLANE"},
        ),
        (
            {"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0.2001, 0.1]},
            (0.2, 0.1),
            {"DETECTOR_PLANE"},
        ),
        ({"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0.18, 0.09]}, (0.18, 0.09), set()),
        ({"PixelSpacing": [0.2, 0.1]}, (0.2, 0.1), {"DETECTOR_PLANE"}),
        (
            {"PixelSpacing": [0.2, 0.1], "PixelSpacingCalibrationType": "GEOMETRY"},
            (0.2, 0.1),
            set(),
        ),
        ({}, None, {"PX_ONLY"}),
    ],
)
def test_lengths_of_a_radiograph_say_in_which_plane_they_are(
    tmp_path, write_dicom, elements, size, flags
):
    found = size_and_flags(radiograph(tmp_path / "a", write_dicom, **elements))
    assert found == (size, flags)


def test_a_scanned_film_has_the_lengths_of_the_scanner(tmp_path, write_dicom):
    path = write_dicom(
        tmp_path / "a",
        SOPClassUID=SecondaryCaptureImageStorage,
        PixelSpacing=None,
        NominalScannedPixelSpacing=[0.17, 0.16],
    )
    assert size_and_flags(path) == ((0.17, 0.16), set())


@pytest.mark.parametrize("spacing", [[0, 0], [-1, 1], ["", ""]])
def test_an_impossible_pixel_spacing_is_no_length(tmp_path, write_dicom, spacing):
    assert size_and_flags(write_dicom(tmp_path / "a", PixelSpacing=spacing)) == (
        None,
        {"PX_ONLY"},
    )
