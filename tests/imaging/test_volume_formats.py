"""NRRD, MetaImage, FreeSurfer and Analyze volumes are read as the same volume in NIfTI is."""

import gzip
import itertools
import zipfile
import zlib
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
from nibabel.freesurfer.mghformat import MGHImage
from nibabel.nifti1 import Nifti1Image
from nibabel.spm99analyze import Spm99AnalyzeImage

from wsseg.imaging import (
    Failure,
    ReadError,
    Scan,
    ScanRef,
    find,
    label_grid_difference,
    read,
    read_label_slice,
    read_labels_for,
    read_slice,
    slice_count,
    slice_shape,
    write_labels,
)
from wsseg.imaging.reading import grid_difference, stored_as

VOXELS = np.arange(60, dtype=np.int16).reshape(4, 5, 3)
LENGTHS = np.diag([0.5, 0.8, 3.0])
RAS_TO_LPS = np.diag([-1.0, -1, 1, 1])
ARRANGEMENTS = [
    np.eye(3)[:, list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in ((1, 1, 1), (-1, 1, -1), (-1, -1, 1))
]
OBLIQUE = nibabel.eulerangles.euler2mat(0.2, 0.1, 0.3)
PLACED = ("a.nrrd", "packed.nrrd", "a.nhdr", "a.mha", "packed.mha", "a.mhd", "a.mgh", "a.mgz")


def affine_of(directions):
    affine = np.eye(4)
    affine[:3, :3] = directions @ LENGTHS
    affine[:3, 3] = (-30.0, 12.0, 7.5)
    return affine


AFFINE = affine_of(OBLIQUE)


def write(path, voxels=VOXELS, affine=AFFINE):
    if path.suffix in (".mgh", ".mgz"):
        MGHImage(np.asarray(voxels), affine).to_filename(path)
    elif path.suffix in (".nrrd", ".nhdr"):
        write_nrrd(path, voxels, affine)
    else:
        write_meta_image(path, voxels, affine)
    return path


def write_nrrd(path, voxels, affine, **fields):
    lps = RAS_TO_LPS @ affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "encoding": "gzip" if "packed" in path.name else "raw",
    }
    nrrd.write(str(path), np.asarray(voxels), header | fields)


def write_meta_image(path, voxels, affine, **fields):
    """As the format's documentation has it: LPS mm, the directions of the axes in the rows."""
    lps = RAS_TO_LPS @ affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    content = np.asarray(voxels).tobytes(order="F")
    packed = "packed" in path.name
    outside = path.with_suffix(".zraw" if packed else ".raw") if path.suffix == ".mhd" else None
    lines = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": packed,
        "TransformMatrix": " ".join(map(str, (lps[:3, :3] / lengths).T.ravel())),
        "Offset": " ".join(map(str, lps[:3, 3])),
        "ElementSpacing": " ".join(map(str, lengths)),
        "DimSize": "4 5 3",
        "ElementType": {"i2": "MET_SHORT", "u1": "MET_UCHAR"}[voxels.dtype.str[1:]],
    }
    lines |= fields | {"ElementDataFile": outside.name if outside else "LOCAL"}
    header = "".join(f"{name} = {value}\n" for name, value in lines.items())
    content = zlib.compress(content) if packed else content
    path.write_bytes(header.encode() + (b"" if outside else content))
    if outside:
        outside.write_bytes(content)
    return path


def search(*paths):
    found = list(find(paths, scratch=paths[0].parent / "scratch"))
    scans = [read(ref) for ref in found if isinstance(ref, ScanRef)]
    return scans, [failure for failure in found if isinstance(failure, Failure)]


def only(path) -> Scan:
    scans, failures = search(path)
    assert failures == []
    assert len(scans) == 1
    scan: Scan = scans[0]
    return scan


def reason(path):
    scans, (failure,) = search(path)
    assert scans == []
    assert failure.source in failure.message
    return failure.reason, failure.status


def in_nifti(folder, voxels=VOXELS, affine=AFFINE):
    Nifti1Image(voxels, affine).to_filename(folder / "same.nii")
    return only(folder / "same.nii")


@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("directions", [*ARRANGEMENTS[::5], OBLIQUE])
def test_a_volume_is_the_same_in_every_format(tmp_path, name, directions):
    affine = affine_of(directions)
    scan, same = only(write(tmp_path / name, affine=affine)), in_nifti(tmp_path, affine=affine)
    assert np.array_equal(scan.pixels, same.pixels)
    assert scan.geometry.affine is not None
    assert same.geometry.affine is not None
    np.testing.assert_allclose(scan.geometry.affine, same.geometry.affine, atol=1e-5)
    assert scan.geometry.pixel_mm == pytest.approx(same.geometry.pixel_mm)
    assert scan.flags == ()


@pytest.mark.parametrize("name", PLACED)
def test_training_reads_the_same_slices(tmp_path, name):
    path = write(tmp_path / name)
    scan = only(path)
    assert slice_count(path) == len(scan.pixels) == 3
    for index, plane in enumerate(scan.pixels):
        assert np.array_equal(read_slice(path, slice_index=index), plane)
        assert slice_shape(path, slice_index=index) == plane.shape


@pytest.mark.parametrize("name", PLACED)
def test_labels_in_any_format_fit_an_image_in_another(tmp_path, name):
    image = tmp_path / "image.nii.gz"
    Nifti1Image(VOXELS, AFFINE).to_filename(image)
    flipped = AFFINE @ np.array([[0, -1, 0, 3], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    if name.endswith((".mgh", ".mgz", ".nrrd", ".nhdr")):
        labels = write(tmp_path / name, VOXELS.astype(np.uint8).swapaxes(0, 1)[:, ::-1], flipped)
    else:
        labels = write(tmp_path / name, VOXELS.astype(np.uint8))
    assert grid_difference(image, labels) == ""
    for index in range(3):
        found = read_label_slice(labels, slice_index=index)
        assert np.array_equal(found, read_slice(image, slice_index=index))


@pytest.mark.parametrize("name", PLACED)
def test_a_label_map_lies_on_the_voxels_of_its_source(tmp_path, name):
    scan = only(write(tmp_path / name))
    written: Any = nibabel.load(
        write_labels(scan, np.asarray(scan.pixels, np.uint8), tmp_path / "out")
    )
    assert np.array_equal(np.asarray(written.dataobj), VOXELS)
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-5)
    assert scan.ref.files[0].source in Path(written.get_filename()).name


@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd"])
def test_voxels_in_another_file_are_part_of_their_header(tmp_path, name):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / name)
    (beside,) = (path for path in (tmp_path / "in").iterdir() if path.name != name)
    for named in (tmp_path / "in", beside, tmp_path / "in" / name):
        assert np.array_equal(only(named).pixels, in_nifti(tmp_path).pixels)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in (tmp_path / "in").iterdir():
            archive.write(path, path.name)
    assert np.array_equal(only(tmp_path / "in.zip").pixels, in_nifti(tmp_path).pixels)
    beside.unlink()
    assert reason(tmp_path / "in") == ("no_data_file", "failed")


@pytest.mark.parametrize("elsewhere", ["/etc/passwd", "../secret.raw", "pipe", "a.mhd"])
def test_a_header_makes_no_other_file_be_read(tmp_path, elsewhere):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
    path = write(tmp_path / "in" / "a.mhd")
    path.with_suffix(".raw").unlink()
    path.write_text(path.read_text().replace("a.raw", elsewhere))
    assert reason(path) == ("no_data_file", "failed")


def test_volumes_packed_as_a_whole_are_unpacked(tmp_path):
    for name in ("a.nrrd", "a.mha"):
        packed = tmp_path / f"{name}.gz"
        packed.write_bytes(gzip.compress(write(tmp_path / name).read_bytes()))
        assert np.array_equal(only(packed).pixels, in_nifti(tmp_path).pixels)


def test_further_axes_are_time_or_colour_and_never_both_or_vectors(tmp_path):
    four = np.stack([VOXELS, VOXELS + 100], axis=-1)
    same = in_nifti(tmp_path)
    MGHImage(four, AFFINE).to_filename(tmp_path / "a.mgz")
    write_meta_image(
        *(tmp_path / "a.mha", four, AFFINE),
        NDims=4,
        DimSize="4 5 3 2",
        Offset="0 0 0 0",
        ElementSpacing="1 1 1 1",
        TransformMatrix=" ".join(map(str, np.eye(4).ravel())),
    )
    directions = (RAS_TO_LPS @ AFFINE)[:3, :3].T
    none = [[np.nan] * 3]
    for name, order in (("last.nrrd", (0, 1, 2, 3)), ("first.nrrd", (3, 0, 1, 2))):
        rows = np.vstack([directions, none])[list(order)]
        kinds = np.array(["domain"] * 3 + ["list"])[list(order)].tolist()
        voxels = four.transpose(order)
        write_nrrd(tmp_path / name, voxels, AFFINE, **{"space directions": rows, "kinds": kinds})
    for name in ("a.mgz", "last.nrrd", "first.nrrd"):
        scans, _ = search(tmp_path / name)
        assert [scan.ref.volume for scan in scans] == [0, 1]
        assert np.array_equal(scans[1].pixels, same.pixels + 100)
    assert len(search(tmp_path / "a.mha")[0]) == 2
    colours = np.random.default_rng(0).integers(0, 255, (3, 4, 5, 3)).astype(np.uint8)
    rows = np.vstack([none, directions])
    for kind, dtype in (("RGB-color", np.uint8), ("vector", np.float32)):
        write_nrrd(
            *(tmp_path / f"{kind}.nrrd", colours.astype(dtype), AFFINE),
            **{"space directions": rows, "kinds": [kind, "domain", "domain", "domain"]},
        )
    scan = only(tmp_path / "RGB-color.nrrd")
    grey = in_nifti(tmp_path, colours[1])
    assert np.array_equal(np.asarray(scan.pixels)[..., 1], grey.pixels)
    assert reason(tmp_path / "vector.nrrd") == ("vectors", "failed")


def test_a_segmentation_of_slicer_is_a_label_map_and_no_scan(tmp_path):
    labels = VOXELS.astype(np.uint8)
    path = tmp_path / "a.seg.nrrd"
    write_nrrd(path, labels, AFFINE, Segment0_ID="Segment_1", Segment0_LabelValue="1")
    assert reason(path) == ("label_map", "skipped")
    found = read_label_slice(path, slice_index=1)
    assert np.array_equal(found, in_nifti(tmp_path, labels).pixels[1])


def test_overlapping_segments_are_refused_and_not_lost(tmp_path):
    layers = np.stack([VOXELS.astype(np.uint8)] * 2)
    rows = np.vstack([[[np.nan] * 3], (RAS_TO_LPS @ AFFINE)[:3, :3].T])
    write_nrrd(
        *(tmp_path / "a.seg.nrrd", layers, AFFINE),
        **{"space directions": rows, "kinds": ["list", "domain", "domain", "domain"]},
        Segment0_ID="1",
        Segment1_ID="2",
        Segment1_Layer="1",
    )
    assert reason(tmp_path / "a.seg.nrrd") == ("label_map", "skipped")
    with pytest.raises(ReadError, match="overlap"):
        read_label_slice(tmp_path / "a.seg.nrrd", slice_index=1)


def test_a_nrrd_mask_is_put_on_the_slice_of_a_nifti_image_by_its_place(tmp_path):
    image = tmp_path / "image.nii"
    Nifti1Image(VOXELS, AFFINE).to_filename(image)
    turned = AFFINE @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    mask = write(tmp_path / "a.nrrd", VOXELS.astype(np.uint8).transpose(1, 2, 0), turned)
    for index in range(3):
        found = read_labels_for(image, mask, slice_index=index)
        assert np.array_equal(found, read_slice(image, slice_index=index))


def test_labels_with_a_volume_for_each_class_are_refused_and_not_read_as_the_first(tmp_path):
    image, mask = tmp_path / "image.nii", tmp_path / "mask.nii"
    Nifti1Image(VOXELS, AFFINE).to_filename(image)
    Nifti1Image(np.stack([VOXELS > 9, VOXELS > 30], -1).astype(np.uint8), AFFINE).to_filename(mask)
    assert "2 volumes and the image 1" in label_grid_difference(image, mask, slice_index=1)
    with pytest.raises(ReadError, match="one label map of class numbers"):
        read_labels_for(image, mask, slice_index=1)
    Nifti1Image(np.stack([VOXELS, VOXELS + 1], -1), AFFINE).to_filename(image)
    assert label_grid_difference(image, mask, slice_index=1) == ""
    found = read_labels_for(image, mask, slice_index=1, volume=1)
    assert np.array_equal(found, read_slice(image, slice_index=1) > 30)


def test_analyze_has_lengths_and_no_directions(tmp_path):
    image = Spm99AnalyzeImage(VOXELS, np.diag([0.5, 0.8, 3, 1]))
    image.to_filename(tmp_path / "a.img")
    (tmp_path / "a.mat").unlink(missing_ok=True)
    scan = only(tmp_path)
    assert np.array_equal(scan.pixels, VOXELS.transpose(2, 1, 0))
    assert scan.flags == ("NO_ORIENTATION",)
    assert scan.geometry.pixel_mm == pytest.approx((0.8, 0.5))
    assert np.array_equal(read_slice(tmp_path / "a.hdr", slice_index=2), scan.pixels[2])
    assert np.array_equal(read_slice(tmp_path / "a.img", slice_index=2), scan.pixels[2])


def test_what_a_header_does_not_say_is_not_made_up(tmp_path):
    nrrd.write(str(tmp_path / "bare.nrrd"), VOXELS)
    scan = only(tmp_path / "bare.nrrd")
    assert scan.flags == ("NO_ORIENTATION", "PX_ONLY")
    assert np.array_equal(scan.pixels, VOXELS.transpose(2, 1, 0))
    image = MGHImage(VOXELS, AFFINE)
    image.to_filename(tmp_path / "a.mgh")
    content = bytearray((tmp_path / "a.mgh").read_bytes())
    content[28:30] = bytes(2)
    (tmp_path / "a.mgh").write_bytes(content)
    assert only(tmp_path / "a.mgh").flags == ("NO_ORIENTATION", "PX_ONLY")


def test_lengths_in_other_units_become_millimetres(tmp_path):
    affine = np.diag([0.05, 0.08, 0.3, 1])
    write_nrrd(tmp_path / "a.nrrd", VOXELS, affine, **{"space units": ["cm", "cm", "cm"]})
    assert only(tmp_path / "a.nrrd").geometry.pixel_mm == pytest.approx((0.8, 0.5))


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_both_byte_orders_are_read(tmp_path, byte_order):
    voxels = VOXELS.astype(f"{byte_order}i2")
    write_nrrd(tmp_path / "a.nrrd", voxels, AFFINE)
    write_meta_image(tmp_path / "a.mha", voxels, AFFINE, BinaryDataByteOrderMSB=byte_order == ">")
    for name in ("a.nrrd", "a.mha"):
        assert np.array_equal(only(tmp_path / name).pixels, in_nifti(tmp_path).pixels)


@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("part", [0.02, 0.4, 0.8])
def test_a_volume_that_was_cut_is_one_clear_error(tmp_path, name, part):
    path = write(tmp_path / name, np.random.default_rng(0).integers(0, 9, (4, 5, 3)).astype("i2"))
    victim = next((p for p in tmp_path.iterdir() if ".raw" in p.name), path)
    victim.write_bytes(victim.read_bytes()[: int(victim.stat().st_size * part)])
    with pytest.raises(ReadError):
        read_slice(path, slice_index=2)


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("a.nrrd", b"sizes: 4 5 3", b"sizes: 4 5", "broken_header"),
        ("a.nrrd", b"sizes: 4 5 3", b"sizes: 9999 9999 9999", "truncated"),
        ("a.nrrd", b"sizes: 4 5 3", b"sizes: 99 99 99", "truncated"),
        ("a.nrrd", b"type: int16", b"type: block", "broken_header"),
        ("a.nrrd", b"encoding: raw", b"encoding: hex", "unsupported_format"),
        ("a.nrrd", b"endian: little\nencoding: raw", b"encoding: text", "unsupported_format"),
        ("a.nrrd", b"endian: little", b"endian: both", "broken_header"),
        ("packed.nrrd", b"sizes: 4 5 3", b"sizes: 999 999 999", "truncated"),
        ("a.mha", b"DimSize = 4 5 3", b"DimSize = 4 5", "broken_header"),
        ("a.mha", b"DimSize = 4 5 3", b"DimSize = 99 99 99", "truncated"),
        ("a.mha", b"MET_SHORT", b"MET_OTHER", "broken_header"),
        ("a.mha", b"ElementDataFile = LOCAL", b"ElementDataFile = LIST", "unsupported_format"),
        ("a.mha", b"BinaryData = True", b"BinaryData = False", "unsupported_format"),
    ],
)
def test_headers_that_cannot_be_true_or_read_are_told(tmp_path, name, old, new, expected):
    path = write(tmp_path / name)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    assert reason(path) == (expected, "failed")


def test_a_rescaled_meta_image_is_refused_because_readers_disagree(tmp_path):
    write_meta_image(*(tmp_path / "a.mha", VOXELS, AFFINE), ElementToIntensityFunctionSlope="2 ")
    assert reason(tmp_path / "a.mha") == ("unsupported_format", "failed")


def test_reading_slices_in_order_inflates_once(tmp_path, monkeypatch):
    starts = []
    plain = zlib.decompressobj

    def counted(*arguments):
        starts.append(arguments)
        return plain(*arguments)

    voxels = np.random.default_rng(0).integers(0, 99, (64, 64, 20)).astype(np.int16)
    path = write_meta_image(tmp_path / "packed.mha", voxels, AFFINE, DimSize="64 64 20")
    monkeypatch.setattr(zlib, "decompressobj", counted)
    planes = [read_slice(path, slice_index=index) for index in range(20)]
    assert len(starts) == 1
    again = read_slice(path, slice_index=0)  # going back begins again, and finds the same
    assert np.array_equal(again, planes[0])
    assert np.array_equal(planes, in_nifti(tmp_path, voxels).pixels)


@pytest.mark.parametrize("name", PLACED)
def test_how_values_are_stored_is_told_alike_of_every_format(tmp_path, name):
    path = write(tmp_path / name)
    assert stored_as(path) == "int16, slope 1, intercept 0"
    assert stored_as(write(path, VOXELS.astype(np.uint8))) == "uint8, slope 1, intercept 0"
