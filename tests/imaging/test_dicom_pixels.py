"""Stored pixels become physical values or RGB, whatever their bits, sign, padding and colours."""

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pack_bits
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedUSVolumeStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    VLEndoscopicImageStorage,
    VLPhotographicImageStorage,
)

from wsseg.imaging import FileRef, ScanRef, read_slice
from wsseg.imaging.dicom import read_dicom

RADIOGRAPH = {"SOPClassUID": ComputedRadiographyImageStorage, "Modality": "CR"}


def read(path):
    return read_dicom(ScanRef("dicom", (FileRef(path, path.name),)))


@pytest.fixture
def ramp():
    return np.arange(256, dtype=np.int16).reshape(16, 16)


def test_rescale_gives_hounsfield_units(tmp_path, write_dicom, ramp):
    scan = read(write_dicom(tmp_path / "a", ramp, RescaleSlope=2, RescaleIntercept=-1024))
    assert scan.pixels.dtype == np.float32
    np.testing.assert_array_equal(scan.pixels[0], ramp * 2.0 - 1024)


def test_a_modality_table_of_twelve_bits_is_applied(tmp_path, write_dicom, ramp):
    table = Dataset()
    table.LUTDescriptor = [256, 0, 12]
    table.ModalityLUTType = "US"
    table.LUTData = (np.arange(256, dtype="<u2") * 10).tobytes()
    table["LUTData"].VR = "OW"
    scan = read(
        write_dicom(
            tmp_path / "a",
            ramp.astype(np.uint16),
            RescaleSlope=None,
            RescaleIntercept=None,
            ModalityLUTSequence=[table],
        )
    )
    np.testing.assert_array_equal(scan.pixels[0], ramp * 10.0)


def test_an_inverted_image_is_looked_up_before_it_is_mirrored(tmp_path, write_dicom, ramp):
    table = Dataset()
    table.LUTDescriptor = [200, 20, 16]
    table.ModalityLUTType = "US"
    entries = np.arange(200, dtype="<u2") ** 2 + 7
    table.LUTData = entries.tobytes()
    table["LUTData"].VR = "OW"
    scan = read(
        write_dicom(
            tmp_path / "a",
            ramp.astype(np.uint16),
            BitsStored=12,
            HighBit=11,
            RescaleSlope=None,
            RescaleIntercept=None,
            PhotometricInterpretation="MONOCHROME1",
            ModalityLUTSequence=[table],
            **RADIOGRAPH,
        )
    )
    looked_up = entries[np.clip(ramp - 20, 0, 199)].astype(np.float32)
    np.testing.assert_array_equal(scan.pixels[0], 7 + 199.0**2 + 7 - looked_up)
    assert "MONOCHROME1" in scan.flags


def test_ct_without_rescale_is_flagged_as_not_in_hounsfield_units(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a", RescaleSlope=None, RescaleIntercept=None)
    assert read(path).flags == ("NOT_HU",)


@pytest.mark.parametrize("padding", [-2000, 63536])
def test_padding_becomes_the_lowest_real_value_in_whatever_sign_it_is_written(
    tmp_path, write_dicom, ramp, padding
):
    ramp[0, :4] = -2000
    scan = read(write_dicom(tmp_path / "a", ramp, PixelPaddingValue=None))
    assert scan.pixels.min() == -2000
    path = write_dicom(tmp_path / "b", ramp)
    dataset = dcmread(path)
    dataset.add_new("PixelPaddingValue", "US" if padding > 0 else "SS", padding)
    dataset.save_as(path)
    scan = read(path)
    assert scan.flags == ("PADDING_REPLACED",)
    assert scan.pixels.min() == 4
    np.testing.assert_array_equal(scan.pixels[0, 0, :4], 4)


def test_a_padding_range_covers_everything_between_its_ends(tmp_path, write_dicom, ramp):
    path = write_dicom(tmp_path / "a", ramp, PixelPaddingValue=0, PixelPaddingRangeLimit=9)
    assert read(path).pixels.min() == 10


def test_padding_of_an_inverted_image_ends_dark(tmp_path, write_dicom):
    stored = np.full((16, 16), 50, np.uint8)
    stored[0], stored[1] = 255, 200
    path = write_dicom(
        tmp_path / "a",
        stored,
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=255,
        **RADIOGRAPH,
    )
    assert read(path).pixels[0, :3, 0].tolist() == [55, 55, 205]


def test_signed_values_are_inverted_about_their_own_range(tmp_path, write_dicom, ramp):
    path = write_dicom(tmp_path / "a", ramp, PhotometricInterpretation="MONOCHROME1", **RADIOGRAPH)
    np.testing.assert_array_equal(read(path).pixels[0], -1.0 - ramp)


def test_unused_high_bits_do_not_reach_the_pixels(tmp_path, write_dicom, ramp):
    dirty = (ramp.astype(np.uint16)) | 0xF000
    path = write_dicom(tmp_path / "a", dirty, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read(path).pixels[0], ramp)


@pytest.mark.parametrize("overlay", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_values_in_the_upper_bits_are_taken_from_there(
    tmp_path, write_dicom, ramp, signed, overlay
):
    values = ramp.astype(np.int64) * 8 - (2000 if signed else 0) if not overlay else ramp % 16
    stored = ((values & 0xFFF) << 4).astype(np.uint16) | (ramp.astype(np.uint16) % 2 * overlay)
    path = write_dicom(
        tmp_path / "a", stored, BitsStored=12, HighBit=15, PixelRepresentation=int(signed)
    )
    if overlay:
        dataset = dcmread(path)
        dataset.add_new(0x60000100, "US", 16)
        dataset.add_new(0x60000102, "US", 0)
        dataset.save_as(path)
    np.testing.assert_array_equal(read(path).pixels[0], values)


def test_a_high_bit_that_the_values_do_not_reach_is_a_slip_of_the_pen(tmp_path, write_dicom, ramp):
    path = write_dicom(tmp_path / "a", ramp.astype(np.uint16), BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(read(path).pixels[0], ramp)


def test_padding_written_as_the_pattern_of_its_bits_is_recognised(tmp_path, write_dicom, ramp):
    stored = (ramp.astype(np.int16) - 1000) & 0xFFF
    stored[0] = 0x800
    path = write_dicom(
        tmp_path / "a", stored.astype(np.uint16), BitsStored=12, HighBit=11, PixelRepresentation=1
    )
    dataset = dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 0x800)
    dataset.save_as(path)
    scan = read(path)
    assert scan.flags == ("PADDING_REPLACED",)
    assert scan.pixels.min() == 16 - 1000


@pytest.mark.parametrize(("kind", "dtype"), [("Float", np.float32), ("DoubleFloat", np.float64)])
def test_padding_of_floating_point_values_is_replaced(tmp_path, write_dicom, ramp, kind, dtype):
    values = ramp.astype(dtype) + dtype(0.5)
    values[0] = -9999.25
    elements = {"PixelData": None, f"{kind}PixelData": values.tobytes()}
    path = write_dicom(tmp_path / "a", values, **elements, **{f"{kind}PixelPaddingValue": -9999.25})
    scan = read(path)
    assert scan.flags == ("PADDING_REPLACED",)
    assert scan.pixels.min() == 16.5


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_native_encoding_gives_the_same_pixels(tmp_path, write_dicom, ramp, syntax):
    stored = ramp.astype(">i2") if syntax == ExplicitVRBigEndian else ramp
    scan = read(write_dicom(tmp_path / "a", stored, syntax=syntax, RescaleIntercept=-7))
    np.testing.assert_array_equal(scan.pixels[0], ramp - 7.0)
    assert scan.flags == ()


def test_lossless_compression_gives_the_same_pixels(tmp_path, write_dicom, ramp):
    dataset = dcmread(write_dicom(tmp_path / "a", ramp, RescaleIntercept=-7))
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "b")
    np.testing.assert_array_equal(read(tmp_path / "b").pixels[0], ramp - 7.0)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_transfer_syntax_is_read_by_its_encoding(
    tmp_path, write_dicom, ramp, implicit
):
    dataset = dcmread(write_dicom(tmp_path / "a", ramp))
    del dataset.file_meta
    bare = Dataset(dataset)
    bare.save_as(tmp_path / "b", implicit_vr=implicit, little_endian=True)
    assert (tmp_path / "b").read_bytes()[128:132] != b"DICM"
    scan = read(tmp_path / "b")
    np.testing.assert_array_equal(scan.pixels[0], ramp)
    assert scan.flags == ("GUESSED_SYNTAX",)


def test_colour_of_eight_bits_keeps_its_values(tmp_path, write_dicom):
    colours = np.arange(768, dtype=np.uint16).reshape(16, 16, 3).astype(np.uint8)
    scan = read(write_dicom(tmp_path / "a", colours))
    np.testing.assert_array_equal(scan.pixels[0], colours)
    assert "SCALED_TO_8_BIT" not in scan.flags


def test_colour_of_sixteen_bits_is_scaled_to_eight_and_flagged(tmp_path, write_dicom):
    colours = np.zeros((16, 16, 3), np.uint16)
    colours[0, 0] = (65535, 32896, 0)
    scan = read(write_dicom(tmp_path / "a", colours))
    np.testing.assert_allclose(scan.pixels[0, 0, 0], [255, 128, 0], atol=1e-3)
    assert "SCALED_TO_8_BIT" in scan.flags


def test_colour_with_equal_channels_is_grey(tmp_path, write_dicom, ramp):
    grey = np.repeat(ramp.astype(np.uint8)[..., None], 3, axis=2)
    scan = read(write_dicom(tmp_path / "a", grey))
    assert scan.pixels.shape == (1, 16, 16)
    np.testing.assert_array_equal(scan.pixels[0], ramp)


def palette(bits, entries=4, first=10):
    """A palette of red, green, blue, white in 8 bits, or in 16 as their 257-fold."""
    colours = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]]) * (255 if bits == 8 else 65535)
    elements = {}
    for name, values in zip(("Red", "Green", "Blue"), colours, strict=True):
        stored = values[:entries].astype(np.uint8 if bits == 8 else "<u2").tobytes()
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [entries, first, bits]
        elements[f"{name}PaletteColorLookupTableData"] = stored
    return {"PhotometricInterpretation": "PALETTE COLOR"} | elements


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_indices_become_colours_and_those_beyond_it_the_last(tmp_path, write_dicom, bits):
    indices = np.full((16, 16), 10, np.uint8)
    indices[0, :5] = (3, 10, 11, 13, 250)
    scan = read(write_dicom(tmp_path / "a", indices, **palette(bits)))
    red, green, white = (255, 0, 0), (0, 255, 0), (255, 255, 255)
    np.testing.assert_allclose(scan.pixels[0, 0, :5], [red, red, green, white, white], atol=1e-3)
    assert ("SCALED_TO_8_BIT" in scan.flags) == (bits == 16)


def test_a_segmented_palette_becomes_colours(tmp_path, write_dicom):
    # A discrete segment of two entries, then a linear one of two up to 240.
    segments = np.array([0, 2, 0, 80, 1, 2, 240], np.uint16).tobytes()
    colours = ("Red", "Green", "Blue")
    elements: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    elements |= {f"{c}PaletteColorLookupTableDescriptor": [4, 0, 16] for c in colours}
    elements |= {f"Segmented{c}PaletteColorLookupTableData": segments for c in colours}
    indices = np.tile(np.arange(4, dtype=np.uint8), (16, 4))
    path = write_dicom(tmp_path / "a", indices, **elements)
    assert read(path).pixels[0, 0, :4].tolist() == [0, 80, 160, 240]


def test_a_window_for_display_changes_no_value(tmp_path, write_dicom, ramp):
    path = write_dicom(tmp_path / "a", ramp, WindowCenter=50, WindowWidth=20)
    np.testing.assert_array_equal(read(path).pixels[0], ramp)


@pytest.mark.parametrize(
    ("image_type", "risk"),
    [
        (["DERIVED", "SECONDARY", "COMPRESSED"], False),
        (["DERIVED", "SECONDARY", "MPR"], True),
        (["DERIVED", "SECONDARY", "CSA MPR"], True),
        (["ORIGINAL", "PRIMARY", "AXIAL", "MPR"], False),
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], True),
    ],
)
def test_a_word_within_another_word_is_no_risk(tmp_path, write_dicom, image_type, risk):
    path = write_dicom(tmp_path / "a", ImageType=image_type)
    assert ("PHI_RISK" in read(path).flags) == risk


def test_captures_and_burned_in_annotations_may_show_a_name(tmp_path, write_dicom):
    capture = write_dicom(tmp_path / "a", SOPClassUID=SecondaryCaptureImageStorage)
    burned = write_dicom(tmp_path / "b", BurnedInAnnotation="YES")
    saved = write_dicom(tmp_path / "c", ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])
    assert all("PHI_RISK" in read(path).flags for path in (capture, burned, saved))
    assert "PHI_RISK" not in read(write_dicom(tmp_path / "d")).flags


@pytest.mark.parametrize(
    "sop_class",
    [
        UltrasoundImageStorage,
        EnhancedUSVolumeStorage,
        VLEndoscopicImageStorage,
        VLPhotographicImageStorage,
        SecondaryCaptureImageStorage,
    ],
)
def test_only_a_clear_no_frees_pictures_that_often_show_a_name(tmp_path, write_dicom, sop_class):
    for burned_in, risk in ((None, True), ("YES", True), ("N", True), ("NO", False)):
        path = write_dicom(tmp_path / "a", SOPClassUID=sop_class, BurnedInAnnotation=burned_in)
        assert ("PHI_RISK" in read(path).flags) == risk


def test_an_unknown_class_is_read_as_a_plain_image_and_flagged(tmp_path, write_dicom, ramp):
    scan = read(write_dicom(tmp_path / "a", ramp, SOPClassUID="1.2.3.4"))
    np.testing.assert_array_equal(scan.pixels[0], ramp)
    assert scan.flags == ("UNKNOWN_CLASS",)


def test_identifiers_and_modality_come_with_the_scan(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a", Modality="MR", StudyInstanceUID="1.2", SeriesInstanceUID="3")
    scan = read(path)
    assert (scan.modality, scan.study_uid, scan.series_uid) == ("MR", "1.2", "3")
    assert scan.slices[0].source == "a"
    assert scan.slices[0].frame is None


def test_ultrasound_keeps_its_grey_values(tmp_path, write_dicom, ramp):
    path = write_dicom(
        tmp_path / "a",
        ramp.astype(np.uint8),
        SOPClassUID=UltrasoundImageStorage,
        RescaleSlope=None,
        RescaleIntercept=None,
    )
    np.testing.assert_array_equal(read(path).pixels[0], ramp)


def test_frames_of_single_bits_that_end_within_a_byte_are_separated(tmp_path, write_dicom):
    frames = np.random.default_rng(0).integers(0, 2, (5, 15, 13)).astype(np.uint8)
    size = {"Rows": 15, "Columns": 13, "NumberOfFrames": 5}
    bits = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": pack_bits(frames)}
    path = write_dicom(
        tmp_path / "a",
        frames,
        SOPClassUID=MultiFrameSingleBitSecondaryCaptureImageStorage,
        **size,
        **bits,
    )
    np.testing.assert_array_equal(read(path).pixels, frames)
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(read_slice(path, slice_index=index), frame)
