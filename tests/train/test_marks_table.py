"""Tables of weak marks simulated from masks."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from wsseg.imaging import TableOptions, WssegError
from wsseg.train.cases import case_marks, case_mask, read_cases, region_box, region_moments
from wsseg.train.simulate import (
    MarkOptions,
    erode_mark,
    extremes_of,
    simulate_marks,
)


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
    assert list(rows[0]) == [
        "image", "mask", "group", "split", "note", "ratio", "marks", "mark_kind",
    ]  # fmt: skip
    assert rows[0]["image"] == "../in/images/a.png"
    assert [(row["group"], row["split"], row["note"]) for row in rows] == [
        ("p1", "train", "first"),
        ("p2", "val", ""),
        ("p3", "test", ""),
    ]


def test_masks_of_training_can_be_left_out_and_those_that_judge_stay(source, tmp_path):
    bare = simulate_marks(source, tmp_path / "bare", percent=8.0, keep_masks=())
    assert "mask" not in rows_of(bare)[0]
    path = simulate_marks(source, tmp_path / "out", percent=8.0, keep_masks=("val", "test"))
    assert [bool(row["mask"]) for row in rows_of(path)] == [False, True, False]


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
    with pytest.raises(WssegError, match=r"has no mask.*add a column mask") as caught:
        simulate_marks(source, tmp_path / "out", percent=8.0)
    assert caught.value.exit_code == 2


# --- kinds, shares and errors ---


@pytest.mark.parametrize(
    ("kind", "word"), [("erode", "eroded"), ("random-disc", "disc"), ("scribble", "scribble")]
)
def test_the_table_tells_how_its_marks_were_made(source, tmp_path, kind, word):
    table = read_cases(simulate_marks(source, tmp_path / "out", options=MarkOptions(kind)))
    assert [case.regions[0].mark_kind for case in table.cases] == [word, word, None]


def test_boxes_extremes_and_moments_can_be_read_back(source, tmp_path):
    for kind in ("box", "extremes", "moments"):
        source = simulate_marks(source, tmp_path / kind, options=MarkOptions(kind))
    table = read_cases(source)
    for case, radius in zip(table.cases[:2], (5, 9), strict=True):
        region = case.regions[0]
        assert region.box == region_box(disc(radius))
        assert region.extremes == extremes_of(disc(radius))
        assert region.centroid == pytest.approx(region_moments(disc(radius)).centroid, abs=1e-3)
        assert region.spread == pytest.approx(region_moments(disc(radius)).spread, abs=1e-3)
        assert case.marks is None
    assert table.cases[2].regions[0].box is None


def test_a_second_kind_adds_to_the_first(source, tmp_path):
    first = simulate_marks(source, tmp_path / "first", options=MarkOptions("disc"))
    (case, *_) = read_cases(
        simulate_marks(first, tmp_path / "second", options=MarkOptions("box"))
    ).cases
    assert case.marks is not None
    assert case.regions[0].box == region_box(disc(5))


def test_each_class_has_a_box_of_its_own_and_none_where_it_is_absent(tmp_path):
    save(tmp_path / "a.png", np.zeros((32, 32)))
    save(tmp_path / "m.png", disc(5) * 2)
    source = tmp_path / "cases.csv"
    source.write_text("image,mask,ratio:cyst,ratio:tumour\na.png,m.png,,\n", encoding="utf-8")
    path = simulate_marks(source, tmp_path / "out", options=MarkOptions("box"))
    (row,) = rows_of(path)
    assert (row["box:cyst"], json.loads(row["box:tumour"])) == ("", list(region_box(disc(5))))


def test_a_percentage_of_marks_that_have_no_size_is_refused(source, tmp_path):
    with pytest.raises(WssegError, match=r"8 percent .* kind point have no such size, only erode"):
        simulate_marks(source, tmp_path / "out", percent=8.0, options=MarkOptions("point"))
    assert not (tmp_path / "out").exists()


def test_a_table_as_a_spreadsheet_writes_it_becomes_one_of_fractions(tmp_path):
    save(tmp_path / "in/images/a.png", np.full((32, 32), 90))
    save(tmp_path / "in/masks/a.png", disc(5) * 255)
    percent = f"{100 * disc(5).mean():.4g}".replace(".", ",")
    text = f"Image;Mask;Ratio percent;Name\nimages\\a.png;masks\\a.png;{percent};Zo\u00eb\n"
    path = tmp_path / "in/cases.csv"
    path.write_bytes(text.encode("cp1252"))
    reading = TableOptions(ignore_columns=("name",))
    made = simulate_marks(path, tmp_path / "out", reading=reading)
    (row,) = rows_of(made)
    assert set(row) == {"image", "mask", "ratio", "marks", "mark_kind"}
    assert (row["image"], row["mask"]) == ("../in/images/a.png", "../in/masks/a.png")
    assert float(row["ratio"]) == pytest.approx(disc(5).mean(), rel=1e-3)
    assert read_cases(made).cases[0].ratios == (float(row["ratio"]),)


def test_areas_become_ratios(tmp_path):
    save(tmp_path / "in/a.png", np.full((32, 32), 90))
    save(tmp_path / "in/m.png", disc(5))
    path = tmp_path / "in/cases.csv"
    path.write_text(f"image,mask,area_px\na.png,m.png,{disc(5).sum()}\n")
    (row,) = rows_of(simulate_marks(path, tmp_path / "out"))
    assert set(row) == {"image", "mask", "ratio", "marks", "mark_kind"}
    assert float(row["ratio"]) == disc(5).mean()
