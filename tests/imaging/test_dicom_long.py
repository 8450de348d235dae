"""A long cine is read frame by frame: with the same values, in bounded memory."""

import io
import threading

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

from wsseg.imaging import FileRef, ReadError, ScanRef, read_slice
from wsseg.imaging import scan as planes
from wsseg.imaging.dicom import object as dicom_object
from wsseg.imaging.dicom import read_dicom
from wsseg.imaging.dicom import reader as dicom_read
from wsseg.imaging.scan import Planes

FRAMES = 7


def read(path):
    return read_dicom(ScanRef("dicom", (FileRef(path, path.name),)))


@pytest.fixture
def long(monkeypatch):
    """Makes every object with several frames a long one, of which two are held at a time."""
    monkeypatch.setattr(dicom_read, "LONG_PIXELS", 0)
    monkeypatch.setattr(dicom_object, "DEFERRED_BYTES", 64)
    monkeypatch.setattr(planes, "HELD_BYTES", 2 * 16 * 16 * 4)


def colours(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (FRAMES, 16, 16, 3), np.uint8)


ULTRASOUND = {
    "SOPClassUID": UltrasoundMultiFrameImageStorage,
    "Modality": "US",
    "NumberOfFrames": FRAMES,
    "ImagePositionPatient": None,
    "RescaleSlope": None,
    "RescaleIntercept": None,
}


def jpegs(frames):
    for frame in frames:
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "JPEG")
        yield stream.getvalue()


def frame_group(number):
    """A frame at the height of its number, whose slope is one more than that."""
    group = Dataset()
    group.PlanePositionSequence = [Dataset()]
    group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, float(number)]
    group.PlaneOrientationSequence = [Dataset()]
    group.PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    group.PixelValueTransformationSequence = [Dataset()]
    transformation = group.PixelValueTransformationSequence[0]
    transformation.RescaleSlope, transformation.RescaleIntercept = number + 1, number
    transformation.RescaleType = "HU"
    return group


def write(path, write_dicom, kind):
    elements: dict[str, object]
    rng = np.random.default_rng(1)
    match kind:
        case "jpeg":
            return write_dicom(
                path,
                colours(),
                syntax=JPEGBaseline8Bit,
                PixelData=encapsulate(list(jpegs(colours()))),
                **(ULTRASOUND | {"PhotometricInterpretation": "YBR_FULL_422"}),
            )
        case "rle":
            dataset = dcmread(write_dicom(path, colours(), **ULTRASOUND))
            dataset.compress(RLELossless)
            dataset.save_as(path)
            return path
        case "grey as colour":
            grey = np.repeat(colours()[..., :1], 3, axis=-1)
            return write_dicom(path, grey, **ULTRASOUND)
        case "subsampled":
            stored = rng.integers(0, 256, FRAMES * 16 * 16 * 2, np.uint8)
            elements = {"PhotometricInterpretation": "YBR_FULL_422", "PixelData": stored.tobytes()}
            return write_dicom(path, colours(), **(ULTRASOUND | elements))
        case "bits":
            elements = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
            packed = rng.integers(0, 256, FRAMES * 16 * 16 // 8, np.uint8)
            pixels = np.zeros((FRAMES, 16, 16), np.uint8)
            elements |= {"PixelData": packed.tobytes()}
            return write_dicom(path, pixels, **(ULTRASOUND | elements))
        case "float":
            values = rng.normal(size=(FRAMES, 16, 16)).astype(np.float32)
            values[1, 0, 0], values[2] = np.nan, np.inf
            elements = {"PixelData": None, "FloatPixelData": values.tobytes()}
            return write_dicom(path, values, **(ULTRASOUND | elements))
    syntax = {
        "implicit": ImplicitVRLittleEndian,
        "big endian": ExplicitVRBigEndian,
        "plain": ExplicitVRLittleEndian,
    }[kind]
    values = rng.integers(-900, 900, (FRAMES, 16, 16)).astype(
        ">i2" if syntax == ExplicitVRBigEndian else "<i2"
    )
    values[3, :4] = -2000
    groups = [frame_group(number) for number in (3, 0, 6, 1, 5, 2, 4)]
    return write_dicom(
        path,
        values,
        syntax=syntax,
        SOPClassUID=EnhancedCTImageStorage,
        NumberOfFrames=FRAMES,
        PerFrameFunctionalGroupsSequence=groups,
        PixelPaddingValue=-2000,
    )


KINDS = [
    *("jpeg", "rle", "grey as colour", "subsampled", "bits", "float"),
    *("plain", "implicit", "big endian"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_object_has_the_values_and_flags_of_a_short_one(
    tmp_path, write_dicom, monkeypatch, long, kind
):
    path = write(tmp_path / "a", write_dicom, kind)
    lazy = read(path)
    with monkeypatch.context() as short:
        short.setattr(dicom_read, "LONG_PIXELS", 1 << 27)
        short.setattr(dicom_object, "DEFERRED_BYTES", 1 << 26)
        eager = read(path)
    assert isinstance(lazy.pixels, Planes)
    assert isinstance(eager.pixels, np.ndarray)
    assert (lazy.pixels.shape, lazy.pixels.ndim) == (eager.pixels.shape, eager.pixels.ndim)
    np.testing.assert_array_equal(np.asarray(lazy.pixels), eager.pixels)
    for index in (5, 2, 2, 3, -1):
        np.testing.assert_array_equal(lazy.pixels[index], eager.pixels[index])
    assert (lazy.flags, lazy.slices, lazy.reorientation) == (
        eager.flags,
        eager.slices,
        eager.reorientation,
    )


@pytest.mark.parametrize("kind", ["jpeg", "rle", "plain", "big endian"])
def test_a_slice_read_alone_is_that_of_the_whole(tmp_path, write_dicom, kind):
    path = write(tmp_path / "a", write_dicom, kind)
    whole = read(path).pixels
    for index in (0, 4, FRAMES - 1):
        np.testing.assert_array_equal(read_slice(path, slice_index=index), whole[index])


def test_a_slice_read_alone_decodes_no_other(tmp_path, write_dicom):
    frames = list(jpegs(colours()))
    frames[2:] = [b"damaged!"] * (FRAMES - 2)
    path = write_dicom(
        tmp_path / "a",
        colours(),
        syntax=JPEGBaseline8Bit,
        PixelData=encapsulate(frames),
        **(ULTRASOUND | {"PhotometricInterpretation": "YBR_FULL_422"}),
    )
    assert read_slice(path, slice_index=1).shape == (16, 16, 3)
    with pytest.raises(ReadError):
        read_slice(path, slice_index=2)


def test_a_long_object_that_cannot_be_decoded_to_its_end_is_a_read_error(
    tmp_path, write_dicom, long
):
    frames = [*list(jpegs(colours()))[:-1], b"damaged!"]
    path = write_dicom(
        tmp_path / "a",
        colours(),
        syntax=JPEGBaseline8Bit,
        PixelData=encapsulate(frames),
        **(ULTRASOUND | {"PhotometricInterpretation": "YBR_FULL_422"}),
    )
    with pytest.raises(ReadError, match="damaged") as caught:
        read(path)
    assert caught.value.reason == "not_decoded"


def test_frames_that_the_file_cannot_hold_are_refused_before_any_is_decoded(tmp_path, write_dicom):
    for kind, reason in (("jpeg", "truncated"), ("rle", "truncated")):
        path = write(tmp_path / kind, write_dicom, kind)
        dataset = dcmread(path)
        dataset.NumberOfFrames = 2**31 - 1
        dataset.save_as(path)
        with pytest.raises(ReadError) as caught:
            read(path)
        assert caught.value.reason == reason


@pytest.mark.parametrize("heights", [((0, 1, 2), (3, 4, 5)), ((0, 2, 4), (5, 3, 1))])
def test_long_objects_that_are_one_volume_are_put_together_in_slice_order(
    tmp_path, write_dicom, monkeypatch, long, heights
):
    files = []
    for name, of_file in zip("ab", heights, strict=True):
        groups = [frame_group(height) for height in of_file]
        pixels = np.stack([np.full((16, 16), 10 * height, np.int16) for height in of_file])
        path = write_dicom(
            tmp_path / name,
            pixels,
            SOPClassUID=EnhancedCTImageStorage,
            NumberOfFrames=len(groups),
            PerFrameFunctionalGroupsSequence=groups,
        )
        files.append(FileRef(path, name))
    ref = ScanRef("dicom", tuple(files), frames=((0, 1, 2), (0, 1, 2)))
    scan = read_dicom(ref)
    assert isinstance(scan.pixels, Planes)
    with monkeypatch.context() as short:
        short.setattr(dicom_read, "LONG_PIXELS", 1 << 27)
        np.testing.assert_array_equal(np.asarray(scan.pixels), read_dicom(ref).pixels)
    assert [int(plane[0, 0]) for plane in scan.pixels] == [
        10 * height * (height + 1) + height
        for height in (5, 4, 3, 2, 1, 0)  # along the normal, downwards
    ]


def test_a_file_truncated_after_it_was_read_is_reported_when_a_slice_is_decoded(
    tmp_path, write_dicom, long
):
    path = write(tmp_path / "a", write_dicom, "plain")
    scan = read(path)
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(ReadError):
        np.asarray(scan.pixels)


@pytest.mark.slow
def test_several_threads_take_slices_of_one_long_object(tmp_path, write_dicom, long):
    path = write(tmp_path / "a", write_dicom, "jpeg")
    scan = read(path)
    expected = np.asarray(scan.pixels)
    wrong = []

    def take(start):
        for step in range(3 * FRAMES):
            index = (start + step) % FRAMES
            if not np.array_equal(scan.pixels[index], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=take, args=(start,)) for start in (0, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_long_scan_holds_a_few_slices_only(monkeypatch):
    monkeypatch.setattr(planes, "HELD_BYTES", 3 * 4 * 4 * 4)
    asked = []

    def some(wanted):
        asked.append(list(wanted))
        return np.zeros((len(wanted), 4, 4), np.float32)

    scan = Planes((8, 4, 4), some)
    assert scan.nbytes == 3 * 4 * 4 * 4
    for _ in scan:
        pass
    assert asked == [[0, 1, 2], [3, 4, 5], [6, 7]]
    _ = scan[2]
    assert asked[-1] == [2]
