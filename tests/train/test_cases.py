"""cases.csv: how it is read, and how it is divided into splits."""

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsseg.train.cases import (
    OF_CASE,
    OF_CLASS,
    Box,
    Case,
    Region,
    case_marks,
    case_mask,
    read_cases,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "cases.csv"
    path.write_text(text, encoding="utf-8")
    return path


def mask_of(case: Case) -> np.ndarray:
    mask = case_mask(case, 1)
    assert mask is not None
    return mask


def marks_of(case: Case) -> np.ndarray:
    marks = case_marks(case)
    assert marks is not None
    return marks


# --- what is read ---


def test_a_full_row_becomes_a_case(folder):
    path = write(
        folder,
        "image,ratio,marks,points,mask,group,split,note,x_site\n"
        'a.png,0.2,marks.png,"[[0, 1], [1, 2, 1]]",mask.png,p1,test,seen twice,north\n'
        "b.png,,,,,p2,train,,\n".replace("b.png,,", "b.png,0.1,"),
    )
    table = read_cases(path)
    case, other = table.cases
    assert table.classes == ("roi",)
    assert (case.row, case.image, case.ratios) == (2, folder / "a.png", (0.2,))
    assert (case.marks, case.mask) == (folder / "marks.png", folder / "mask.png")
    assert case.points == ((0, 1, 1), (1, 2, 1))
    assert (case.group, case.split) == ("p1", "test")
    assert (other.row, other.ratios, other.marks, other.points) == (3, (0.1,), None, ())
    assert table.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_ratio_columns_name_the_classes_in_their_order(folder):
    text = "image,ratio:tumour,ratio:kidney,group\na.png,0.1,,p\nb.png,,0.2,p\n"
    table = read_cases(write(folder, text))
    assert table.classes == ("tumour", "kidney")
    assert table.cases[0].ratios == (0.1, None)


def test_given_classes_put_the_ratios_into_their_order(folder):
    path = write(folder, "image,ratio:tumour,mask\na.png,0.1,two.png\n")
    table = read_cases(path, classes=("kidney", "tumour"))
    assert table.cases[0].ratios == (None, 0.1)


def test_excel_tables_are_read(folder):
    text = "\ufeffimage;ratio;points\r\n\r\na.png;0.1;[[0, 1]]\r\n;;\r\nb.png;0.2;\r\n"
    table = read_cases(write(folder, text))
    assert [case.row for case in table.cases] == [3, 5]
    assert table.cases[0].points == ((0, 1, 1),)


def test_a_quoted_line_break_does_not_shift_the_line_numbers(folder):
    table = read_cases(write(folder, 'image,ratio,note\na.png,0.1,"two\nlines"\nb.png,0.2,\n'))
    assert [case.row for case in table.cases] == [2, 4]


def test_slices_of_a_volume_take_pictures_and_volumes_as_labels(folder):
    path = write(
        folder,
        "image,slice,mask,marks\nvolume.nii.gz,1,stack.nii.gz,\nvolume.nii.gz,2,,marks.png\n",
    )
    first, second = read_cases(path).cases
    assert first.slice_index == 1
    assert np.count_nonzero(mask_of(first)) == 16
    assert np.count_nonzero(marks_of(second)) == 4


def test_a_white_mask_is_class_1_when_there_is_one_class(folder):
    (case,) = read_cases(write(folder, "image,mask,ratio\na.png,white.png,0.2\n")).cases
    assert np.array_equal(mask_of(case), mask_of(replace(case, mask=folder / "mask.png")))


def test_points_are_drawn_over_the_marks(folder):
    path = write(folder, 'image,marks,points\na.png,marks.png,"[[9, 7]]"\nb.png,,"[[9, 7]]"\n')
    drawn, alone = (marks_of(case) for case in read_cases(path).cases)
    assert drawn[9, 7] == 1
    assert np.count_nonzero(drawn) == 5
    assert np.argwhere(alone == 1).tolist() == [[9, 7]]


def test_what_a_row_says_of_a_class_becomes_its_region(folder):
    path = write(
        folder,
        "image,ratio_low,ratio_high,present,box,centroid,spread,mark_kind\n"
        'a.png,0.1,0.3,1,"[0, 1, 5, 7]","[2, 3.5]","[1.25, 2]",scribble\n'
        "b.png,,0.3,0,,,,\n",
    )
    first, second = read_cases(path).cases
    assert first.regions == (
        Region(
            low=0.1, high=0.3, present=True, box=Box(0, 1, 5, 7),
            centroid=(2.0, 3.5), spread=(1.25, 2.0), mark_kind="scribble",
        ),
    )  # fmt: skip
    assert second.regions == (Region(high=0.3, present=False),)


def test_signals_are_mixed_by_row_and_by_class(folder):
    path = write(
        folder,
        "image,ratio:a,ratio:b,box:b,present:a,mark_kind:b,points\n"
        'a.png,0.1,,"[[0, 0, 2, 2]]",,disc,"[[1, 1, 2], [9, 7, 255]]"\n'
        "b.png,,0.2,,0,,\n",
    )
    first, second = read_cases(path).cases
    assert first.regions == (Region(), Region(box=Box(0, 0, 2, 2), mark_kind="disc"))
    assert np.argwhere(marks_of(first) == 2).tolist() == [[1, 1]]
    assert np.argwhere(marks_of(first) == 255).tolist() == [[9, 7]]
    assert second.regions == (Region(present=False), Region())


def test_columns_of_any_signal_name_the_classes_where_no_ratio_does(folder):
    text = 'image,box:b,box:a,present:a\na.png,"[0, 0, 1, 1]",,1\n'
    assert read_cases(write(folder, text)).classes == ("b", "a")


def test_extremes_give_the_box_and_mark_their_class(folder):
    text = 'image,extremes,points\na.png,"[[7, 3], [4, 1], [2, 4], [5, 6]]","[[4, 4]]"\n'
    (case,) = read_cases(write(folder, text)).cases
    assert case.regions[0].box == Box(2, 1, 8, 7)
    marked = [[2, 4], [4, 1], [4, 4], [5, 6], [7, 3]]
    assert np.argwhere(marks_of(case) == 1).tolist() == marked


def test_a_case_without_regions_has_an_empty_one_for_each_class(folder):
    assert Case(row=2, image=folder / "a.png", ratios=(0.1, None)).regions == (Region(), Region())


DOCS = Path(__file__).parents[2] / "docs" / "cases.md"


def test_the_table_in_the_documentation_is_read(tmp_path):
    example = DOCS.read_text(encoding="utf-8").split("```csv\n")[1].split("```")[0]
    for name in ("images", "marks"):
        (tmp_path / name).mkdir()
    for number in range(1, 7):
        Image.new("L", (200, 180)).save(tmp_path / "images" / f"p0{number}.png")
    Image.new("L", (200, 180)).save(tmp_path / "marks" / "p01.png")
    assert len(read_cases(write(tmp_path, example)).cases) == 6


@pytest.mark.parametrize("column", [*OF_CASE, *OF_CLASS])
def test_every_column_is_documented(column):
    assert f"`{column}`" in DOCS.read_text(encoding="utf-8")


# --- splits ---


def grouped(folder: Path, groups: list[int]) -> Path:
    lines = []
    for number, group in enumerate(groups):
        Image.new("L", (8, 10)).save(folder / f"s{number}.png")
        lines.append(f"s{number}.png,0.1,{group}\n")
    return write(folder, "image,ratio,group\n" + "".join(lines))


@pytest.mark.slow
@given(
    groups=st.lists(st.integers(0, 5), min_size=1, max_size=10),
    seed=st.integers(0, 5),
    fraction=st.floats(0, 0.99),
)
def test_whole_groups_go_to_val_and_some_case_stays_in_train(
    tmp_path_factory, groups, seed, fraction
):
    folder = tmp_path_factory.getbasetemp() / "splits"
    folder.mkdir(exist_ok=True)
    path = grouped(folder, groups)
    table = read_cases(path, seed=seed, val_fraction=fraction)
    val = {case.group for case in table.part("val")}
    train = {case.group for case in table.part("train")}
    assert not val & train
    assert train
    count = len(set(groups))
    assert len(val) == min(max(1, round(fraction * count)), count - 1)
    assert read_cases(path, seed=seed, val_fraction=fraction) == table


def test_another_seed_gives_another_split(folder):
    path = grouped(folder, list(range(12)))
    chosen = {
        tuple(case.group for case in read_cases(path, seed=seed).part("val")) for seed in range(5)
    }
    assert len(chosen) > 1


def test_the_order_of_the_rows_does_not_change_the_split(folder):
    path = grouped(folder, list(range(12)))
    before = {case.image for case in read_cases(path).part("val")}
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    write(folder, "\n".join([header, *reversed(lines)]) + "\n")
    assert {case.image for case in read_cases(path).part("val")} == before


def test_slices_of_one_file_stay_together_without_a_group(folder):
    text = "image,slice,ratio\nvolume.nii.gz,0,0.1\nvolume.nii.gz,1,0.1\na.png,,0.1\n"
    for seed in range(4):
        first, second, _ = read_cases(write(folder, text), seed=seed).cases
        assert first.split == second.split


def test_slices_of_one_file_in_two_splits_are_warned_about(folder):
    text = "image,slice,ratio,split\nvolume.nii.gz,0,0.1,train\nvolume.nii.gz,1,0.1,val\n"
    doubts = read_cases(write(folder, text)).doubts
    assert "1 image files have slices in more than one split" in doubts


@given(st.lists(st.text("abc;,\"' \n", max_size=4), min_size=2, max_size=2))
def test_cells_survive_any_quoting(tmp_path_factory, notes):
    folder = tmp_path_factory.getbasetemp() / "quoting"
    folder.mkdir(exist_ok=True)
    Image.new("L", (8, 10)).save(folder / "a.png")
    with (folder / "cases.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["image", "ratio", "note", "x_b"], ["a.png", "0.1", *notes]])
    assert read_cases(folder / "cases.csv").cases[0].ratios == (0.1,)
