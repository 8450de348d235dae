"""DICOM segmentations as labels: a segment is a class, and a frame lies where it was drawn."""

import highdicom as hd
import numpy as np
import pytest
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    EnhancedCTImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from wsseg.imaging import ReadError, label_grid_difference, numbering, read_grid, read_labels_for
from wsseg.imaging.label_values import PLAIN

SIZE = 16
HEIGHTS = (0.0, 2.0, 4.0)
LABELS = np.zeros((3, SIZE, SIZE), np.uint8)
LABELS[0, 2:5, 3:9] = 1
LABELS[0, 8:12, 3:9] = 2
LABELS[1, 6:9, 1:4] = 2


def described(number, words):
    return SegmentDescription(
        segment_number=number,
        segment_label=words,
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Kidney,
        algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
    )


def segmentation(path, sources, pixels, *, kind="BINARY", words=("Left", "Right"), **options):
    numbers = range(1, len(words) + 1)
    seg = hd.seg.Segmentation(
        source_images=[dcmread(source) for source in sources],
        pixel_array=pixels,
        segmentation_type=SegmentationTypeValues(kind),
        segment_descriptions=[described(n, w) for n, w in zip(numbers, words, strict=True)],
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    seg.save_as(path)
    return path


@pytest.fixture
def ct(tmp_path, write_dicom):
    """Files of one slice each, heights rising; numbers keep patients' elements that SEG copies."""

    def write(count=3, normal=(0, 0, 1), **elements):
        return [
            write_dicom(
                tmp_path / f"{index}.dcm",
                ImagePositionPatient=(
                    np.array([-10.0, -20.0, 0.0]) + HEIGHTS[index] * np.array(normal)
                ).tolist(),
                InstanceNumber=index + 1,
                PatientBirthDate="",
                PatientSex="",
                StudyDate="",
                StudyTime="",
                AccessionNumber="",
                StudyID="",
                ReferringPhysicianName="",
                SeriesNumber=1,
                **elements,
            )
            for index in range(count)
        ]

    return write


def counted(image, path, *, slice_index=0, how=PLAIN):
    """Labels on the stored pixels of an image; that its grid is not complained of on the way."""
    assert label_grid_difference(image, path, slice_index=slice_index) == ""
    found = read_labels_for(image, path, slice_index=slice_index, numbering=how)
    return read_grid(image).reorientation.undo(found)


def refusal(image, path, *, slice_index=0, how=PLAIN):
    with pytest.raises(ReadError) as caught:
        read_labels_for(image, path, slice_index=slice_index, numbering=how)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize(
    ("orientation", "normal"),
    [
        ([1.0, 0, 0, 0, 1, 0], (0, 0, 1)),
        ([-1.0, 0, 0, 0, -1, 0], (0, 0, 1)),
        ([0.0, 1, 0, 0, 0, -1], (1, 0, 0)),
        ([0.0, 0, -1, 0, 1, 0], (1, 0, 0)),
    ],
)
def test_every_segment_is_its_class_on_the_slice_that_it_was_drawn_on(
    tmp_path, ct, kind, orientation, normal
):
    images = ct(normal=normal, ImageOrientationPatient=orientation)
    path = segmentation(tmp_path / "seg.dcm", images, LABELS, kind=kind)
    for image, expected in zip(images, LABELS, strict=True):
        assert np.array_equal(counted(image, path), expected)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_segmentation_of_one_frame_is_on_its_own_slice_alone(tmp_path, ct, kind):
    images = ct()
    path = segmentation(tmp_path / "seg.dcm", images[1:2], LABELS[:1], kind=kind)
    assert np.array_equal(counted(images[1], path), LABELS[0])
    for other in (images[0], images[2]):
        assert refusal(other, path) == "labels_elsewhere"


def test_a_slice_that_was_looked_at_and_left_empty_is_background(tmp_path, ct):
    images = ct()
    path = segmentation(tmp_path / "seg.dcm", images, LABELS)
    assert dcmread(path).NumberOfFrames < 6
    assert not counted(images[2], path).any()


def test_segments_are_identified_by_number_or_name(tmp_path, ct):
    images = ct()
    path = segmentation(tmp_path / "seg.dcm", images, LABELS)
    both = numbering(("kidney",), {"kidney": (1, "Right")})
    assert np.array_equal(counted(images[0], path, how=both), LABELS[0] > 0)
    right = numbering(("kidney",), {"kidney": ("Right",)})
    assert np.array_equal(counted(images[0], path, how=right), LABELS[0] == 2)


def test_pixels_of_two_classes_are_refused_unless_they_are_joined(tmp_path, ct):
    images = ct(1)
    pixels = np.zeros((1, SIZE, SIZE, 2), np.uint8)
    pixels[0, 2:6, 2:6, 0] = pixels[0, 4:9, 4:9, 1] = 1
    path = segmentation(tmp_path / "seg.dcm", images, pixels)
    assert refusal(images[0], path) == "overlap"
    joined = numbering(("kidney",), {"kidney": (1, 2)})
    assert np.array_equal(counted(images[0], path, how=joined), pixels[0].any(axis=-1))


def test_probabilities_are_no_classes(tmp_path, ct):
    images = ct(1)
    path = segmentation(
        tmp_path / "seg.dcm",
        images,
        (LABELS[:1] > 0).astype(np.float32),
        kind="FRACTIONAL",
        words=("Left",),
    )
    assert refusal(images[0], path) == "not_labels"


@pytest.fixture
def enhanced(tmp_path, write_dicom):
    """One file of three frames, stored from the head down."""

    def group(height):
        holder, position = Dataset(), Dataset()
        position.ImagePositionPatient = [-10.0, -20.0, height]
        holder.PlanePositionSequence = [position]
        return holder

    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.5], 2.0
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    return write_dicom(
        tmp_path / "enhanced.dcm",
        np.arange(3, dtype=np.int16)[:, None, None] * np.ones((3, SIZE, SIZE), np.int16),
        SOPClassUID=EnhancedCTImageStorage,
        NumberOfFrames=3,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        PixelSpacing=None,
        PerFrameFunctionalGroupsSequence=[group(height) for height in HEIGHTS[::-1]],
        SharedFunctionalGroupsSequence=[shared],
        PatientBirthDate="",
        PatientSex="",
        StudyDate="",
        StudyTime="",
        AccessionNumber="",
        StudyID="",
        ReferringPhysicianName="",
        SeriesNumber=1,
    )


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_frames_of_one_file_get_the_frames_drawn_on_them(tmp_path, enhanced, kind):
    path = segmentation(tmp_path / "seg.dcm", [enhanced], LABELS, kind=kind)
    # Slices count upwards, frames are stored downwards.
    for index in range(3):
        found = counted(enhanced, path, slice_index=index)
        assert np.array_equal(found, LABELS[::-1][index])


def test_images_without_positions_are_found_by_name(tmp_path, ct):
    images = ct(
        2,
        SOPClassUID=SecondaryCaptureImageStorage,
        ImageOrientationPatient=None,
        FrameOfReferenceUID=None,
        PixelSpacing=None,
    )
    for image in images:
        dataset = dcmread(image)
        del dataset.ImagePositionPatient
        dataset.save_as(image)
    path = segmentation(tmp_path / "seg.dcm", images[:1], LABELS[:1])
    assert np.array_equal(counted(images[0], path), LABELS[0])
    assert refusal(images[1], path) == "labels_elsewhere"


def test_other_spaces_and_grids_are_refused(tmp_path, ct, write_dicom):
    images = ct()
    path = segmentation(tmp_path / "seg.dcm", images, LABELS)
    elsewhere = write_dicom(
        tmp_path / "other.dcm",
        ImagePositionPatient=[-10.0, -20.0, 0.0],
        FrameOfReferenceUID=generate_uid(),
    )
    assert refusal(elsewhere, path) == "labels_elsewhere"
    shifted = write_dicom(tmp_path / "shifted.dcm", ImagePositionPatient=[-9.8, -20.0, 0.0])
    assert refusal(shifted, path) == "labels_elsewhere"
    outside = write_dicom(tmp_path / "outside.dcm", ImagePositionPatient=[-9.5, -20.0, 0.0])
    assert refusal(outside, path) == "labels_elsewhere"


def test_a_segmentation_cannot_be_positioned_on_a_picture(tmp_path, ct):
    images = ct(1)
    path = segmentation(tmp_path / "seg.dcm", images, LABELS[:1])
    Image.new("L", (SIZE, SIZE)).save(tmp_path / "a.png")
    assert refusal(tmp_path / "a.png", path) == "labels_elsewhere"


def test_compressed_label_maps_are_read(tmp_path, ct):
    images = ct()
    path = segmentation(
        tmp_path / "seg.dcm", images, LABELS, kind="LABELMAP", transfer_syntax_uid=RLELossless
    )
    assert np.array_equal(counted(images[0], path), LABELS[0])


@pytest.mark.parametrize("rows", [15, 13])
def test_frames_that_do_not_end_with_a_byte_are_read(tmp_path, ct, rows):
    pixels = np.zeros((3, rows, SIZE - 1), np.int16)
    images = ct(pixels=pixels[0], Rows=rows, Columns=SIZE - 1)
    labels = LABELS[:, :rows, 1:]
    path = segmentation(tmp_path / "seg.dcm", images, labels)
    for image, expected in zip(images, labels, strict=True):
        assert np.array_equal(counted(image, path), expected)


def test_a_segmentation_that_is_cut_is_refused(tmp_path, ct):
    images = ct()
    path = segmentation(tmp_path / "seg.dcm", images, LABELS)
    dataset = dcmread(path)
    dataset.PixelData = dataset.PixelData[:20]
    dataset.save_as(path)
    assert refusal(images[1], path) == "broken_pixels"
