"""Every encoding of pixels is read, or named as what it is with what to do about it."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from pydicom import _uid_dict, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

from wsseg.imaging import Failure, FileRef, ReadError, ScanRef, find, read_slice
from wsseg.imaging.dicom import read_dicom, read_headers, syntax_name, undecoded

DICOM = "1.2.840.10008.1.2."
RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)


def read(path):
    return read_dicom(ScanRef("dicom", (FileRef(path, path.name),)))


def outcome(path, scratch):
    """What finding and reading a file end in: a scan or the failure, by reason and message."""
    (found,) = find([path], scratch=scratch)
    if isinstance(found, Failure):
        return found.status, found.reason, found.message
    with pytest.raises(ReadError) as caught:
        read(path)
    return "failed", caught.value.reason, str(caught.value)


def renamed(path, syntax):
    """Give a file another transfer syntax, pydicom knowing it or not."""
    content = path.read_bytes()
    at = content.index(b"\x02\x00\x10\x00UI") + 6
    (size,) = struct.unpack_from("<H", content, at)
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    length = content.index(b"\x02\x00\x00\x00UL") + 8
    (group,) = struct.unpack_from("<I", content, length)
    path.write_bytes(
        content[:length]
        + struct.pack("<I", group + len(uid) - size)
        + content[length + 4 : at]
        + struct.pack("<H", len(uid))
        + uid
        + content[at + 2 + size :]
    )
    return path


def encoded(path, write_dicom, syntax, fragments, pixels=RAMP, **elements):
    data = encapsulate(list(fragments))
    written = write_dicom(path, pixels, syntax=RLELossless, PixelData=data, **elements)
    return renamed(written, syntax)


@pytest.mark.parametrize(
    ("syntax", "reason", "name", "remedy"),
    [
        ("4.52", "not_decoded", "JPEG Extended (Process 3 and 5)", "dcmdjpeg"),
        ("4.55", "not_decoded", "JPEG Full Progression", "dcmdjpeg"),
        ("4.59", "unsupported_compression", "JPEG Extended, Hierarchical", "dcmdjpeg"),
        ("4.92", "unsupported_compression", "JPEG 2000 Part 2", "gdcmconv"),
        ("4.57", "not_decoded", "JPEG Lossless", "dcmdjpeg"),
        ("4.80", "not_decoded", "JPEG-LS", "dcmdjpls"),
        ("4.91", "not_decoded", "JPEG 2000", "gdcmconv"),
        ("4.201", "not_decoded", "High-Throughput JPEG 2000", "software that wrote it"),
        ("5", "not_decoded", "RLE Lossless", "dcmdrle"),
        ("4.110", "not_decoded", "JPEG XL Lossless", "software that wrote it"),
        ("4.111", "not_decoded", "JPEG XL JPEG Recompression", "software that wrote it"),
        ("4.112", "not_decoded", "JPEG XL", "software that wrote it"),
        ("8.1", "not_decoded", "Deflated Image Frame Compression", "software that wrote it"),
        ("4.100", "video", "MPEG2", "frames as pictures"),
        ("4.104", "video", "MPEG-4", "frames as pictures"),
        ("4.108", "video", "HEVC", "frames as pictures"),
        ("4.94", "pixels_elsewhere", "JPIP Referenced", "from the archive"),
        ("7.1", "unsupported_compression", "SMPTE ST 2110-20", "multi-frame image"),
        ("6.1", "unsupported_compression", "RFC 2557", "software that wrote it"),
        ("4.999", "unsupported_compression", "unknown transfer syntax", "software that wrote it"),
    ],
)
def test_what_cannot_be_decoded_is_named_with_its_remedy(
    tmp_path, write_dicom, syntax, reason, name, remedy
):
    path = encoded(tmp_path / "a", write_dicom, DICOM + syntax, [bytes(100)])
    status, found, message = outcome(path, tmp_path)
    assert (status, found) == ("failed", reason)
    assert name in message
    assert remedy in message
    assert "not part of DICOM" not in message


@pytest.mark.parametrize(
    ("syntax", "reason", "words"),
    [
        ("1.2.840.113619.5.2", "unsupported_compression", "its manufacturer"),
        ("1.2.840.10008.5.1.4.1.1.2", "broken_header", "CT Image Storage"),
        ("CANARY is no UID", "broken_header", "is not a UID"),
    ],
)
def test_an_invalid_transfer_syntax_is_reported(tmp_path, write_dicom, syntax, reason, words):
    path = encoded(tmp_path / "a", write_dicom, syntax, [bytes(100)])
    _, found, message = outcome(path, tmp_path)
    assert found == reason
    assert words in message
    assert "CANARY" not in message


@pytest.mark.parametrize("deflated", [False, True])
def test_an_image_whose_pixels_stayed_on_a_server_is_not_taken_for_damaged(
    tmp_path, write_dicom, deflated
):
    syntax = DeflatedExplicitVRLittleEndian if deflated else ExplicitVRLittleEndian
    path = write_dicom(
        tmp_path / "a", syntax=syntax, PixelData=None, PixelDataProviderURL="https://pacs.invalid"
    )
    renamed(path, DICOM + ("4.95" if deflated else "4.94"))
    found = read_headers(FileRef(path, "a"))
    assert isinstance(found, Failure)
    assert (found.status, found.reason) == ("failed", "pixels_elsewhere")
    assert "pacs.invalid" not in found.message


def test_frames_that_are_encapsulated_but_not_compressed_are_read(tmp_path, write_dicom):
    path = encoded(
        tmp_path / "a", write_dicom, DICOM + "1.98", [RAMP.tobytes()], RescaleIntercept=-7
    )
    np.testing.assert_array_equal(read(path).pixels[0], RAMP - 7.0)


def deflate(frame):
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(frame.tobytes()) + deflater.flush()


def test_deflated_frames_are_read_also_one_by_one(tmp_path, write_dicom):
    frames = np.stack([RAMP, RAMP[::-1], RAMP // 2])
    path = encoded(
        tmp_path / "a",
        write_dicom,
        DICOM + "8.1",
        map(deflate, frames),
        frames,
        NumberOfFrames=3,
        SOPClassUID=UltrasoundMultiFrameImageStorage,
    )
    np.testing.assert_array_equal(read(path).pixels, frames)
    np.testing.assert_array_equal(read_slice(path, slice_index=2), frames[2])


def test_a_deflated_frame_inflates_to_what_the_header_promises_and_no_further(
    tmp_path, write_dicom
):
    bomb = deflate(np.concatenate([RAMP.ravel(), np.zeros(1 << 24, np.uint16)]))
    path = encoded(tmp_path / "a", write_dicom, DICOM + "8.1", [bomb])
    np.testing.assert_array_equal(read(path).pixels[0], RAMP)


@pytest.mark.parametrize("colour", [False, True])
def test_jpeg_xl_is_read(tmp_path, write_dicom, colour):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8) if colour else RAMP
    fragment = imagecodecs.jpegxl_encode(pixels, lossless=True)
    path = encoded(tmp_path / "a", write_dicom, DICOM + "4.110", [fragment], pixels)
    np.testing.assert_array_equal(read(path).pixels[0], pixels)


@pytest.mark.parametrize("syntax", ["4.51", "4.55"])
@pytest.mark.parametrize("signed", [False, True])
def test_jpeg_of_twelve_bits_is_read(tmp_path, write_dicom, syntax, signed):
    values = RAMP.astype(np.int16) * 15 - (2000 if signed else 0)
    fragment = imagecodecs.jpeg_encode(
        (values & 0xFFF).astype(np.uint16), level=100, bitspersample=12
    )
    path = encoded(
        tmp_path / "a",
        write_dicom,
        DICOM + syntax,
        [fragment],
        values if signed else values.astype(np.uint16),
        BitsStored=12,
        HighBit=11,
    )
    np.testing.assert_allclose(read(path).pixels[0], values, atol=40)


@pytest.mark.parametrize("cut", [10, 60, 200])
def test_a_compressed_file_cut_in_its_pixels_is_called_cut(tmp_path, write_dicom, cut):
    dataset = dcmread(write_dicom(tmp_path / "a", RAMP))
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "b")
    path = tmp_path / "b"
    path.write_bytes(path.read_bytes()[:-cut])
    status, reason, message = outcome(path, tmp_path)
    assert (status, reason) == ("failed", "truncated")
    assert "ends before its pixels do" in message


def test_the_name_of_every_transfer_syntax_of_pydicom_leads_to_a_message():
    for uid, (name, kind, *_) in _uid_dict.UID_dictionary.items():
        if kind == "Transfer Syntax":
            assert syntax_name(UID(uid)) == name
            assert name in str(undecoded(UID(uid), "a.dcm"))
