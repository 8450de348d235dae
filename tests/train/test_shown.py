"""A table counts rows and columns of a DICOM image as stored; the network sees it as shown."""

import csv
import itertools
import json
from dataclasses import replace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Image
from PIL import Image

from tests.cli.conftest import call
from tests.imaging.conftest import write_dicom
from wsseg.imaging import (
    Reorientation,
    ScanRef,
    TableError,
    Window,
    find,
    read,
    read_slice,
    write_labels,
)
from wsseg.train.cases import case_marks, case_mask, read_cases
from wsseg.train.data.dataset import CaseDataset
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.simulate import MarkOptions, simulate_marks

__all__ = ["write_dicom"]

LEFT, BACK = np.array([1, 0, 0]), np.array([0, 1, 0])
TURNS = [Reorientation(*ways) for ways in itertools.product((False, True), repeat=3)]
SHAPE = (24, 20)
ROWS, COLUMNS = np.indices(SHAPE)
MASK = ((np.abs(ROWS - 7) <= 4) & (np.abs(COLUMNS - 13) <= 2)).astype(np.uint8)
MASK[3:6, 8:12] = 1
PIXELS = (100 * MASK + ROWS * 3 + COLUMNS).astype(np.int16)
CORNER = np.array([-30.0, 12.0, 0.0])


def write(folder, turn, write_dicom, name="a.dcm", height=0.0):
    """An axial slice that the turn shows as PIXELS, and its mask as a picture of the same rows."""
    stored = np.ascontiguousarray(turn.undo(PIXELS))
    columns_sense, rows_sense = (-1 if f else 1 for f in (turn.flip_columns, turn.flip_rows))
    across, down = columns_sense * LEFT, rows_sense * BACK
    if turn.transpose:
        across, down = down, across
    column_mm, row_mm = (0.8, 0.5) if turn.transpose else (0.5, 0.8)
    # Of a body whose first shown pixel is fixed, the pixel that the turn stores first.
    first = CORNER + 0.5 * 19 * LEFT * turn.flip_columns + 0.8 * 23 * BACK * turn.flip_rows
    write_dicom(
        folder / name,
        stored,
        Rows=stored.shape[0],
        Columns=stored.shape[1],
        PixelSpacing=[row_mm, column_mm],
        ImageOrientationPatient=[float(x) for x in (*across, *down)],
        ImagePositionPatient=[*map(float, first[:2]), height],
    )
    mask = np.ascontiguousarray(turn.undo(MASK))
    Image.fromarray(mask).save(folder / "mask.png")
    return mask


def described(mask):
    """What a reader would write of a mask, from its own rows and columns."""
    places = np.argwhere(mask)
    (top, left), (bottom, right) = places.min(0), places.max(0) + 1
    ends = [
        places[places[:, axis].argsort(kind="stable")[end]] for axis in (0, 1) for end in (0, -1)
    ]
    return {
        "box": [int(top), int(left), int(bottom), int(right)],
        "extremes": [[int(x) for x in end] for end in ends],
        "centroid": [float(x) for x in places.mean(0)],
        "spread": [float(x) for x in places.std(0)],
        "points": [[*(int(x) for x in places[3]), 1]],
    }


def table(folder, cells):
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", *cells])
        writer.writeheader()
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in cells.items()}
        writer.writerow({"image": "a.dcm", **texts})
    return folder / "cases.csv"


def mask_of(case, classes=1) -> Any:
    return case_mask(case, classes)


@pytest.mark.parametrize("turn", TURNS)
def test_places_of_a_dicom_image_are_those_of_its_stored_pixels(tmp_path, write_dicom, turn):
    mask = write(tmp_path, turn, write_dicom)
    path = table(tmp_path, described(mask) | {"mask": "mask.png", "marks": "mask.png"})
    # The mask is compared with all of them, so that a place that is counted otherwise is a fault.
    (case,) = read_cases(path).cases
    assert np.array_equal(read_slice(case.image), PIXELS)
    assert np.array_equal(mask_of(case), MASK)
    upright = described(MASK)
    (region,) = case.regions
    assert list(region.box or ()) == upright["box"]
    assert len(region.extremes) == 4
    assert all(MASK[pixel] for pixel in region.extremes)
    assert region.centroid == pytest.approx(upright["centroid"])
    assert region.spread == pytest.approx(upright["spread"])
    assert all(MASK[row, column] for row, column, _ in case.points)
    marks = case_marks(replace(case, marks=None))
    assert marks is not None
    assert (marks[MASK == 0] == 0).all()


def test_a_fault_names_places_as_the_table_counts_them(tmp_path, write_dicom):
    turn = Reorientation(True, False, True)
    mask = write(tmp_path, turn, write_dicom)
    assert mask.shape == (20, 24)
    told = described(mask)
    with pytest.raises(TableError, match=r"\[22, 3\] lies outside the image of 20 rows and 24 col"):
        read_cases(table(tmp_path, {"points": [[22, 3]]}))
    wrong = [0, 0, 3, 3]
    with pytest.raises(TableError) as caught:
        read_cases(table(tmp_path, {"mask": "mask.png", "box": wrong}))
    assert str(told["box"]) in str(caught.value)


@pytest.mark.parametrize("turn", TURNS)
def test_a_label_map_of_a_series_is_put_on_each_of_its_slices_by_place(tmp_path, write_dicom, turn):
    slices = tmp_path / "series"
    slices.mkdir()
    for number in range(3):
        write(slices, turn, write_dicom, f"{number}.dcm", height=3.0 * number)
    (slices / "mask.png").unlink()
    (ref,) = find([slices], scratch=tmp_path / "scratch")
    assert isinstance(ref, ScanRef)
    scan = read(ref)
    labels = np.stack([MASK * (place + 1) for place in range(3)]).astype(np.uint8)
    written = write_labels(scan, labels, tmp_path)
    order = [file.path for file in ref.files]
    for place, image in enumerate(order):
        path = tmp_path / "cases.csv"
        path.write_text(
            f"image,mask,ratio:a,ratio:b,ratio:c\nseries/{image.name},{written.name},,,\n"
        )
        (case,) = read_cases(path).cases
        assert np.array_equal(mask_of(case, 3), MASK * (place + 1))


def test_a_mask_of_another_arrangement_or_cut_out_is_put_on_the_image_by_place(
    tmp_path, write_dicom
):
    write(tmp_path, Reorientation(True, True, False), write_dicom)
    # A volume of sagittal slices, wider than the image: its voxels are the image's pixels.
    volume = np.zeros((26, 30, 4), np.uint8)
    volume[2:22, 3:27, 2] = MASK.T
    lps = np.diag([0.5, 0.8, 3.0, 1.0])
    lps[:3, 3] = CORNER - [2 * 0.5, 3 * 0.8, 2 * 3.0]
    axial = nibabel.Nifti1Image(volume, np.diag([-1, -1, 1, 1]) @ lps)
    sagittal = axial.as_reoriented(np.array([[2, -1], [0, 1], [1, 1]]))
    sagittal.to_filename(tmp_path / "mask.nii.gz")
    (case,) = read_cases(table(tmp_path, {"mask": "mask.nii.gz"})).cases
    assert np.array_equal(mask_of(case), MASK)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_a_mask_of_a_volume_fits_in_any_arrangement(tmp_path, order, signs):
    volume = np.random.default_rng(0).integers(0, 2, (5, 6, 4)).astype(np.uint8)
    affine = np.diag([-0.5, -0.8, 3.0, 1.0])
    image = Nifti1Image(volume * 100, affine)
    image.to_filename(tmp_path / "image.nii.gz")
    mask = Nifti1Image(volume, affine).as_reoriented(np.column_stack([order, signs]))
    mask.to_filename(tmp_path / "mask.nii.gz")
    path = tmp_path / "cases.csv"
    lines = [f"image.nii.gz,{index},mask.nii.gz" for index in range(4)]
    path.write_text("\n".join(["image,slice,mask", *lines]) + "\n")
    for index, case in enumerate(read_cases(path).cases):
        assert np.array_equal(mask_of(case), volume[:, :, index].T)


@pytest.mark.parametrize("moved", [[0.3, 0, 0], [0, 0, 1.5], [40, 0, 0]])
def test_a_mask_that_lies_elsewhere_in_the_patient_is_told(tmp_path, write_dicom, moved):
    write(tmp_path, Reorientation(False), write_dicom)
    lps = np.diag([0.5, 0.8, 3.0, 1.0])
    lps[:3, 3] = CORNER + moved
    volume = np.stack([MASK.T, MASK.T], axis=-1)
    Nifti1Image(volume, np.diag([-1, -1, 1, 1]) @ lps).to_filename(tmp_path / "mask.nii.gz")
    with pytest.raises(TableError, match=r"mask: mask.nii.gz lies elsewhere in the patient, up to"):
        read_cases(table(tmp_path, {"mask": "mask.nii.gz"}))


@pytest.mark.parametrize("kind", ["erode", "box", "extremes", "moments"])
@pytest.mark.parametrize(
    "turn", [Reorientation(True, False, True), Reorientation(False, True, False)]
)
def test_simulated_marks_of_a_dicom_image_count_as_it_is_stored(tmp_path, write_dicom, turn, kind):
    write(tmp_path, turn, write_dicom)
    path = table(tmp_path, {"mask": "mask.png"})
    # Reading the new table compares all that it says with the mask.
    made = simulate_marks(path, tmp_path / "out", options=MarkOptions(kind=kind))
    (case,) = read_cases(made).cases
    (region,) = case.regions
    if kind == "erode":
        marks = case_marks(case)
        assert marks is not None
        assert (marks == 1).any()
        assert ((marks == 1) <= (MASK == 1)).all()
        with Image.open(tmp_path / "out/marks/0001.png") as drawn:
            assert np.array_equal(turn.apply(np.asarray(drawn)), marks)
    if region.box:
        assert list(region.box) == described(MASK)["box"]
    if region.centroid:
        assert region.centroid == pytest.approx(described(MASK)["centroid"], abs=1e-3)


def test_marks_of_a_volume_count_rows_and_columns_in_display_order(tmp_path):
    """Sagittal slices: columns grow to the back, rows to the feet, however the file is stored."""
    heads, fronts, lefts = 7, 9, 3
    body = np.random.default_rng(0).integers(0, 2, (heads, fronts, lefts)).astype(np.uint8)
    # i grows to the head, j to the front, k to the left, in RAS+ mm.
    affine = np.array([[0, 0, -3.0, 0], [0, 0.8, 0, 0], [0.5, 0, 0, 0], [0, 0, 0, 1]])
    Nifti1Image(body * 100, affine).to_filename(tmp_path / "a.nii.gz")
    seen = body[::-1, ::-1, 1]
    Image.fromarray(np.ascontiguousarray(seen)).save(tmp_path / "mask.png")
    row, column = (int(place) for place in np.argwhere(seen)[0])
    path = tmp_path / "cases.csv"
    path.write_text(f'image,slice,mask,points\na.nii.gz,1,mask.png,"[[{row}, {column}]]"\n')
    (case,) = read_cases(path).cases
    assert np.array_equal(read_slice(case.image, slice_index=1), seen * 100)
    assert np.array_equal(mask_of(case), seen)
    assert case.points == ((row, column, 1),)


def test_cases_are_drawn_as_the_network_sees_them(tmp_path, write_dicom):
    turn = Reorientation(True, True, False)
    mask = write(tmp_path, turn, write_dicom)
    path = table(tmp_path, described(mask) | {"marks": "mask.png", "mask": "mask.png"})
    call("cases", "check", path, "--picture", tmp_path / "cases.png")
    with Image.open(tmp_path / "cases.png") as drawn:
        assert min(drawn.size) > 200


@pytest.mark.parametrize("turn", TURNS)
def test_a_network_is_taught_the_same_however_its_image_is_stored(tmp_path, write_dicom, turn):
    samples = []
    for name, way in (("upright", Reorientation(False)), ("turned", turn)):
        folder = tmp_path / name
        folder.mkdir()
        cells = described(write(folder, way, write_dicom))
        del cells["points"]  # one pixel of each picture's own first rows
        path = table(folder, {**cells, "marks": "mask.png", "mask": "mask.png", "ratio": 0.1375})
        cases = read_cases(path).cases
        preprocess = Preprocess(Window(low=0, high=255), 16, 1)
        samples.append(CaseDataset(cases, ("roi",), (), preprocess).item(0))
    first, second = samples
    assert first.mask.any()
    assert first.marks.any()
    for field in ("image", "mask", "marks", "target", "target_weight", "ratio"):
        assert torch.equal(getattr(first, field), getattr(second, field))
    for field in ("box", "centroid", "spread"):
        torch.testing.assert_close(
            getattr(first.region_labels, field), getattr(second.region_labels, field)
        )
