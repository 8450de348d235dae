"""One body, stored in every arrangement: shown in one way, and measured in its own place."""

import functools
import itertools
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from wsseg.imaging import ScanRef, find, read, read_grid, read_slice, write_labels

RAS_TO_LPS = np.diag([-1.0, -1, 1, 1])
# A body of 6 x 5 x 4 voxels along the patient's left, back and head, none of its edges equal.
SHAPE, EDGES = (6, 5, 4), (0.5, 0.8, 3.0)
VOXELS = int(np.prod(SHAPE))
BODY = np.random.default_rng(0).permutation(VOXELS).reshape(SHAPE).astype(np.int16)
ORIGIN = np.array([-30.0, 12, 7.5])
ARRANGEMENTS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
PLANES = {0: "sagittal", 1: "coronal", 2: "axial"}
# By plane: the patient's axis and sense of shown columns and rows (left, back and head grow).
SHOWN = {"axial": ((0, 1), (1, 1)), "coronal": ((0, 1), (2, -1)), "sagittal": ((1, 1), (2, -1))}


def rotation(*angles):
    return nibabel.eulerangles.euler2mat(*angles)


AXES = {
    "upright": np.eye(3),
    "tilted": rotation(0.2, 0.1, 0.3),
    "tilted again": rotation(-0.3, 0.4, -0.2),
    "tilted far": rotation(0.1, -0.5, 0.35),
}


def arranged(order, signs, axes):
    """Voxels (column, row, slice), and the affine from their indices to LPS mm."""
    flips = tuple(slice(None, None, sign) for sign in signs)
    voxels = BODY.transpose(order)[flips]
    body = np.eye(4)
    body[:3, :3], body[:3, 3] = axes * EDGES, ORIGIN
    index = np.eye(4)
    index[:3, :3] = np.eye(3)[:, list(order)] * signs
    for place, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        index[axis, 3] = SHAPE[axis] - 1 if sign < 0 else 0
        assert voxels.shape[place] == SHAPE[axis]
    return voxels, body @ index


def as_nifti(folder, voxels, affine, _write_dicom):
    Nifti1Image(voxels, RAS_TO_LPS @ affine).to_filename(folder / "a.nii.gz")


def as_dicom(folder, voxels, affine, write_dicom):
    across, down, through = affine[:3, :3].T
    column_mm, row_mm = np.linalg.norm(across), np.linalg.norm(down)
    for k in range(voxels.shape[2]):
        write_dicom(
            folder / f"{k}.dcm",
            np.ascontiguousarray(voxels[:, :, k].T),
            Rows=voxels.shape[1],
            Columns=voxels.shape[0],
            PixelSpacing=[round(row_mm, 6), round(column_mm, 6)],
            ImageOrientationPatient=[*np.round(across / column_mm, 9), *np.round(down / row_mm, 9)],
            ImagePositionPatient=list(np.round(affine[:3, 3] + k * through, 6)),
        )


def as_enhanced(folder, voxels, affine, write_dicom):
    """One file whose frames lie in the order of the voxels."""
    across, down, through = affine[:3, :3].T
    column_mm, row_mm = np.linalg.norm(across), np.linalg.norm(down)
    cosines = [*np.round(across / column_mm, 9), *np.round(down / row_mm, 9)]
    frames = [
        item(
            PlanePositionSequence=[
                item(ImagePositionPatient=list(np.round(affine[:3, 3] + k * through, 6)))
            ]
        )
        for k in range(voxels.shape[2])
    ]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=cosines)],
        PixelMeasuresSequence=[item(PixelSpacing=[round(row_mm, 6), round(column_mm, 6)])],
    )
    write_dicom(
        folder / "a.dcm",
        np.ascontiguousarray(voxels.transpose(2, 1, 0)),
        Rows=voxels.shape[1],
        Columns=voxels.shape[0],
        NumberOfFrames=voxels.shape[2],
        SOPClassUID=EnhancedMRImageStorage,
        Modality="MR",
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
        **dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")),
    )


def item(**elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


STORED_AS = {"nifti": as_nifti, "dicom": as_dicom, "enhanced": as_enhanced}


@pytest.fixture(scope="module")
def stored(tmp_path_factory, write_dicom):
    """A function that stores the body in every arrangement and reads it; each kind is made once.

    Of each it gives the order of the axes, the voxels, and the scan.
    """

    @functools.cache
    def scans(kind: str, axes: str) -> list[tuple[Any, Any, Any]]:
        made = []
        for order, signs in ARRANGEMENTS:
            folder = tmp_path_factory.mktemp("body")
            voxels, affine = arranged(order, signs, AXES[axes])
            STORED_AS[kind](folder, voxels, affine, write_dicom)
            (ref,) = find([folder], scratch=folder / "scratch")
            assert isinstance(ref, ScanRef)
            made.append((order, voxels, read(ref)))
        return made

    return scans


def place(affine, index):
    return (affine @ [*index, 1])[:3]


@pytest.mark.parametrize("kind", STORED_AS)
@pytest.mark.parametrize(
    "axes",
    [pytest.param(name, marks=() if name == "upright" else pytest.mark.slow) for name in AXES],
)
def test_a_body_is_shown_in_one_way_however_it_is_stored(stored, kind, axes):
    shown: dict[str, list[Any]] = {}
    for order, _, scan in stored(kind, axes):
        assert scan.plane == PLANES[order[2]]
        shown.setdefault(scan.plane, []).append(scan)
        first = shown[scan.plane][0]
        # Slices keep the order of the file, and their places rise or fall with it.
        along = np.sign(np.diff(scan.geometry.positions_mm))
        assert len(set(along)) == 1
        same = slice(None, None, int(along[0] * np.sign(np.diff(first.geometry.positions_mm))[0]))
        assert np.array_equal(scan.pixels[same], first.pixels)
        assert scan.geometry.pixel_mm == pytest.approx(first.geometry.pixel_mm)
        np.testing.assert_allclose(
            scan.geometry.positions_mm[same], first.geometry.positions_mm, atol=1e-4
        )
    assert {name: len(scans) for name, scans in shown.items()} == dict.fromkeys(SHOWN, 16)
    for name, scans in shown.items():
        for axis, (body_axis, sign) in enumerate(SHOWN[name]):
            direction = scans[0].geometry.affine[:3, axis]
            assert np.dot(direction, AXES[axes][:, body_axis] * sign) == pytest.approx(
                EDGES[body_axis]
            )


@pytest.mark.parametrize("kind", STORED_AS)
@pytest.mark.parametrize("axes", ["upright", pytest.param("tilted far", marks=pytest.mark.slow)])
def test_shown_pixels_and_written_labels_lie_where_the_body_does(tmp_path, stored, kind, axes):
    bright = BODY >= 100
    middle = np.argwhere(bright).mean(0)
    body = np.eye(4)
    body[:3, :3], body[:3, 3] = AXES[axes] * EDGES, ORIGIN
    for number, (_, voxels, scan) in enumerate(stored(kind, axes)):
        inside = scan.pixels >= 100
        k, row, column = np.argwhere(inside).mean(0)
        np.testing.assert_allclose(
            place(scan.geometry.affine, (column, row, k)), place(body, middle), atol=1e-3
        )
        path = write_labels(scan, inside.astype(np.uint8), tmp_path / f"{number}-masks")
        written: Any = nibabel.load(path)
        labels = np.asarray(written.dataobj)
        centroid = place(RAS_TO_LPS @ written.affine, np.argwhere(labels).mean(0))
        np.testing.assert_allclose(centroid, place(body, middle), atol=1e-3)
        # On the source's own grid: rows and columns as stored, slices in the scan's order.
        assert labels.shape == voxels.shape
        assert np.array_equal(labels, voxels >= 100) or np.array_equal(
            labels, voxels[:, :, ::-1] >= 100
        )
        if kind == "nifti":
            assert np.array_equal(labels, voxels >= 100)
        if kind != "dicom":
            check_single_slices(scan.ref.files[0].path, scan)


def check_single_slices(path, scan):
    """Training reads slices one by one, and sees what serving does."""
    grid: Any = read_grid(path)
    assert (grid.slices, grid.plane) == (len(scan.pixels), scan.plane)
    np.testing.assert_allclose(grid.geometry.affine, scan.geometry.affine)
    for index, plane in enumerate(scan.pixels):
        assert grid.shape == plane.shape
        assert np.array_equal(read_slice(path, slice_index=index), plane)


@pytest.mark.parametrize("digits", [3, 4, 9])
def test_a_plane_at_45_degrees_is_shown_in_one_way_however_its_cosines_are_rounded(
    tmp_path, write_dicom, digits
):
    half = round(2**-0.5, digits)
    pixels = np.arange(12, dtype=np.int16).reshape(3, 4)
    cosines = {
        # Between axial and coronal, and turned by 45 degrees within the axial plane.
        "axial": [([1, 0, 0], [0, half, -half]), ([-1, 0, 0], [0, -half, half])],
        "axial, turned": [([half, half, 0], [-half, half, 0])],
    }
    for name, ways in cosines.items():
        for number, (across, down) in enumerate(ways):
            stored = pixels[::-1, ::-1] if number else pixels
            path = write_dicom(
                tmp_path / f"{name}-{number}.dcm",
                np.ascontiguousarray(stored),
                Rows=3,
                Columns=4,
                ImageOrientationPatient=[*across, *down],
            )
            (ref,) = find([path], scratch=tmp_path / "scratch")
            assert isinstance(ref, ScanRef)
            scan = read(ref)
            assert scan.plane == "axial"
            assert np.array_equal(scan.pixels[0], pixels)


def test_images_that_do_not_say_how_they_lie_are_shown_as_stored(tmp_path, write_dicom):
    pixels = np.arange(12, dtype=np.int16).reshape(3, 4)
    size = {"Rows": 3, "Columns": 4}
    for number, orientation in enumerate([None, [0.0] * 6, [1.0, 0, 0]]):
        path = write_dicom(
            tmp_path / f"{number}.dcm", pixels, **size, ImageOrientationPatient=orientation
        )
        (ref,) = find([path], scratch=tmp_path / "scratch")
        assert isinstance(ref, ScanRef)
        scan = read(ref)
        assert scan.plane == ""
        assert np.array_equal(scan.pixels[0], pixels)
