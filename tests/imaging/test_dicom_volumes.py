"""Volumes whose slices say in other ways than CT and MR do where they lie."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    EnhancedPETImageStorage,
    EnhancedUSVolumeStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    OphthalmicTomographyImageStorage,
    XRay3DAngiographicImageStorage,
)

from wsseg.imaging import ScanRef, find, read, read_grid, read_slice, slice_count, slice_shape

UNPLACED = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient"))
CORONAL = [1, 0, 0, 0, 0, -1]


def item(**elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def counting(count, dtype=np.uint16):
    """Frames that have the value of their number, from 0."""
    return (np.arange(count)[:, None, None] * np.ones((16, 16))).astype(dtype)


def scans_in(path):
    found = find([path], scratch=path.parent / ".scratch")
    return [read(ref) for ref in found if isinstance(ref, ScanRef)]


def values(scan):
    return scan.pixels[:, 0, 0].tolist()


@pytest.fixture
def nuclear(tmp_path, write_dicom):
    """Writes frames of nuclear medicine."""

    def write(count, kind, **elements):
        defaults = {
            "SOPClassUID": NuclearMedicineImageStorage,
            "Modality": "NM",
            "ImageType": ["ORIGINAL", "PRIMARY", kind, "EMISSION"],
            "NumberOfFrames": count,
            "PixelSpacing": [4.0, 4.0],
            "RescaleSlope": None,
            "RescaleIntercept": None,
        }
        return write_dicom(tmp_path / "nm", counting(count), **(UNPLACED | defaults | elements))

    return write


def detector(**elements):
    return [item(**elements)]


@pytest.mark.parametrize("step", [4.0, -4.0])
def test_reconstructed_slices_are_stacked_from_the_first(nuclear, step):
    place = detector(
        ImagePositionPatient=[-10, -20, 30], ImageOrientationPatient=[1, 0, 0, 0, 1, 0]
    )
    (scan,) = scans_in(
        nuclear(
            5,
            "RECON TOMO",
            SliceVector=[1, 2, 3, 4, 5],
            SpacingBetweenSlices=step,
            DetectorInformationSequence=place,
        )
    )
    assert scan.flags == ()
    places = [30 + step * k for k in range(5)]
    np.testing.assert_allclose(scan.geometry.positions_mm, sorted(places))
    assert values(scan) == [value for _, value in sorted(zip(places, range(5), strict=True))]
    np.testing.assert_allclose(scan.geometry.affine[:3, 3], [-10, -20, min(places)])


def test_slices_of_a_gated_reconstruction_are_a_scan_for_each_time_slot(nuclear):
    scans = scans_in(
        nuclear(
            6,
            "RECON GATED TOMO",
            TimeSlotVector=[1, 1, 1, 2, 2, 2],
            SliceVector=[1, 2, 3, 1, 2, 3],
            SpacingBetweenSlices=5,
            DetectorInformationSequence=detector(
                ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=CORONAL
            ),
        )
    )
    assert sorted(sorted(values(scan)) for scan in scans) == [[0, 1, 2], [3, 4, 5]]
    assert all(scan.flags == ("SPLIT",) for scan in scans)
    assert all(np.ptp(scan.geometry.positions_mm) == 10 for scan in scans)


def test_slices_that_state_only_their_distance_are_volumes_without_a_position(nuclear):
    (scan,) = scans_in(nuclear(3, "RECON TOMO", SliceVector=[1, 2, 3], SpacingBetweenSlices=-5))
    assert scan.flags == ()
    assert scan.geometry.affine is None
    np.testing.assert_allclose(np.abs(np.diff(scan.geometry.positions_mm)), 5)


@pytest.mark.parametrize("kind", ["STATIC", "DYNAMIC", "WHOLE BODY", "TOMO", "GATED"])
def test_planar_views_are_pictures_without_positions(nuclear, kind):
    (scan,) = scans_in(nuclear(4, kind, DetectorVector=[1, 1, 2, 2], SpacingBetweenSlices=5))
    assert scan.flags == ()
    assert scan.geometry.positions_mm is None
    assert scan.geometry.pixel_mm == (4.0, 4.0)
    assert [found.frame for found in scan.slices] == [1, 2, 3, 4]


def test_reconstructed_slices_without_a_spacing_have_no_positions(nuclear):
    (scan,) = scans_in(nuclear(3, "RECON TOMO", SliceVector=[1, 2, 3]))
    assert scan.flags == ("NO_POSITION",)


@pytest.fixture
def volumes(tmp_path, write_dicom):
    """Writes an object with functional groups of frames."""

    def write(sop_class, groups, shared=(), dtype=np.uint16, **elements):
        measures = {"PixelMeasuresSequence": [item(PixelSpacing=[0.4, 0.4])]}
        return write_dicom(
            tmp_path / "volume",
            counting(len(groups), dtype),
            **UNPLACED,
            **{
                "SOPClassUID": sop_class,
                "PixelSpacing": None,
                "RescaleSlope": None,
                "RescaleIntercept": None,
                "NumberOfFrames": len(groups),
                "SharedFunctionalGroupsSequence": [item(**(measures | dict(shared)))],
                "PerFrameFunctionalGroupsSequence": groups,
            }
            | elements,
        )

    return write


def test_an_ultrasound_volume_has_distances_in_a_space_of_its_own(volumes):
    def group(height, time):
        return item(
            PlanePositionVolumeSequence=[item(ImagePositionVolume=[1.0, 2.0, height])],
            TemporalPositionSequence=[item(TemporalPositionTimeOffset=time)],
        )

    plane = [item(ImageOrientationVolume=[1, 0, 0, 0, 1, 0])]
    path = volumes(
        EnhancedUSVolumeStorage,
        [group(z, time) for z in (1.5, 0.0, 3.0) for time in (0.0, 0.04)],
        {"PlaneOrientationVolumeSequence": plane},
        np.uint8,
        Modality="US",
        BurnedInAnnotation="NO",
    )
    first, second = scans_in(path)
    assert (values(first), values(second)) == ([2, 0, 4], [3, 1, 5])
    for scan in (first, second):
        np.testing.assert_allclose(scan.geometry.positions_mm, [0, 1.5, 3])
        assert scan.geometry.pixel_mm == (0.4, 0.4)
        assert scan.geometry.affine is None
        assert scan.plane == ""
        assert scan.flags == ("SPLIT",)


@pytest.mark.parametrize(
    ("sop_class", "modality"),
    [
        (BreastTomosynthesisImageStorage, "MG"),
        (XRay3DAngiographicImageStorage, "XA"),
        (OphthalmicTomographyImageStorage, "OPT"),
        (EnhancedPETImageStorage, "PT"),
    ],
)
def test_frames_of_any_tomography_lie_where_their_groups_say(volumes, sop_class, modality):
    def group(height):
        return item(PlanePositionSequence=[item(ImagePositionPatient=[0, height, 0])])

    path = volumes(
        sop_class,
        [group(y) for y in (4.0, 0.0, 2.0)],
        {"PlaneOrientationSequence": [item(ImageOrientationPatient=CORONAL)]},
        Modality=modality,
    )
    (scan,) = scans_in(path)
    assert sorted(values(scan)) == [0, 1, 2]
    assert [found.frame for found in scan.slices] in ([2, 3, 1], [1, 3, 2])
    np.testing.assert_allclose(np.abs(np.diff(scan.geometry.positions_mm)), 2)
    assert not {"NO_POSITION", "SPLIT", "GAP", "NONUNIFORM"} & set(scan.flags)


def test_captured_slices_with_a_vector_of_locations_have_distances(tmp_path, write_dicom):
    write_dicom(
        tmp_path / "capture",
        counting(3, np.uint8),
        **UNPLACED,
        SOPClassUID=MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        Modality="OT",
        BurnedInAnnotation="NO",
        NumberOfFrames=3,
        SliceLocationVector=[10.0, 4.0, 7.0],
    )
    (scan,) = scans_in(tmp_path)
    assert values(scan) == [1, 2, 0]
    np.testing.assert_allclose(scan.geometry.positions_mm, [4, 7, 10])
    assert scan.flags == ()


def test_training_counts_the_scans_of_a_file_as_volumes(volumes):
    def group(height, echo):
        return item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, height])],
            MREchoSequence=[item(EffectiveEchoTime=echo)],
        )

    places = [(z, echo) for z in (3.0, 0.0, 6.0) for echo in (5.0, 10.0)]
    path = volumes(
        "1.2.840.10008.5.1.4.1.1.4.1",
        [group(*place) for place in places],
        {"PlaneOrientationSequence": [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]},
        Modality="MR",
    )
    scans = scans_in(path)
    assert read_grid(path).volumes == len(scans) == 2
    for volume, scan in enumerate(scans):
        assert slice_count(path, volume) == 3
        for index, plane in enumerate(scan.pixels):
            assert slice_shape(path, slice_index=index, volume=volume) == plane.shape
            np.testing.assert_array_equal(read_slice(path, slice_index=index, volume=volume), plane)
