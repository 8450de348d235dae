"""Every fault of cases.csv is found before training, and told in one report."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from wsseg.imaging import Fault, RatioDefinition, TableError, WssegError
from wsseg.imaging.tables import MOST_LINES
from wsseg.train.cases import read_cases


def write(folder: Path, text: str) -> Path:
    path = folder / "cases.csv"
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(folder: Path, text: str, **arguments) -> list[str]:
    with pytest.raises(TableError) as caught:
        read_cases(write(folder, text), **arguments)
    return [str(fault) for fault in caught.value.faults]


ROW_FAULTS = {
    "no such image": ("image,ratio\nx.png,0.1\n", "line 2: image: there is no file"),
    "another capital": ("image,ratio\nA.png,0.1\n", "but a.png: capitals count"),
    "path of Windows": (
        "image,ratio\nC:\\data\\a.png,0.1\n",
        "that is a path of a Windows computer; write paths relative",
    ),
    "image empty": ("image,ratio\n,0.1\n", "line 2: image: empty"),
    "image is a folder": ("image,ratio\nfolder,0.1\n", "is a folder: name one file"),
    "unreadable image": ("image,ratio\ntext.png,0.1\n", "line 2: image: text.png"),
    "content not fetched": (
        "image,marks\na.png,annexed.png\n",
        "annexed.png is a link to content that is not here: get it first, with git annex get",
    ),
    "no name of a file": (f"image,ratio\n{'x' * 300},0.1\n", "line 2: image: "),
    "no name of a label file": (
        f"image,marks\na.png,{'x' * 300}\n",
        "cannot be opened (File name too long)",
    ),
    "no such marks": ("image,marks\na.png,x.png\n", "line 2: marks: there is no file"),
    "unreadable mask": ("image,mask\na.png,text.png\n", "line 2: mask: text.png"),
    "ratio in percent": (
        "image,ratio\na.png,4.23\nb.png,0.63\n",
        "line 1: ratio: 1 of 2 cells are above 1, the largest 4.23 in line 2: if this column is in "
        "percent, call it ratio_percent",
    ),
    "some percent signs": (
        "image,ratio\na.png,4.23%\nb.png,0.63\nc.png,0\n",
        "line 1: ratio: 1 cells have a percent sign, as in line 2, and 1 have none, as in line 3",
    ),
    "some percent signs beside marks, which contradict no number without a unit": (
        "image,ratio,marks\na.png,12%,marks.png\na.png,0.12,marks.png\n",
        "line 1: ratio: 1 cells have a percent sign, as in line 2, and 1 have none, as in line 3",
    ),
    "one class in percent": (
        "image,ratio_percent:a,ratio:b\na.png,4.23,0.63\n",
        "ratio_percent:a is in percent and ratio:b is not: write all in one unit; in percent, "
        "ratio:b is called ratio_percent:b",
    ),
    "ratio twice": (
        "image,ratio,ratio_percent\na.png,0.1,10\n",
        "ratio_percent and ratio say the same: keep one of them",
    ),
    "more than 100 percent": ("image,ratio_percent\na.png,120\n", "line 2: ratio_percent: 120 is"),
    "ratio below 0": ("image,ratio\na.png,-0.1\n", "-0.1 is below 0"),
    "ratio far above 1": (
        "image,ratio\na.png,250\n",
        "250 is more than the whole image, even in percent",
    ),
    "ratio is a word": ("image,ratio\na.png,big\n", "big is not a number: write a fraction"),
    "ratio is nan": ("image,ratio\na.png,nan\n", "nan is not a number"),
    "area larger than the image": (
        "image,area_px\na.png,81\n",
        "line 2: area_px: 81 pixels are more than the whole image, 80",
    ),
    "area of pixels of unknown size": ("image,area_mm2\na.png,8\n", "give area_px or a ratio"),
    "area and ratio": ("image,area_px,ratio\na.png,8,0.1\n", "ratio and area_px both give a size"),
    "thousands or decimals": (
        'image,area_px\na.png,"1,234"\n',
        "1,234 (line 2) may have a decimal comma",
    ),
    "class without evidence": (
        "image,ratio:a,ratio:cyst\na.png,0.1,\n",
        "no training case describes cyst",
    ),
    "truncated image": ("image,ratio\ncut.png,0.1\n", "line 2: image: cut.png"),
    "box marked as something else": (
        'image,box,points\na.png,"[0, 0, 1, 2]","[[0, 0, 255], [0, 1, 255]]"\n',
        "marks: all of the box [0, 0, 1, 2] of roi is marked as something else",
    ),
    "groups spelt in two ways": (
        "image,ratio,group,split\na.png,0.1,p 1,train\nb.png,0.1,P1,val\n",
        "line 3: its group is in val here and in train in line 2, spelt otherwise",
    ),
    "marks on another grid": (
        "image,marks\na.png,small.png\n",
        "marks: small.png has 4 rows and 4 columns, the image 10 and 8",
    ),
    "mask on another grid": ("image,mask\na.png,small.png\n", "mask: small.png has 4 rows"),
    "labels that are no classes": (
        "image,marks\na.png,odd.png\n",
        "marks: pixel values 7, 9 are no class numbers: expected 1, 255 where background is "
        "marked, and 0 elsewhere",
    ),
    "most of the marks are k + 1": (
        "image,marks\na.png,inverted.png\n",
        "marks: most pixels are 2, as where that means not marked and 0 a stroke over background: "
        "write 255 for 0, then 0 for 2",
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
    "extreme outside the image": (
        'image,extremes\na.png,"[[0, 3], [5, 0], [10, 3], [5, 5]]"\n',
        "extremes: [10, 3] lies outside the image of 10 rows and 8 columns",
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
    "nothing to learn from": ("image,ratio\na.png,\n", "line 2: the row has nothing to learn from"),
    "a kind of mark without a mark": (
        "image,mark_kind\na.png,disc\n",
        "line 2: the row has nothing to learn from",
    ),
    "too many cells": ("image,ratio\na.png,0.1,2\nb.png,0.1\n", "line 2: 3 cells where the header"),
    "too few cells": ("image,ratio\na.png\nb.png,0.1\n", "line 2: 1 cells where the header has 2"),
}


@pytest.mark.parametrize(("text", "expected"), ROW_FAULTS.values(), ids=ROW_FAULTS.keys())
def test_a_fault_is_told_with_its_line_and_what_to_do(folder, text, expected):
    (fault,) = faults_of(folder, text)
    assert expected in fault


def test_a_point_without_a_class_is_a_fault_among_several(folder):
    text = 'image,ratio:a,ratio:b,points\na.png,0.1,0.1,"[[1, 2]]"\n'
    (fault,) = faults_of(folder, text)
    assert "point [1, 2] has no class" in fault


def test_all_faults_come_in_one_report_in_the_order_of_the_lines(folder):
    text = (
        "image,ratio,marks,mask,split\n"
        "x.png,800,marks.png,mask.png,train\n"
        "a.png,big,small.png,odd.png,vall\n"
        "b.png,0.01,marks.png,,train\n"
        "b.png,0.2,,,train\n"
        "c.png,,,,train\n"
    )
    with pytest.raises(TableError) as caught:
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
    with pytest.raises(TableError) as caught:
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
    (fault,) = faults_of(folder, "image,marks,mask\na.png,background.png,mask.png\n")
    assert "1 marked pixels have another class in the mask" in fault


def test_a_healthy_case_may_mark_background_only(folder):
    assert read_cases(write(folder, "image,ratio,marks\na.png,0,white.png\n"))


def test_a_label_volume_elsewhere_in_the_patient_is_a_fault(folder):
    (fault,) = faults_of(folder, "image,slice,mask\nvolume.nii.gz,0,far.nii.gz\n")
    assert "mm apart in the patient" in fault


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"image,note\n\x81,b\n", "is not UTF-8 text .line 2."),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Excel file of the old kind"),
        (b"PK\x03\x04 no workbook", "cannot be read as an Excel workbook"),
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


def test_a_fault_of_the_whole_table_has_no_line():
    assert str(Fault(0, "no case")) == "no case"


def copied(folder: Path, *names: str) -> list[str]:
    lines = [f"{name},0.1,{'val' if number else 'train'}" for number, name in enumerate(names)]
    text = "image,ratio,split\n" + "\n".join(lines) + "\n"
    said = read_cases(write(folder, text)).doubts
    return [doubt for doubt in said if "cop" in doubt]


def test_a_copy_in_another_format_is_named_by_its_line(folder):
    noise = np.random.default_rng(1).integers(0, 255, (10, 8), np.uint8)
    for name in ("one.png", "same.tif", "same.bmp.png"):
        Image.fromarray(noise).save(folder / name)
    Image.fromarray(np.dstack([noise] * 3)).save(folder / "same.bmp.png")
    Image.fromarray(255 - noise).save(folder / "other.png")
    (told,) = copied(folder, "one.png", "same.tif", "other.png", "same.bmp.png")
    assert told.startswith("2 images are copies of images in another split")
    assert "line 3 copies line 2, line 5 copies line 2" in told


def test_a_copy_on_another_scale_is_a_copy(folder):
    noise = np.random.default_rng(1).integers(0, 256, (10, 8), np.uint8)
    Image.fromarray(noise).save(folder / "one.png")
    Image.fromarray(noise.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(noise / np.float32(255)).save(folder / "share.tif")
    (told,) = copied(folder, "one.png", "deep.png", "share.tif")
    assert "line 3 copies line 2, line 4 copies line 2" in told


def test_pictures_that_differ_in_one_pixel_are_no_copies(folder):
    noise = np.random.default_rng(1).integers(0, 255, (99, 98), np.uint8)
    Image.fromarray(noise).save(folder / "one.png")
    noise[1, 1] ^= 1
    Image.fromarray(noise).save(folder / "two.png")
    assert not copied(folder, "one.png", "two.png")


def test_volumes_are_copies_by_their_pixels(folder):
    pixels = np.random.default_rng(1).integers(0, 99, (8, 10, 3)).astype(np.int16)
    for name in ("one.nii", "same.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), folder / name)
    text = "image,slice,ratio\none.nii,0,0.1\none.nii,1,0.1\nsame.nii.gz,2,0.1\n"
    assert any("line 4 copies line 2" in doubt for doubt in read_cases(write(folder, text)).doubts)


def test_a_truncated_volume_is_a_fault_of_its_first_row(folder):
    pixels = np.random.default_rng(1).integers(0, 99, (64, 64, 9)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), folder / "cut.nii.gz")
    whole = (folder / "cut.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (fault,) = faults_of(folder, "image,slice,ratio\ncut.nii.gz,0,0.1\ncut.nii.gz,1,0.1\n")
    assert fault.startswith("line 2: image: ")
