import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from wsseg.imaging.dicom_read import read_dicom
from wsseg.imaging.find import find
from wsseg.imaging.scan import FileRef, ScanRef

AXIAL = [1, 0, 0, 0, 1, 0]


def read(path):
    return read_dicom(ScanRef("dicom", (FileRef(path, path.name),)))


def item(**elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def frame_groups(height, *, orientation=None, spacing=None, slope=None):
    groups = item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, height])])
    if orientation:
        groups.PlaneOrientationSequence = [item(ImageOrientationPatient=orientation)]
    if spacing:
        groups.PixelMeasuresSequence = [item(PixelSpacing=spacing)]
    if slope:
        rescale = item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="HU")
        groups.PixelValueTransformationSequence = [rescale]
    return groups


SHARED = item(
    PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)],
    PixelMeasuresSequence=[item(PixelSpacing=[0.8, 0.5], SliceThickness=3)],
    PixelValueTransformationSequence=[
        item(RescaleSlope=2, RescaleIntercept=-100, RescaleType="HU")
    ],
)


@pytest.fixture
def enhanced(tmp_path, write_dicom):
    """Writes an enhanced CT whose frames have the value of their number."""

    def write(groups, **elements):
        pixels = np.zeros((len(groups), 16, 16), np.int16)
        pixels += np.arange(len(groups), dtype=np.int16)[:, None, None]
        top = dict.fromkeys(
            ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope")
        )
        return write_dicom(
            tmp_path / "enhanced",
            pixels,
            **top,
            RescaleIntercept=None,
            SOPClassUID=EnhancedCTImageStorage,
            NumberOfFrames=len(groups),
            SharedFunctionalGroupsSequence=[SHARED],
            PerFrameFunctionalGroupsSequence=groups,
            **elements,
        )

    return write


def test_frames_in_random_order_come_in_slice_order(enhanced):
    scan = read(enhanced([frame_groups(height) for height in (6, 0, 9, 3)]))
    assert scan.pixels[:, 0, 0].tolist() == [-98, -94, -100, -96]
    assert [found.frame for found in scan.slices] == [2, 4, 1, 3]
    np.testing.assert_allclose(scan.geometry.positions_mm, [0, 3, 6, 9])
    assert scan.geometry.pixel_mm == (0.8, 0.5)
    np.testing.assert_allclose(scan.geometry.affine[:3, 2], [0, 0, 3])
    assert scan.flags == ()


def test_the_group_of_a_frame_wins_over_the_shared_one(enhanced):
    scan = read(enhanced([frame_groups(0), frame_groups(3, slope=5)]))
    assert scan.pixels[:, 0, 0].tolist() == [-100, 5]


def test_frames_at_repeated_positions_make_no_volume(enhanced):
    scan = read(enhanced([frame_groups(height) for height in (0, 3, 0, 3)]))
    assert scan.flags == ("MIXED_FRAMES",)
    assert scan.pixels[:, 0, 0].tolist() == [-100, -98, -96, -94]
    assert scan.geometry.positions_mm is None
    assert scan.geometry.pixel_mm == (0.8, 0.5)


def test_frames_of_several_orientations_make_no_volume(enhanced):
    across = frame_groups(3, orientation=[0, 1, 0, 0, 0, -1])
    scan = read(enhanced([frame_groups(0), across]))
    assert scan.flags == ("MIXED_FRAMES",)
    assert scan.geometry.affine is None


def test_frames_of_several_pixel_sizes_have_no_common_length(enhanced):
    scan = read(enhanced([frame_groups(0), frame_groups(3, spacing=[1.0, 1.0])]))
    assert scan.flags == ("MIXED_SPACING", "PX_ONLY")
    assert scan.geometry.pixel_mm is None


def test_a_missing_frame_position_is_a_gap(enhanced):
    scan = read(enhanced([frame_groups(height) for height in (0, 3, 9, 12)]))
    assert scan.flags == ("GAP",)


def test_an_enhanced_object_is_one_scan_of_its_own(enhanced, tmp_path):
    enhanced([frame_groups(0), frame_groups(3)])
    (ref,) = find([tmp_path], scratch=tmp_path / ".scratch")
    assert isinstance(ref, ScanRef)
    assert len(read_dicom(ref).slices) == 2


def ultrasound_region(**changes):
    elements = {
        "PhysicalUnitsXDirection": 3,
        "PhysicalUnitsYDirection": 3,
        "RegionSpatialFormat": 1,
        "PhysicalDeltaX": 0.02,
        "PhysicalDeltaY": -0.03,
    }
    return item(**(elements | changes))


def ultrasound(path, write_dicom, regions=(), **elements):
    unplaced = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    defaults = {
        "SOPClassUID": UltrasoundImageStorage,
        "Modality": "US",
        "SequenceOfUltrasoundRegions": list(regions),
    }
    pixels = elements.pop("pixels", np.zeros((16, 16), np.uint8))
    return write_dicom(path, pixels, **(unplaced | defaults | elements))


def test_each_frame_of_an_ultrasound_cine_is_a_slice_without_position(tmp_path, write_dicom):
    path = ultrasound(
        tmp_path / "a",
        write_dicom,
        pixels=np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((16, 16), np.uint8),
        NumberOfFrames=5,
        SOPClassUID=UltrasoundMultiFrameImageStorage,
    )
    scan = read(path)
    assert scan.pixels[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert [found.frame for found in scan.slices] == [1, 2, 3, 4, 5]
    assert scan.geometry.positions_mm is None
    assert scan.flags == ("PX_ONLY",)


def test_ultrasound_stills_of_a_series_are_scans_of_their_own(tmp_path, write_dicom):
    for name in "abc":
        ultrasound(tmp_path / name, write_dicom)
    found = list(find([tmp_path], scratch=tmp_path / ".scratch"))
    assert [len(ref.files) for ref in found if isinstance(ref, ScanRef)] == [1, 1, 1]


def size_and_flags(path):
    scan = read(path)
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
