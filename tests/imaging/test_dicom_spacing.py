"""The pixel size is the most trustworthy in the header, or is flagged as unknown."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from wsseg.imaging import FileRef, ScanRef
from wsseg.imaging.dicom import read_dicom


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


def ultrasound(path, write_dicom, regions=(), **elements):
    unplaced = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    defaults = {
        "SOPClassUID": UltrasoundImageStorage,
        "Modality": "US",
        "SequenceOfUltrasoundRegions": list(regions),
    }
    return write_dicom(path, np.zeros((16, 16), np.uint8), **(unplaced | defaults | elements))


def size_and_flags(path):
    scan = read_dicom(ScanRef("dicom", (FileRef(path, path.name),)))
    return scan.geometry.pixel_mm, set(scan.flags) & {
        "PX_ONLY",
        "DETECTOR_PLANE",
        "SPACING_CONFLICT",
    }


def test_ultrasound_lengths_come_from_its_region_in_centimetres(tmp_path, write_dicom):
    size, flags = size_and_flags(ultrasound(tmp_path / "a", write_dicom, [ultrasound_region()]))
    np.testing.assert_allclose(size, (0.3, 0.2))
    assert flags == set()


def test_ultrasound_regions_of_several_scales_give_no_length(tmp_path, write_dicom):
    regions = [ultrasound_region(), ultrasound_region(PhysicalDeltaX=0.05)]
    found = size_and_flags(ultrasound(tmp_path / "a", write_dicom, regions))
    assert found == (None, {"PX_ONLY", "SPACING_CONFLICT"})


@pytest.mark.parametrize(
    "regions",
    [
        (),
        (ultrasound_region(PhysicalUnitsXDirection=4),),
        (ultrasound_region(RegionSpatialFormat=3),),
        (ultrasound_region(PhysicalDeltaX=0.0),),
    ],
    ids=["none", "seconds", "spectral", "zero"],
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
    assert size_and_flags(path) == ((0.17, 0.16), {"DETECTOR_PLANE"})


@pytest.mark.parametrize("spacing", [[0, 0], [-1, 1], ["", ""]])
def test_an_impossible_pixel_spacing_is_no_length(tmp_path, write_dicom, spacing):
    assert size_and_flags(write_dicom(tmp_path / "a", PixelSpacing=spacing)) == (
        None,
        {"PX_ONLY"},
    )


CONFLICT = (None, {"PX_ONLY", "SPACING_CONFLICT"})


@pytest.mark.parametrize("spacing", [[1.0, 1.0], [0.2, 0.3], [0.31, 0.2]])
def test_a_pixel_spacing_that_contradicts_the_ultrasound_region_gives_no_length(
    tmp_path, write_dicom, spacing
):
    path = ultrasound(tmp_path / "a", write_dicom, [ultrasound_region()], PixelSpacing=spacing)
    assert size_and_flags(path) == CONFLICT


def test_a_pixel_spacing_that_rounds_the_ultrasound_region_is_one_length_with_it(
    tmp_path, write_dicom
):
    path = ultrasound(
        tmp_path / "a", write_dicom, [ultrasound_region()], PixelSpacing=[0.3, 0.2001]
    )
    size, flags = size_and_flags(path)
    np.testing.assert_allclose(size, (0.3, 0.2), rtol=1e-3)
    assert flags == set()


@pytest.mark.parametrize(
    "spacing",
    [[0.3, 0.15], [0.04, 0.02], [0.1, 0.2], [1.0, 1.0]],
    ids=["larger", "five-fold", "swapped", "squared"],
)
def test_a_radiograph_cannot_show_less_than_the_body_or_shear_it(tmp_path, write_dicom, spacing):
    path = radiograph(
        tmp_path / "a", write_dicom, ImagerPixelSpacing=[0.2, 0.1], PixelSpacing=spacing
    )
    assert size_and_flags(path) == CONFLICT


def test_a_magnification_that_no_radiograph_has_is_not_applied(tmp_path, write_dicom):
    path = radiograph(
        tmp_path / "a",
        write_dicom,
        ImagerPixelSpacing=[0.2, 0.1],
        EstimatedRadiographicMagnificationFactor=65.7,
    )
    assert size_and_flags(path) == ((0.2, 0.1), {"DETECTOR_PLANE"})


def test_the_capture_of_a_radiograph_has_lengths_of_the_detector_as_well(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a", SOPClassUID=SecondaryCaptureImageStorage, Modality="DX")
    assert size_and_flags(path) == ((0.8, 0.5), {"DETECTOR_PLANE"})


@pytest.mark.parametrize(
    ("elements", "found"),
    [
        ({}, CONFLICT),
        ({"PixelSpacingCalibrationType": "FIDUCIAL"}, ((0.8, 0.5), set())),
        ({"PixelSpacing": [0.17, 0.16]}, ((0.17, 0.16), {"DETECTOR_PLANE"})),
    ],
    ids=["contradicting", "calibrated", "equal"],
)
def test_a_scanned_film_with_another_pixel_spacing_needs_to_be_calibrated(
    tmp_path, write_dicom, elements, found
):
    path = write_dicom(
        tmp_path / "a",
        SOPClassUID=SecondaryCaptureImageStorage,
        Modality="OT",
        NominalScannedPixelSpacing=[0.17, 0.16],
        **elements,
    )
    assert size_and_flags(path) == found
