import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from wsseg.imaging.dicom_read import read_dicom
from wsseg.imaging.find import find
from wsseg.imaging.scan import FileRef, ScanRef

AXIAL = [1, 0, 0, 0, 1, 0]


def read(path):
    return read_dicom(ScanRef("dicom", (FileRef(path, path.name),)))


def scans_in(path):
    found = list(find([path], scratch=path.parent / ".scratch"))
    return [read_dicom(ref) for ref in found if isinstance(ref, ScanRef)]


def item(**elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def frame_groups(height, *, position=None, orientation=None, spacing=None, slope=None, **macros):
    """Functional groups of a frame; other macros by name, each with a dict of its elements."""
    groups = item(PlanePositionSequence=[item(ImagePositionPatient=position or [0, 0, height])])
    for name, elements in macros.items():
        setattr(groups, name, [item(**elements)])
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
            **(top | {"RescaleIntercept": None} | elements),
            SOPClassUID=EnhancedCTImageStorage,
            NumberOfFrames=len(groups),
            SharedFunctionalGroupsSequence=[SHARED],
            PerFrameFunctionalGroupsSequence=groups,
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


def values(scan):
    return scan.pixels[:, 0, 0].tolist()


def test_frames_at_repeated_positions_are_scans_in_the_order_of_the_frames(enhanced):
    first, second = scans_in(enhanced([frame_groups(height) for height in (0, 3, 0, 3)]))
    assert (values(first), values(second)) == ([-100, -98], [-96, -94])
    for scan in (first, second):
        assert scan.flags == ("REPEATED_POSITIONS", "SPLIT")
        np.testing.assert_allclose(scan.geometry.positions_mm, [0, 3])


def test_frames_of_several_orientations_are_scans_of_their_own(enhanced):
    across = [
        frame_groups(height, orientation=[0, 1, 0, 0, 0, -1], position=[height, 0, 0])
        for height in (8, 4)
    ]
    path = enhanced([across[0], frame_groups(0), across[1], frame_groups(3), frame_groups(6)])
    sagittal, axial = scans_in(path)
    assert [found.frame for found in axial.slices] == [2, 4, 5]
    assert [found.frame for found in sagittal.slices] == [1, 3]
    assert axial.flags == sagittal.flags == ("SPLIT",)
    np.testing.assert_allclose(np.diff(axial.geometry.positions_mm), 3)
    np.testing.assert_allclose(np.abs(np.diff(sagittal.geometry.positions_mm)), 4)


def test_frames_of_several_pixel_sizes_are_scans_with_their_own_lengths(enhanced):
    wide = {"spacing": [1.0, 1.0]}
    groups = [frame_groups(0), frame_groups(0, **wide), frame_groups(3), frame_groups(3, **wide)]
    scans = scans_in(enhanced(groups))
    assert [scan.geometry.pixel_mm for scan in scans] == [(0.8, 0.5), (1.0, 1.0)]
    assert [values(scan) for scan in scans] == [[-100, -96], [-98, -94]]
    assert all(scan.flags == ("SPLIT",) for scan in scans)


def test_a_missing_frame_position_is_a_gap(enhanced):
    scan = read(enhanced([frame_groups(height) for height in (0, 3, 9, 12)]))
    assert scan.flags == ("GAP",)


def test_an_enhanced_object_is_one_scan_of_its_own(enhanced, tmp_path):
    enhanced([frame_groups(0), frame_groups(3)])
    (ref,) = find([tmp_path], scratch=tmp_path / ".scratch")
    assert isinstance(ref, ScanRef)
    assert len(read_dicom(ref).slices) == 2


@pytest.fixture
def write_one_by_one(tmp_path, write_dicom):
    """Writes an enhanced CT of one frame a file, numbered against the order of the planes."""

    def write(groups):
        top = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
        for number, group in enumerate(groups):
            write_dicom(
                tmp_path / f"{number}",
                np.full((16, 16), number, np.int16),
                **top,
                SOPClassUID=EnhancedCTImageStorage,
                NumberOfFrames=1,
                InstanceNumber=number + 1,
                SharedFunctionalGroupsSequence=[SHARED],
                PerFrameFunctionalGroupsSequence=[group],
            )

    return write


def test_enhanced_files_of_one_frame_are_ordered_by_the_positions_in_their_groups(
    write_one_by_one, tmp_path
):
    write_one_by_one([frame_groups(height) for height in (6, 0, 9, 3)])
    (scan,) = scans_in(tmp_path)
    assert scan.pixels[:, 0, 0].tolist() == [-98, -94, -100, -96]
    assert [found.source.rpartition("/")[2] for found in scan.slices] == ["1", "3", "0", "2"]
    np.testing.assert_allclose(scan.geometry.positions_mm, [0, 3, 6, 9])
    assert scan.flags == ()


def test_enhanced_files_of_several_orientations_are_scans_of_their_own(write_one_by_one, tmp_path):
    across = frame_groups(0, orientation=[0, 1, 0, 0, 0, -1])
    write_one_by_one([frame_groups(3), across, frame_groups(0)])
    axial, sagittal = scans_in(tmp_path)
    assert values(axial) == [-96, -100]
    np.testing.assert_allclose(axial.geometry.positions_mm, [0, 3])
    assert values(sagittal) == [-98]
    assert axial.flags == sagittal.flags == ("SPLIT",)


def ultrasound(path, write_dicom, **elements):
    unplaced = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    defaults = {"SOPClassUID": UltrasoundImageStorage, "Modality": "US"}
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
    assert scan.flags == ("PHI_RISK", "PX_ONLY")


def test_ultrasound_stills_of_a_series_are_scans_of_their_own(tmp_path, write_dicom):
    for name in "abc":
        ultrasound(tmp_path / name, write_dicom)
    found = list(find([tmp_path], scratch=tmp_path / ".scratch"))
    assert [len(ref.files) for ref in found if isinstance(ref, ScanRef)] == [1, 1, 1]
