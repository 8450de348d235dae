"""Multi-frame objects: their frames are grouped into scans by position, traits and stacks."""

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    RLELossless,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from wsseg.imaging import Failure, FileRef, ScanRef, find
from wsseg.imaging.dicom import read_dicom

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


def traits(**named):
    """Pairs of a macro and its elements, as keywords of `frame_groups`."""
    return named


TIMES = [traits(FrameContentSequence={"TemporalPositionIndex": time}) for time in (1, 2)]
TOLD_APART = {
    "temporal position": TIMES,
    "time offset": [
        traits(TemporalPositionSequence={"TemporalPositionTimeOffset": t}) for t in (0.5, 20)
    ],
    "echo": [traits(MREchoSequence={"EffectiveEchoTime": time}) for time in (4.6, 9.2)],
    "b-value": [traits(MRDiffusionSequence={"DiffusionBValue": b}) for b in (0, 1000)],
    "quantity": [
        traits(MRImageFrameTypeSequence={"FrameType": ["ORIGINAL", "PRIMARY", kind, "NONE"]})
        for kind in ("M", "P")
    ],
    "component": [
        traits(MRImageFrameTypeSequence={"ComplexImageComponent": kind})
        for kind in ("IMAGINARY", "REAL")
    ],
    "cardiac phase": [
        traits(CardiacSynchronizationSequence={"NominalCardiacTriggerDelayTime": delay})
        for delay in (0.0, 45.5)
    ],
    "dimension": [traits(FrameContentSequence={"DimensionIndexValues": [k, 1]}) for k in (1, 2)],
    "converted echo": [
        traits(UnassignedPerFrameConvertedAttributesSequence={"EchoTime": time})
        for time in (30, 80)
    ],
}


@pytest.mark.parametrize("kinds", TOLD_APART.values(), ids=TOLD_APART)
def test_frames_at_one_position_are_separated_into_scans_by_their_traits(enhanced, kinds):
    one, other = kinds
    path = enhanced(
        [
            frame_groups(6, **other),
            frame_groups(0, **one),
            frame_groups(0, **other),
            frame_groups(3, **one),
            frame_groups(6, **one),
            frame_groups(3, **other),
        ]
    )
    first, second = scans_in(path)
    assert [found.frame for found in first.slices] == [2, 4, 5]
    assert [found.frame for found in second.slices] == [3, 6, 1]
    assert (values(first), values(second)) == ([-98, -94, -92], [-96, -90, -100])
    assert (first.ref.part, second.ref.part) == (0, 1)
    for scan in (first, second):
        np.testing.assert_allclose(scan.geometry.positions_mm, [0, 3, 6])
        assert scan.flags == ("SPLIT",)


def test_several_facts_together_tell_frames_apart(enhanced):
    """Two echoes of magnitude and phase: four images a place, of which no fact alone tells."""
    kinds = [
        traits(
            MREchoSequence={"EffectiveEchoTime": echo},
            MRImageFrameTypeSequence={"FrameType": ["ORIGINAL", "PRIMARY", quantity, "NONE"]},
        )
        for echo in (5, 10)
        for quantity in ("M", "P")
    ]
    scans = scans_in(enhanced([frame_groups(z, **kind) for z in (0, 3) for kind in kinds]))
    assert [values(scan) for scan in scans] == [
        [-100 + 2 * k, -100 + 2 * (k + 4)] for k in range(4)
    ]
    assert all(scan.flags == ("SPLIT",) for scan in scans)


def test_directions_of_one_weighting_are_scans_of_their_own(enhanced):
    def weighted(b, *direction):
        gradient = [item(DiffusionGradientOrientation=list(direction))] if direction else []
        elements = {"DiffusionBValue": b, "DiffusionDirectionality": "DIRECTIONAL"}
        if gradient:
            elements["DiffusionGradientDirectionSequence"] = gradient
        return traits(MRDiffusionSequence=elements)

    kinds = [weighted(0), *(weighted(1000, *way) for way in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))]
    scans = scans_in(enhanced([frame_groups(z, **kind) for z in (0, 3) for kind in kinds]))
    assert [len(scan.slices) for scan in scans] == [2] * 4
    assert not any("REPEATED_POSITIONS" in scan.flags for scan in scans)


def test_stacks_are_scans_though_their_slices_follow_each_other(enhanced):
    stacks = [traits(FrameContentSequence={"StackID": name}) for name in ("disc 1", "disc 2")]
    groups = [frame_groups(z, **stacks[z >= 30]) for z in (0, 4, 30, 34, 38)]
    one, other = scans_in(enhanced(groups))
    np.testing.assert_allclose(one.geometry.positions_mm, [0, 4])
    np.testing.assert_allclose(other.geometry.positions_mm, [30, 34, 38])
    assert one.flags == other.flags == ("SPLIT",)


def test_names_of_stacks_that_only_number_frames_split_nothing(enhanced):
    groups = [
        frame_groups(z, **traits(FrameContentSequence={"StackID": str(z)})) for z in (0, 3, 6)
    ]
    (scan,) = scans_in(enhanced(groups))
    assert scan.flags == ()


def test_times_that_change_from_slice_to_slice_split_nothing(enhanced):
    groups = [
        frame_groups(
            3 * k, **traits(TemporalPositionSequence={"TemporalPositionTimeOffset": 0.3 * k})
        )
        for k in range(6)
    ]
    (scan,) = scans_in(enhanced(groups))
    assert scan.flags == ()


def test_parts_of_one_file_hold_no_more_than_their_own_frames(enhanced):
    groups = [frame_groups(z, **time) for time in TIMES for z in (0, 3, 6)]
    path = enhanced(groups)
    found = find([path], scratch=path.parent / ".scratch")
    refs = [ref for ref in found if isinstance(ref, ScanRef)]
    assert [ref.decoded_bytes for ref in refs] == [3 * 16 * 16 * 4] * 2
    assert [read_dicom(ref).pixels.nbytes for ref in refs] == [3 * 16 * 16 * 4] * 2


def test_compressed_frames_are_decoded_by_number(enhanced):
    path = enhanced([frame_groups(z, **time) for z in (3, 0) for time in TIMES])
    plain = [scan.pixels for scan in scans_in(path)]
    dataset = dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    packed = [scan.pixels for scan in scans_in(path)]
    np.testing.assert_array_equal(packed, plain)
    assert plain[0][:, 0, 0].tolist() == [-96, -100]


def test_a_position_at_the_top_level_serves_a_group_that_has_none(tmp_path, write_dicom):
    write_dicom(
        tmp_path / "one",
        np.zeros((16, 16), np.int16),
        SOPClassUID=EnhancedCTImageStorage,
        NumberOfFrames=1,
        PerFrameFunctionalGroupsSequence=[item()],
    )
    (scan,) = scans_in(tmp_path)
    assert scan.flags == ()
    np.testing.assert_allclose(scan.geometry.positions_mm, [0])


@pytest.mark.parametrize("frames", ["", None, 0])
def test_an_empty_number_of_frames_is_one(tmp_path, write_dicom, frames):
    path = write_dicom(tmp_path / "one", NumberOfFrames=1)
    dataset = dcmread(path)
    dataset["NumberOfFrames"].value = frames
    dataset.save_as(path)
    (scan,) = scans_in(tmp_path)
    assert (len(scan.slices), scan.flags) == (1, ())


def test_a_file_that_describes_more_frames_than_it_counts_is_not_measured_by_its_first(enhanced):
    path = enhanced([frame_groups(0), frame_groups(3)])
    dataset = dcmread(path)
    dataset.NumberOfFrames = None
    dataset.save_as(path)
    (failure,) = find([path], scratch=path.parent / ".scratch")
    assert isinstance(failure, Failure)
    assert (failure.status, failure.reason) == ("failed", "broken_header")
    assert "counts 1 frame and describes 2" in failure.message


def test_echoes_of_a_concatenation_are_scans_across_its_files(tmp_path, write_dicom):
    images = [(z, echo) for echo in (5.0, 10.0) for z in (0, 3, 6)]
    for part in range(3):
        groups = [
            frame_groups(z, MREchoSequence={"EffectiveEchoTime": echo})
            for z, echo in images[2 * part : 2 * part + 2]
        ]
        write_dicom(
            tmp_path / str(part),
            np.full((2, 16, 16), part, np.int16),
            **dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")),
            SOPClassUID=EnhancedCTImageStorage,
            NumberOfFrames=2,
            SharedFunctionalGroupsSequence=[SHARED],
            PerFrameFunctionalGroupsSequence=groups,
            SOPInstanceUIDOfConcatenationSource="1.2.3",
            InConcatenationNumber=part + 1,
            InConcatenationTotalNumber=3,
        )
    first, second = scans_in(tmp_path)
    assert [(found.source, found.frame) for found in first.slices] == [("0", 1), ("0", 2), ("1", 1)]
    assert [(found.source, found.frame) for found in second.slices] == [
        ("1", 2),
        ("2", 1),
        ("2", 2),
    ]
    assert first.flags == second.flags == ("SPLIT",)


@pytest.fixture
def concatenation(tmp_path, write_dicom):
    """Writes the parts of an enhanced CT of six frames, 3 mm apart, two a file."""

    def write(numbers, *, total=3, uid=lambda number: "1.2.3", heights=range(0, 18, 3)):
        heights = list(heights)
        for number in numbers:
            start = 2 * (number - 1)
            groups = [frame_groups(z) for z in heights[start : start + 2]]
            stored = np.zeros((2, 16, 16), np.int16)
            stored += np.arange(start, start + 2, dtype=np.int16)[:, None, None]
            top = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
            write_dicom(
                tmp_path / f"{(number * 5) % 7}",
                stored,
                **dict.fromkeys((*top, "RescaleSlope", "RescaleIntercept")),
                SOPClassUID=EnhancedCTImageStorage,
                NumberOfFrames=2,
                SharedFunctionalGroupsSequence=[SHARED],
                PerFrameFunctionalGroupsSequence=groups,
                ConcatenationUID=uid(number),
                InConcatenationNumber=number,
                InConcatenationTotalNumber=total,
                ConcatenationFrameOffsetNumber=start,
            )
        return scans_in(tmp_path)

    return write


def test_a_concatenation_is_one_scan(concatenation):
    (scan,) = concatenation([1, 2, 3])
    assert values(scan) == [-100 + 2 * k for k in range(6)]
    np.testing.assert_allclose(scan.geometry.positions_mm, range(0, 18, 3))
    assert [found.frame for found in scan.slices] == [1, 2] * 3
    assert len({found.instance_uid for found in scan.slices}) == 3
    assert scan.flags == ()


def test_parts_of_a_concatenation_may_lie_between_each_other(concatenation):
    (scan,) = concatenation([1, 2, 3], heights=(0, 9, 3, 12, 6, 15))
    assert values(scan) == [-100 + 2 * k for k in (0, 2, 4, 1, 3, 5)]
    np.testing.assert_allclose(scan.geometry.positions_mm, range(0, 18, 3))


def test_parts_that_complete_each_other_are_one_whatever_their_uids(concatenation):
    (scan,) = concatenation([1, 2, 3], uid=lambda number: f"1.2.3.{number}")
    assert (len(scan.slices), scan.flags) == (6, ())


@pytest.mark.parametrize(("numbers", "total"), [([1, 2], 3), ([2, 3], 3), ([1, 3], None), ([1], 2)])
def test_a_missing_part_of_a_concatenation_is_a_gap(concatenation, numbers, total):
    (scan,) = concatenation(numbers, total=total)
    assert len(scan.slices) == 2 * len(numbers)
    assert "GAP" in scan.flags


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
