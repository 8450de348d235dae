"""cases.csv: what is read, and every fault that is found before training."""

import contextlib
import csv
import hashlib
import json
import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsseg.imaging.definitions import RatioDefinition
from wsseg.imaging.errors import WssegError
from wsseg.train.case import Case
from wsseg.train.case_cells import CellError, parse_points, parse_ratio
from wsseg.train.case_faults import MOST_LINES, CasesError, Fault
from wsseg.train.cases import read_cases
from wsseg.train.label_files import case_marks, case_mask

ROWS, COLUMNS = 10, 8


def picture(path: Path, values: np.ndarray | int = 0) -> Path:
    Image.fromarray(np.broadcast_to(values, (ROWS, COLUMNS)).astype(np.uint8)).save(path)
    return path


def labels(*numbers: int, shape: tuple[int, int] = (ROWS, COLUMNS)) -> np.ndarray:
    """A label map whose first pixels, in reading order, have the given numbers."""
    drawn = np.zeros(shape, np.uint8)
    drawn.ravel()[: len(numbers)] = numbers
    return drawn


@pytest.fixture
def folder(tmp_path):
    """Pictures of 80 pixels, marks of 4, a mask of 16 that holds them, a volume of 3 slices."""
    for name in ("a", "b", "c", "d"):
        picture(tmp_path / f"{name}.png", 100)
    picture(tmp_path / "marks.png", labels(*[1] * 4))
    picture(tmp_path / "mask.png", labels(*[1] * 16))
    picture(tmp_path / "white.png", labels(*[255] * 16))
    picture(tmp_path / "two.png", labels(*[1] * 8, *[2] * 8))
    picture(tmp_path / "empty.png")
    picture(tmp_path / "odd.png", labels(1, 7, 9))
    Image.fromarray(labels(1, shape=(4, 4))).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    volume = np.zeros((COLUMNS, ROWS, 3), np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "volume.nii.gz")
    return tmp_path


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


def faults_of(folder: Path, text: str, **arguments) -> list[str]:
    with pytest.raises(CasesError) as caught:
        read_cases(write(folder, text), **arguments)
    return [str(fault) for fault in caught.value.faults]


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
    table = read_cases(write(folder, "image,ratio:tumour,ratio:kidney\na.png,0.1,\n"))
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
    stack = np.zeros((COLUMNS, ROWS, 3), np.uint8)
    stack[:2, :8, 1] = 1
    nibabel.save(nibabel.Nifti1Image(stack, np.eye(4)), folder / "stack.nii.gz")
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
    assert np.array_equal(mask_of(case), labels(*[1] * 16))


def test_points_are_drawn_over_the_marks(folder):
    path = write(folder, 'image,marks,points\na.png,marks.png,"[[9, 7]]"\nb.png,,"[[9, 7]]"\n')
    drawn, alone = (marks_of(case) for case in read_cases(path).cases)
    assert drawn[9, 7] == 1
    assert np.count_nonzero(drawn) == 5
    assert np.argwhere(alone == 1).tolist() == [[9, 7]]


def test_columns_without_a_term_are_named_in_one_warning(folder, caplog):
    path = write(folder, "image,ratio,ratio_low,ratio_high,present,box\na.png,0.1,0,1,1,\n")
    with caplog.at_level(logging.WARNING):
        read_cases(path)
    told = [r.getMessage() for r in caplog.records if "no loss term" in r.getMessage()]
    assert told == ["columns that no loss term uses yet: ratio_low, ratio_high, present, box"]


# --- splits ---


def grouped(folder: Path, groups: list[int]) -> Path:
    lines = []
    for number, group in enumerate(groups):
        if not (folder / f"s{number}.png").exists():
            picture(folder / f"s{number}.png")
        lines.append(f"s{number}.png,0.1,{group}\n")
    return write(folder, "image,ratio,group\n" + "".join(lines))


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


def test_slices_of_one_file_in_two_splits_are_warned_about(folder, caplog):
    text = "image,slice,ratio,split\nvolume.nii.gz,0,0.1,train\nvolume.nii.gz,1,0.1,val\n"
    with caplog.at_level(logging.WARNING):
        read_cases(write(folder, text))
    assert "1 image files have slices in more than one split" in caplog.messages


# --- faults ---

ROW_FAULTS = {
    "no such image": ("image,ratio\nx.png,0.1\n", "line 2: image: there is no file"),
    "image empty": ("image,ratio\n,0.1\n", "line 2: image: empty"),
    "image is a folder": ("image,ratio\nfolder,0.1\n", "is a folder: name one file"),
    "unreadable image": ("image,ratio\ntext.png,0.1\n", "line 2: image: text.png"),
    "no such marks": ("image,marks\na.png,x.png\n", "line 2: marks: there is no file"),
    "unreadable mask": ("image,mask\na.png,text.png\n", "line 2: mask: text.png"),
    "ratio in percent": ("image,ratio\na.png,8\n", "if this is 8 percent, write 0.08"),
    "ratio with a percent sign": ("image,ratio\na.png,8 %\n", "if this is 8 percent, write 0.08"),
    "ratio below 0": ("image,ratio\na.png,-0.1\n", "-0.1 is outside 0..1"),
    "ratio far above 1": ("image,ratio\na.png,250\n", "250 is outside 0..1: write a fraction"),
    "ratio is a word": ("image,ratio\na.png,big\n", "big is not a number: write a fraction"),
    "ratio is nan": ("image,ratio\na.png,nan\n", "nan is not a number"),
    "decimal comma": ('image,ratio\na.png,"0,08"\n', "write a decimal point, 0.08"),
    "marks on another grid": (
        "image,marks\na.png,small.png\n",
        "marks: small.png has 4 rows and 4 columns, the image 10 and 8",
    ),
    "mask on another grid": ("image,mask\na.png,small.png\n", "mask: small.png has 4 rows"),
    "labels that are no classes": (
        "image,marks\na.png,odd.png\n",
        "marks: pixel values 7, 9 are no class numbers: expected 1, and 0 elsewhere",
    ),
    "mask of two classes for one": ("image,mask\na.png,two.png\n", "mask: pixel values 2 are no"),
    "marks painted white": (
        "image,marks\na.png,white.png\n",
        "marks: white.png marks no class, only 255, which means background",
    ),
    "marks larger than the ratio": (
        "image,ratio,marks\na.png,0.04,marks.png\n",
        "4 pixels are marked as roi, but its ratio 0.04 leaves room for 3.2",
    ),
    "marks outside the mask": (
        "image,marks,mask\na.png,mask.png,marks.png\n",
        "marks: 12 marked pixels have another class in the mask",
    ),
    "point outside the image": (
        'image,points\na.png,"[[8, 9]]"\n',
        "points: [8, 9] lies outside the image of 10 rows and 8 columns",
    ),
    "points are no list": ("image,points\na.png,here\n", "points: not a JSON list"),
    "point of an unknown class": ('image,points\na.png,"[[1, 1, 2]]"\n', "class numbers go from 1"),
    "point outside the mask": (
        'image,points,mask\na.png,"[[9, 7]]",mask.png\n',
        "marks: 1 marked pixels have another class in the mask",
    ),
    "empty mask for a ratio": (
        "image,ratio,mask\na.png,0.001,empty.png\n",
        "ratio of roi is 0.001, but its mask shows 0",
    ),
    "ratio of another picture": (
        "image,ratio,mask\na.png,0.3,mask.png\n",
        "ratio of roi is 0.3, but its mask shows 0.2",
    ),
    "group in two splits": (
        "image,ratio,group,split\na.png,0.1,Jane Doe,train\nb.png,0.1,Jane Doe,val\n",
        "line 3: its group is in val here and in train in line 2",
    ),
    "unknown split": ("image,ratio,split\na.png,0.1,train\nb.png,0.1,Valid\n", "Valid is no split"),
    "empty split": (
        "image,ratio,split\na.png,0.1,train\nb.png,0.1,\n",
        "an empty cell is no split",
    ),
    "no training case": ("image,ratio,split\na.png,0.1,test\n", "no training case"),
    "no case": ("image,ratio\n", "no case in the table"),
    "slice outside the volume": (
        "image,ratio,slice\nvolume.nii.gz,0.1,3\n",
        "image: volume.nii.gz has 3 slices",
    ),
    "volume outside the file": (
        "image,ratio,slice,volume\nvolume.nii.gz,0.1,0,1\n",
        "image: volume.nii.gz has 1 volumes",
    ),
    "no slice of a volume": (
        "image,ratio\nvolume.nii.gz,0.1\n",
        "image: volume.nii.gz has 3 slices: give one, from 0, in a column named slice",
    ),
    "slice is no number": ("image,ratio,slice\na.png,0.1,-1\n", "slice: -1 is not a whole number"),
    "the same case twice": (
        "image,ratio\na.png,0.1\n./a.png,0.1\n",
        "line 3: the same image and slice as line 2",
    ),
    "nothing to learn from": ("image,ratio\na.png,\n", "line 2: nothing to learn from"),
    "too many cells": ("image,ratio\na.png,0.1,2\nb.png,0.1\n", "line 2: 3 cells where the header"),
    "too few cells": ("image,ratio\na.png\nb.png,0.1\n", "line 2: 1 cells where the header has 2"),
}


@pytest.mark.parametrize(("text", "expected"), ROW_FAULTS.values(), ids=ROW_FAULTS.keys())
def test_a_fault_is_told_with_its_line_and_what_to_do(folder, text, expected):
    (fault,) = faults_of(folder, text)
    assert expected in fault


HEADER_FAULTS = {
    "no image column": ("picture,ratio\n", "no column named image"),
    "misspelt column": ("image,ratios\n", "unknown column ratios: the nearest known one is ratio;"),
    "both kinds of ratio": ("image,ratio,ratio:a\n", "both ratio and ratio:<class>"),
    "ratio of no class": ("image,ratio:\n", "unknown column ratio:"),
    "two columns of one name": ("image,image\n", "2 columns are named image"),
    "column without a name": ("image,ratio,\n", "column 3 has no name"),
    "class called image": ("image,ratio:image\n", "a class cannot be called image"),
}


@pytest.mark.parametrize(("text", "expected"), HEADER_FAULTS.values(), ids=HEADER_FAULTS.keys())
def test_a_fault_of_the_header_is_told(folder, text, expected):
    assert any(expected in fault and "line 1" in fault for fault in faults_of(folder, text))


def test_one_ratio_column_for_two_classes_is_a_fault(folder):
    (fault,) = faults_of(folder, "image,ratio\na.png,0.1\n", classes=("a", "b"))
    assert "write ratio:<class>, one column a class" in fault


def test_a_ratio_column_of_an_unknown_class_is_a_fault(folder):
    (fault,) = faults_of(folder, "image,ratio:c\na.png,0.1\n", classes=("a", "b"))
    assert "column ratio:c names no class: the classes are a, b" in fault


def test_a_point_without_a_class_is_a_fault_among_several(folder):
    text = 'image,ratio:a,ratio:b,points\na.png,0.1,0.1,"[[1, 2]]"\n'
    (fault,) = faults_of(folder, text)
    assert "point [1, 2] has no class" in fault


def test_all_faults_come_in_one_report_in_the_order_of_the_lines(folder):
    text = (
        "image,ratio,marks,mask,split\n"
        "x.png,8,marks.png,mask.png,train\n"
        "a.png,big,small.png,odd.png,vall\n"
        "b.png,0.01,marks.png,,train\n"
        "b.png,0.2,,,train\n"
        "c.png,,,,train\n"
    )
    with pytest.raises(CasesError) as caught:
        read_cases(write(folder, text))
    lines = str(caught.value).splitlines()
    assert lines[0] == "cases.csv: 9 faults to correct"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        *["line 2"] * 2,
        *["line 3"] * 4,
        "line 4",
        "line 5",
        "line 6",
    ]


def test_a_long_report_is_cut_and_says_how_many_more(folder):
    text = "image,ratio\n" + "".join(f"x{number}.png,0.1\n" for number in range(MOST_LINES + 7))
    with pytest.raises(CasesError) as caught:
        read_cases(write(folder, text))
    lines = str(caught.value).splitlines()
    assert len(lines) == MOST_LINES + 2
    assert lines[-1] == "  and 7 more"
    assert len(caught.value.faults) == MOST_LINES + 7


def test_the_report_never_names_a_group(folder):
    text, _ = ROW_FAULTS["group in two splits"]
    assert not any("Doe" in fault for fault in faults_of(folder, text))


def test_a_ratio_to_another_class_may_be_above_one_and_is_compared_with_it(folder):
    ratios = (RatioDefinition(name="r", numerator="a", denominator="b"),)
    text = "image,ratio:a,ratio:b,mask\na.png,{},0.1,two.png\n"
    assert read_cases(write(folder, text.format(1.1)), ratios=ratios).cases[0].ratios == (1.1, 0.1)
    (fault,) = faults_of(folder, text.format(3), ratios=ratios)
    assert "ratio of a is 3, but its mask shows 1" in fault


@pytest.mark.parametrize("ratio", ["0.2", "0.16", "0.24"])
def test_two_readers_may_differ(folder, ratio):
    assert read_cases(write(folder, f"image,ratio,mask\na.png,{ratio},mask.png\n"))


def test_a_marked_background_inside_the_mask_is_a_fault(folder):
    picture(folder / "background.png", labels(1, 255, *[0] * 50, 255))
    (fault,) = faults_of(folder, "image,marks,mask\na.png,background.png,mask.png\n")
    assert "1 marked pixels have another class in the mask" in fault


def test_a_healthy_case_may_mark_background_only(folder):
    assert read_cases(write(folder, "image,ratio,marks\na.png,0,white.png\n"))


def test_a_label_volume_elsewhere_in_the_patient_is_a_fault(folder):
    stack, elsewhere = np.zeros((COLUMNS, ROWS, 3), np.uint8), np.diag([2, 2, 2, 1])
    nibabel.save(nibabel.Nifti1Image(stack, elsewhere), folder / "far.nii.gz")
    (fault,) = faults_of(folder, "image,slice,mask\nvolume.nii.gz,0,far.nii.gz\n")
    assert "mm apart in the patient" in fault


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        ("image,note\n\xe4,b\n".encode("latin-1"), "is not UTF-8 text"),
        (b'image,ratio\n"a.png,0.1\n', "line 2: not valid CSV"),
    ],
)
def test_a_file_that_is_no_table_is_told(tmp_path, content, expected):
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    with pytest.raises(WssegError, match=expected):
        read_cases(path)


def test_a_missing_table_is_told(tmp_path):
    with pytest.raises(WssegError, match="cannot be read"):
        read_cases(tmp_path / "cases.csv")


# --- laws of the cells ---


@given(st.floats(0, 1))
def test_a_ratio_survives_being_written(ratio):
    assert parse_ratio(str(ratio)) == ratio


@given(st.text())
def test_any_text_is_a_ratio_or_a_fault(text):
    with contextlib.suppress(CellError):
        ratio = parse_ratio(text)
        assert ratio is None or 0 <= ratio <= 1


@given(st.lists(st.tuples(st.integers(), st.integers(), st.integers(1, 3))))
def test_points_survive_being_written(points):
    assert parse_points(json.dumps(points), 3) == tuple(points)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_points_or_a_fault(value):
    with contextlib.suppress(CellError):
        points = parse_points(json.dumps(value), 2)
        assert all(len(point) == 3 and 1 <= point[2] <= 2 for point in points)


@given(st.lists(st.text("abc;,\"' \n", max_size=4), min_size=2, max_size=2))
def test_cells_survive_any_quoting(tmp_path_factory, notes):
    folder = tmp_path_factory.getbasetemp() / "quoting"
    folder.mkdir(exist_ok=True)
    picture(folder / "a.png")
    with (folder / "cases.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["image", "ratio", "note", "x_b"], ["a.png", "0.1", *notes]])
    assert read_cases(folder / "cases.csv").cases[0].ratios == (0.1,)


def test_a_fault_of_the_whole_table_has_no_line():
    assert str(Fault(0, "no case")) == "no case"
