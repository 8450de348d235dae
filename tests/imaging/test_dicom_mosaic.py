"""Siemens mosaics: many slices in one picture."""

import struct

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian, MRImageStorage, SecondaryCaptureImageStorage

from wsseg.imaging import (
    Failure,
    ReadError,
    ScanRef,
    find,
    read,
    read_slice,
    slice_count,
    slice_shape,
)

TILE = (6, 8)
TYPE = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]


def csa(**values):
    """A private header as scanners write it, its values as text."""
    header = b"SV10\4\3\2\1" + struct.pack("<2I", len(values), 77)
    for name, items in values.items():
        texts = [f"{item}".encode() + b"\0" for item in items]
        header += struct.pack("<64si4s3i", name.encode(), len(texts), b"DS", 3, len(texts), 77)
        for text in texts:
            padding = bytes(-len(text) % 4)
            header += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + padding
    return header


def tiles(count, side):
    """A picture whose tile k has the value k + 1, unused tiles 0."""
    used = np.arange(1, side**2 + 1) * (np.arange(side**2) < count)
    return np.kron(used.reshape(side, side), np.ones(TILE)).astype(np.int16)


@pytest.fixture
def mosaic(tmp_path, write_dicom):
    """Writes a mosaic of `count` slices; private elements by tag, in blocks of their creators."""

    def write(count=7, side=3, *, name="m", private=(), **elements):
        pixels = elements.pop("pixels", tiles(count, side))
        path = write_dicom(
            tmp_path / name,
            pixels,
            **{
                "SOPClassUID": MRImageStorage,
                "Modality": "MR",
                "ImageType": TYPE,
                "Rows": pixels.shape[0],
                "Columns": pixels.shape[1],
                "PixelSpacing": [3.0, 2.0],
                "SpacingBetweenSlices": 4.0,
                "SliceThickness": 3.5,
                "RescaleSlope": None,
                "RescaleIntercept": None,
                # The corner of the whole mosaic, laid around the middle of the first slice.
                "ImagePositionPatient": [-2.0 * 8 * side / 2, -3.0 * 6 * side / 2, 10.0],
            }
            | elements,
        )
        dataset = dcmread(path)
        for group, creator, element, vr, value in private:
            dataset.private_block(group, creator, create=True).add_new(element, vr, value)
        dataset.save_as(path)
        return path

    return write


COUNT = (0x19, "SIEMENS MR HEADER", 0x0A)
HEADER = (0x29, "SIEMENS CSA HEADER", 0x10)


def numbered(count):
    return [(*COUNT, "US", count)]


def described(count, normal=(0, 0, 1)):
    return [(*HEADER, "OB", csa(NumberOfImagesInMosaic=[count], SliceNormalVector=normal))]


def scans_in(path):
    found = list(find([path], scratch=path.parent / ".scratch"))
    assert not any(isinstance(one, Failure) for one in found)
    return [read(one) for one in found if isinstance(one, ScanRef)]


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
@pytest.mark.parametrize("private", [numbered(7), described(7), numbered(7) + described(7)])
def test_a_mosaic_is_divided_into_slices_at_their_positions(mosaic, private, syntax):
    chosen = {} if syntax is None else {"syntax": syntax}
    (scan,) = scans_in(mosaic(7, private=private, **chosen))
    assert scan.pixels.shape == (7, *TILE)
    assert [np.unique(plane).tolist() for plane in scan.pixels] == [[k] for k in range(1, 8)]
    assert [found.frame for found in scan.slices] == list(range(1, 8))
    assert scan.flags == ()
    assert scan.geometry.pixel_mm == (3.0, 2.0)
    np.testing.assert_allclose(np.diff(scan.geometry.positions_mm), 4.0)
    # A slice alone is 8 columns of 2 mm and 6 rows of 3 mm around the same middle.
    np.testing.assert_allclose(scan.geometry.affine @ [0, 0, 0, 1], [-8, -9, 10, 1])
    np.testing.assert_allclose(scan.geometry.affine @ [1, 1, 6, 1], [-6, -6, 34, 1])


def test_tiles_against_the_normal_come_in_slice_order(mosaic):
    (scan,) = scans_in(mosaic(4, side=2, private=described(4, normal=(0, 0, -1))))
    assert scan.pixels[:, 0, 0].tolist() == [4, 3, 2, 1]
    np.testing.assert_allclose(scan.geometry.positions_mm, [-2, 2, 6, 10])


REFUSED = {
    "no number": ({}, "no longer says"),
    "two numbers": ({"private": numbered(6) + described(7)}, "two numbers"),
    "no grid": ({"private": numbered(10)}, "do not fit"),
    "more tiles": ({"private": numbered(5)}, "beyond"),
    "no such number": ({"private": numbered(0)}, "no longer says"),
    "another vendor's": (
        {"ImageType": TYPE[:3], "private": [(0x65, "Image Private Header", 0x50, "DS", 7)]},
        "not read",
    ),
    "damaged header": ({"private": [(*HEADER, "OB", b"SV10\4\3\2\1" + bytes(40))]}, "no longer"),
}


@pytest.mark.parametrize(("written", "words"), REFUSED.values(), ids=REFUSED)
def test_a_mosaic_that_cannot_be_divided_with_certainty_is_refused_by_name(mosaic, written, words):
    path = mosaic(7, **written)
    (found,) = find([path], scratch=path.parent / ".scratch")
    if isinstance(found, ScanRef):  # only the pixels tell
        with pytest.raises(ReadError) as caught:
            read(found)
        reason, message = caught.value.reason, str(caught.value)
    else:
        assert found.status == "failed"
        reason, message = found.reason, found.message
    assert reason == "mosaic"
    assert "mosaic" in message
    assert words in message


def test_a_mosaic_without_a_spacing_has_areas_and_no_volume(mosaic):
    (scan,) = scans_in(mosaic(7, private=numbered(7), SpacingBetweenSlices=None))
    assert scan.pixels.shape == (7, *TILE)
    assert scan.geometry.positions_mm is None
    assert scan.flags == ("NO_POSITION",)


def test_each_mosaic_of_a_series_is_a_scan_of_its_own(mosaic, tmp_path):
    for k in range(3):
        mosaic(7, name=f"m{k}", private=numbered(7), AcquisitionNumber=k + 1, InstanceNumber=k + 1)
    scans = scans_in(tmp_path)
    assert [len(scan.slices) for scan in scans] == [7] * 3
    assert [scan.flags for scan in scans] == [("SPLIT",)] * 3


def test_training_counts_the_slices_of_a_mosaic(mosaic):
    path = mosaic(4, side=2, private=described(4, normal=(0, 0, -1)))
    assert (slice_count(path), slice_shape(path)) == (4, TILE)
    assert np.unique(read_slice(path, slice_index=3)).tolist() == [1]


def test_a_stitched_photograph_is_no_mosaic_of_slices(mosaic):
    (scan,) = scans_in(mosaic(7, SOPClassUID=SecondaryCaptureImageStorage, Modality="OP"))
    assert scan.pixels.shape == (1, 18, 24)
