"""What a file may take when it is read is known before it is taken: one that would take too much is
a failure of its own, which names what was found, the limit and how to raise it."""

import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from nibabel.nifti1 import Nifti1Image
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
)

from wsseg.imaging import Failure, FileRef, ReadError, ScanRef, find, pictures, read, volumes
from wsseg.imaging import limits as limits_module
from wsseg.imaging.dicom import read_dicom, read_headers
from wsseg.imaging.limits import MIB, ReadLimits
from wsseg.imaging.picture_page import Page
from wsseg.imaging.reading import read_label_slice

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
    path.write_bytes(head[:at] + b"\x09\x00\x01\x10UN\0\0\0\0\0\0" * 60_000 + head[at:])
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


@pytest.mark.parametrize(
    ("bits", "segments"),
    [
        (16, np.array([0, 1, 7, *[1, 65_535, 9] * 3], "<u2").tobytes()),
        # An indirect segment that repeats itself.
        (16, np.array([0, 1, 7, 2, 200, 3, 0], "<u2").tobytes()),
        (8, bytes([0, 1, 7, *[1, 255, 9] * 600])),
    ],
)
def test_a_palette_of_a_few_bytes_that_expands_without_end_is_refused(
    tmp_path, write_dicom, bits, segments
):
    elements = {}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        elements[f"Segmented{colour}PaletteColorLookupTableData"] = segments
    path = write_dicom(
        tmp_path / "a",
        np.zeros((16, 16), np.uint8),
        PhotometricInterpretation="PALETTE COLOR",
        **elements,
    )
    assert refusal(path, ReadLimits()).reason == "broken_pixels"


def test_the_exceptions_of_a_scan_that_needs_too_much_are_one_failure(tmp_path, monkeypatch):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    ref = ScanRef("picture", (FileRef(tmp_path / "a.png", "a.png"),))
    for error, reason in ((MemoryError, "out_of_memory"), (RecursionError, "unreadable")):

        def raising(*_, error=error):
            raise error

        monkeypatch.setattr(pictures, "decoded_page", raising)
        with pytest.raises(ReadError, match=r"a\.png") as caught:
            read(ref)
        assert caught.value.reason == reason


def packed_volume(path, shape):
    Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)).to_filename(path)
    return FileRef(path, path.name)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.png", "a.tif", "a.gif"])
def test_pixels_that_grow_far_beyond_their_file_are_refused_before_they_are_decoded(
    tmp_path, monkeypatch, name
):
    monkeypatch.setattr(limits_module, "GROWTH_FLOOR_BYTES", MIB)
    path = tmp_path / name
    if name == "a.nii.gz":
        packed_volume(path, (1000, 1000, 2))
    elif name == "a.tif":
        tifffile.imwrite(path, np.zeros((1000, 1000), np.uint8), compression="zlib")
    else:
        Image.new("L", (1000, 1000)).save(path)
    decoded = []
    monkeypatch.setattr(Page, "shown", lambda page: decoded.append(page))
    monkeypatch.setattr(volumes.VolumeFile, "plane", lambda *given: decoded.append(given))
    (found,) = list(find([path], scratch=tmp_path / "scratch"))
    if isinstance(found, Failure):
        reason, message = found.reason, found.message
    else:
        with pytest.raises(ReadError) as caught:
            read(found)
        reason, message = caught.value.reason, str(caught.value)
    assert reason == "inflates"
    assert "500-fold" in message
    assert not decoded


def test_a_label_map_may_be_packed_as_well_as_it_can(tmp_path, monkeypatch):
    monkeypatch.setattr(limits_module, "GROWTH_FLOOR_BYTES", MIB)
    labels = packed_volume(tmp_path / "labels.nii.gz", (1000, 1000, 2))
    assert read_label_slice(labels.path, slice_index=1).shape == (1000, 1000)


def test_a_volume_beyond_the_limit_is_one_failure_that_names_the_option(tmp_path):
    file = packed_volume(tmp_path / "a.nii.gz", (64, 64, 5))
    for limits, reason, option in (
        (ReadLimits(scan_bytes=64 * 64 * 5 * 4 - 1), "too_large", "--max-scan-mb"),
        (ReadLimits(frames=4), "too_many_frames", "--max-frames"),
    ):
        (failure,) = find([file.path], scratch=tmp_path / "scratch", limits=limits)
        assert isinstance(failure, Failure)
        assert failure.reason == reason
        assert option in failure.message


@pytest.mark.parametrize(
    ("compression", "encode"), [(7, imagecodecs.jpeg8_encode), (34712, imagecodecs.jpeg2k_encode)]
)
def test_a_part_of_a_tiff_that_is_compressed_as_a_far_larger_picture_is_refused(
    tmp_path, compression, encode
):
    for side, fits in ((64, True), (640, False)):
        path = tmp_path / f"{side}.tif"
        part = bytes(encode(np.full((side, side), 9, np.uint8)))
        tifffile.imwrite(
            path,
            data=iter([part]),
            shape=(64, 64),
            dtype=np.uint8,
            compression=compression,
            rowsperstrip=64,
            photometric="minisblack",
        )
        ref = ScanRef("picture", (FileRef(path, path.name),))
        if fits:
            assert read(ref).pixels.shape == (1, 64, 64)
            continue
        with pytest.raises(ReadError, match=f"{side * side} pixels") as caught:
            read(ref)
        assert caught.value.reason == "too_large"
