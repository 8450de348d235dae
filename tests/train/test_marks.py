"""Weak marks simulated from masks."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

from wsseg.imaging.errors import NothingToDoError, WssegError
from wsseg.train.cases import read_cases
from wsseg.train.label_files import case_marks, case_mask
from wsseg.train.marks import TOUCHING_CORNERS, erode_mark, simulate_marks

masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
percents = st.floats(0.01, 100)


def expected_count(pixels: int, percent: float) -> int:
    return max(1, round(percent / 100 * pixels)) if pixels else 0


def depth(mask: np.ndarray) -> np.ndarray:
    padded: np.ndarray = ndimage.distance_transform_edt(np.pad(mask, 1))
    return padded[1:-1, 1:-1]


@given(masks, percents)
def test_a_mark_is_the_exact_share_of_the_region_and_lies_inside(mask, percent):
    mark = erode_mark(mask, percent)
    assert np.count_nonzero(mark) == expected_count(int(mask.sum()), percent)
    assert not np.any(mark & ~mask)


@given(masks, percents)
def test_no_unmarked_pixel_is_deeper_than_a_marked_one(mask, percent):
    mark = erode_mark(mask, percent)
    rest = mask & ~mark
    if mark.any() and rest.any():
        assert depth(mask)[mark].min() >= depth(mask)[rest].max()


@given(masks, percents)
def test_each_component_has_its_exact_share(mask, percent):
    mark = erode_mark(mask, percent, per_component=True)
    assert not np.any(mark & ~mask)
    components, count = ndimage.label(mask, structure=TOUCHING_CORNERS)
    for number in range(1, count + 1):
        region = components == number
        assert np.count_nonzero(mark & region) == expected_count(int(region.sum()), percent)


@given(masks)
def test_all_of_a_region_is_the_region(mask):
    assert np.array_equal(erode_mark(mask, 100.0), mask)
    assert np.array_equal(erode_mark(mask, 100.0, per_component=True), mask)


@given(masks, st.tuples(percents, percents).map(sorted))
def test_a_larger_share_holds_the_smaller_one(mask, pair):
    small, large = (erode_mark(mask, percent) for percent in pair)
    assert not np.any(small & ~large)


def test_a_region_that_the_frame_cuts_is_not_marked_at_its_cut():
    mask = np.zeros((9, 9), bool)
    mask[:, :5] = True
    assert np.flatnonzero(erode_mark(mask, 2.0)).tolist() == [2 * 9 + 2]


def test_a_small_component_keeps_its_mark_only_on_its_own():
    mask = np.zeros((20, 20), bool)
    mask[1:13, 1:13] = True
    mask[16:19, 16:19] = True
    assert not erode_mark(mask, 8.0)[16:, 16:].any()
    assert np.flatnonzero(erode_mark(mask, 8.0, per_component=True)[16:19, 16:19]).tolist() == [4]


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.5, float("nan")])
def test_an_impossible_share_is_refused(percent):
    with pytest.raises(WssegError, match="percent of a region cannot be marked"):
        erode_mark(np.ones((3, 3), bool), percent)


# --- tables ---


def disc(radius: float, *, size: int = 32, centre: tuple[int, int] = (15, 15)) -> np.ndarray:
    rows, columns = np.indices((size, size))
    return np.hypot(rows - centre[0], columns - centre[1]) <= radius


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.fixture
def source(tmp_path):
    """Two pictures with white masks, one with neither mask nor ratio column; one class."""
    for name, radius in (("a", 5), ("b", 9)):
        save(tmp_path / f"in/images/{name}.png", np.full((32, 32), 90))
        save(tmp_path / f"in/masks/{name}.png", disc(radius) * 255)
    save(tmp_path / "in/images/c.png", np.full((32, 32), 90))
    path = tmp_path / "in/cases.csv"
    path.write_text(
        "image,mask,group,split,note\n"
        "images/a.png,masks/a.png,p1,train,first\n"
        "images/b.png,masks/b.png,p2,val,\n"
        "images/c.png,,p3,test,\n",
        encoding="utf-8",
    )
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_new_table_trains_with_marks_and_ratios_of_its_masks(source, tmp_path):
    path = simulate_marks(source, tmp_path / "deep/out", percent=8.0)
    assert path == tmp_path / "deep/out/cases.csv"
    table = read_cases(path)
    for case, radius in zip(table.cases[:2], (5, 9), strict=True):
        mask = disc(radius)
        assert case.ratios == (mask.mean(),)
        assert np.array_equal(case_marks(case) == 1, erode_mark(mask, 8.0))
        assert np.array_equal(case_mask(case, 1) == 1, mask)
    assert (table.cases[2].marks, table.cases[2].ratios) == (None, (None,))


def test_all_columns_stay_and_paths_lead_to_the_same_files(source, tmp_path):
    rows = rows_of(simulate_marks(source, tmp_path / "out", percent=8.0))
    assert list(rows[0]) == ["image", "mask", "group", "split", "note", "ratio", "marks"]
    assert rows[0]["image"] == "../in/images/a.png"
    assert [(row["group"], row["split"], row["note"]) for row in rows] == [
        ("p1", "train", "first"),
        ("p2", "val", ""),
        ("p3", "test", ""),
    ]


def test_masks_can_be_left_out(source, tmp_path):
    path = simulate_marks(source, tmp_path / "out", percent=8.0, keep_mask=False)
    assert "mask" not in rows_of(path)[0]
    assert "masks" not in path.read_text(encoding="utf-8")


def test_a_ratio_that_the_table_states_is_kept(source, tmp_path):
    text = source.read_text(encoding="utf-8").splitlines()
    ratios = ["ratio", "0.08", "", ""]
    joined = [f"{line},{ratio}" for line, ratio in zip(text, ratios, strict=True)]
    source.write_text("\n".join(joined) + "\n", encoding="utf-8")
    rows = rows_of(simulate_marks(source, tmp_path / "out", percent=8.0))
    assert [row["ratio"] for row in rows] == ratios[1:]


def test_each_class_of_a_label_map_is_marked_with_its_number(tmp_path):
    labels = disc(5, centre=(8, 8)) * 1 + disc(4, centre=(22, 22)) * 2
    save(tmp_path / "a.png", np.zeros((32, 32)))
    save(tmp_path / "m.png", labels)
    source = tmp_path / "cases.csv"
    source.write_text("image,mask\na.png,m.png\n", encoding="utf-8")
    path = simulate_marks(source, tmp_path / "out", percent=10.0, classes=("cyst", "tumour"))
    table = read_cases(path)
    assert table.classes == ("cyst", "tumour")
    assert table.cases[0].ratios == ((labels == 1).mean(), (labels == 2).mean())
    marks = case_marks(table.cases[0])
    for number in (1, 2):
        assert np.array_equal(marks == number, erode_mark(labels == number, 10.0))


def test_a_slice_of_a_volume_gets_its_own_marks(tmp_path):
    stack = np.stack([np.zeros((32, 32)), disc(6), disc(3)], axis=-1).astype(np.uint8)
    for name in ("image", "mask"):
        nibabel.save(nibabel.Nifti1Image(stack, np.eye(4)), tmp_path / f"{name}.nii.gz")
    source = tmp_path / "cases.csv"
    source.write_text("image,mask,slice\nimage.nii.gz,mask.nii.gz,1\n", encoding="utf-8")
    (case,) = read_cases(simulate_marks(source, tmp_path / "out", percent=10.0)).cases
    assert case.ratios == (disc(6).mean(),)
    mask = case_mask(case, 1)
    assert mask is not None
    assert np.array_equal(case_marks(case) == 1, erode_mark(mask == 1, 10.0))


def test_a_folder_that_holds_anything_is_left_alone(source, tmp_path):
    with pytest.raises(WssegError, match="exists and is not empty"):
        simulate_marks(source, source.parent, percent=8.0)
    assert source.exists()


def test_a_failed_run_leaves_no_folder(source, tmp_path):
    with pytest.raises(WssegError, match="cannot be marked"):
        simulate_marks(source, tmp_path / "out", percent=0.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_table_without_masks_is_told(source, tmp_path):
    source.write_text("image,ratio\nimages/a.png,0.1\n", encoding="utf-8")
    with pytest.raises(NothingToDoError, match="no mask to make marks of"):
        simulate_marks(source, tmp_path / "out", percent=8.0)
