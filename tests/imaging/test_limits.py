"""What a file may take when it is read is known before it is taken: one that would take too much is
a failure of its own, which names what was found, the limit and how to raise it."""

import zlib

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
)

from wsseg.imaging import Failure, FileRef, ReadError, ScanRef
from wsseg.imaging.dicom import read_dicom, read_headers
from wsseg.imaging.limits import MIB, ReadLimits

SMALL = ReadLimits(inflated_bytes=MIB)


def refusal(path, limits):
    with pytest.raises(ReadError) as caught:
        read_dicom(ScanRef("dicom", (FileRef(path, path.name),)), limits)
    assert path.name in str(caught.value)
    return caught.value


def deflated(write_dicom, path, change):
    """A deflated file whose data set is changed before it is deflated."""
    whole = write_dicom(path, syntax=DeflatedExplicitVRLittleEndian).read_bytes()
    at = 144 + int.from_bytes(whole[140:144], "little")
    body = change(zlib.decompress(whole[at:], -zlib.MAX_WBITS))
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(whole[:at] + deflater.compress(body) + deflater.flush())
    return path


def zeros(tag, nbytes):
    """An element of so many zeros."""
    return tag + b"OB\0\0" + nbytes.to_bytes(4, "little") + bytes(nbytes)


def test_a_deflated_file_is_inflated_only_as_far_as_its_pixels(tmp_path, write_dicom):
    behind = zeros(b"\xe1\x7f\x11\x10", 3 * MIB)
    path = deflated(write_dicom, tmp_path / "a", lambda body: body + behind)
    assert isinstance(read_headers(FileRef(path, "a"), SMALL), list)
    scan = read_dicom(ScanRef("dicom", (FileRef(path, "a"),)), SMALL)
    assert scan.pixels.shape == (1, 16, 16)


def test_a_deflated_header_that_inflates_beyond_the_limit_is_refused(tmp_path, write_dicom):
    private = zeros(b"\x09\x00\x11\x10", 3 * MIB)

    def padded(body):
        at = body.index(b"\x10\x00\x10\x00")
        return body[:at] + private + body[at:]

    path = deflated(write_dicom, tmp_path / "a", padded)
    assert path.stat().st_size < MIB // 64
    found = read_headers(FileRef(path, "a"), SMALL)
    assert isinstance(found, Failure)
    assert found.reason == "too_large"
    assert "1 MiB" in found.message
    assert "--max-inflated-mb" in found.message
    assert refusal(path, SMALL).reason == "too_large"


def test_deflated_pixels_beyond_the_limit_are_refused_by_their_length(tmp_path, write_dicom):
    pixels = b"\xe0\x7f\x10\x00"
    path = deflated(
        write_dicom, tmp_path / "a", lambda b: b[: b.index(pixels)] + zeros(pixels, 2 * MIB)
    )
    assert isinstance(read_headers(FileRef(path, "a"), SMALL), list)
    assert refusal(path, SMALL).reason == "too_large"


def test_a_header_of_too_many_elements_is_refused(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a")
    head = path.read_bytes()
    at = head.index(b"\x10\x00\x10\x00PN")
    path.write_bytes(head[:at] + b"\x09\x00\x01\x10UN\0\0\0\0\0\0" * 200_000 + head[at:])
    found = read_headers(FileRef(path, "a"))
    assert isinstance(found, Failure)
    assert found.reason == "header_too_large"


def test_a_slice_of_more_pixels_than_any_scanner_writes_is_refused(tmp_path, write_dicom):
    pixels = encapsulate([bytes(1000)])
    path = write_dicom(
        tmp_path / "a", syntax=RLELossless, Rows=30_000, Columns=30_000, PixelData=pixels
    )
    found = read_headers(FileRef(path, "a"))
    assert isinstance(found, Failure)
    assert found.reason == "too_large"
    assert "30000 x 30000" in found.message


def test_more_frames_than_allowed_are_refused(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a", NumberOfFrames=7)
    found = read_headers(FileRef(path, "a"), ReadLimits(frames=6))
    assert isinstance(found, Failure)
    assert found.reason == "too_many_frames"
    assert "--max-frames" in found.message


def test_a_series_beyond_the_limit_of_a_scan_is_refused_before_it_is_decoded(series):
    folder = series(range(3), Rows=512, Columns=256, pixels=np.zeros((512, 256), np.int16))
    files = sorted(folder.iterdir())
    assert files
    with pytest.raises(ReadError) as caught:
        read_dicom(
            ScanRef("dicom", tuple(FileRef(f, f.name) for f in files)), ReadLimits(scan_bytes=MIB)
        )
    assert caught.value.reason == "too_large"
    assert "--max-scan-mb" in str(caught.value)


@pytest.mark.slow
def test_a_codestream_far_larger_than_its_header_states_is_refused_by_its_memory(
    tmp_path, write_dicom
):
    stream = imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint8), codecformat="j2k")
    # Height and width of the image and of its one tile, which only memory limits.
    side = (30_000).to_bytes(4, "big")
    at = stream.index(b"\xff\x51") + 6
    stream = stream[:at] + side * 2 + stream[at + 8 : at + 16] + side * 2 + stream[at + 24 :]
    path = write_dicom(
        tmp_path / "a",
        np.zeros((16, 16), np.uint8),
        syntax=JPEG2000,
        PixelData=encapsulate([bytes(stream)]),
    )
    assert refusal(path, ReadLimits()).reason in ("too_large", "not_decoded", "decoder_crashed")
