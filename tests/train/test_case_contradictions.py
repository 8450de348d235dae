"""What a row says must agree with itself, its picture, its marks and its mask."""

from pathlib import Path

import pytest

from wsseg.imaging import RatioDefinition, TableError
from wsseg.train.cases import read_cases

# Of the shared files: 80 pixels in 10 rows and 8 columns, marks on the first 4 of row 0, a mask of
# rows 0 and 1: its ratio is 0.2, its box [0, 0, 2, 8], its centroid [0.5, 3.5].
FAULTS = {
    "bounds the wrong way round": (
        "ratio_low,ratio_high",
        "0.3,0.2",
        "ratio_low of roi is 0.3, above its ratio_high 0.2",
    ),
    "ratio below its bounds": ("ratio,ratio_low", "0.1,0.2", "ratio of roi is 0.1, below its"),
    "ratio above its bounds": ("ratio,ratio_high", "0.3,0.2", "ratio of roi is 0.3, above its"),
    "present without an area": (
        "present,ratio",
        "1,0",
        "ratio 0 says that there is no roi, but present 1 says that there is",
    ),
    "absent with a ratio": (
        "present,ratio",
        "0,0.1",
        "present 0 says that there is no roi, but ratio 0.1 says that there is",
    ),
    "absent with a lower bound": ("present,ratio_low", "0,0.1", "but ratio_low 0.1 says"),
    "absent with a box": ("present,box", '0,"[0, 0, 1, 1]"', "but box says that there is"),
    "no area at most, with a centroid": (
        "ratio_high,centroid",
        '0,"[1, 1]"',
        "ratio_high 0 says that there is no roi, but centroid says that there is",
    ),
    "absent with extremes": (
        "present,extremes",
        '0,"[[0, 0], [0, 0], [1, 1], [1, 1]]"',
        "but extremes says that there is",
    ),
    "absent with marks": (
        "present,marks",
        "0,marks.png",
        "marks: 4 pixels are marked as roi, but present 0 says that there is none",
    ),
    "absent with a mask": (
        "present,mask",
        "0,mask.png",
        "mask: 16 pixels are roi, but present 0 says that there is none",
    ),
    "present with an empty mask": (
        "present,mask",
        "1,empty.png",
        "mask: shows no roi, but present 1 says that there is",
    ),
    "box beyond the image": (
        "box",
        '"[0, 0, 8, 10]"',
        "box of roi: [0, 0, 8, 10] reaches beyond the image of 10 rows and 8 columns",
    ),
    "box and extremes differ": (
        "box,extremes",
        '"[0, 0, 3, 3]","[[0, 0], [0, 0], [1, 1], [1, 1]]"',
        "box of roi is [0, 0, 3, 3], but its extremes span [0, 0, 2, 2]",
    ),
    "marks outside the box": (
        "box,marks",
        '"[0, 1, 2, 8]",marks.png',
        "marks: 1 pixels marked as roi lie outside its box [0, 1, 2, 8]",
    ),
    "box too small for the ratio": (
        "box,ratio",
        '"[0, 0, 2, 2]",0.1',
        "ratio of roi is 0.1, which is 8.0 pixels, but its box holds 4",
    ),
    "box too small for the lower bound": (
        "box,ratio_low",
        '"[0, 0, 2, 2]",0.1',
        "ratio_low of roi is 0.1, which is 8.0 pixels, but its box holds 4",
    ),
    "marks larger than the upper bound": (
        "ratio_high,marks",
        "0.04,marks.png",
        "4 pixels are marked as roi, but its ratio_high 0.04 leaves room for 3.2",
    ),
    "centroid outside the image": (
        "centroid",
        '"[2, 8.1]"',
        "centroid of roi: [2.0, 8.1] lies outside the image of 10 rows and 8 columns",
    ),
    "centroid outside the box": (
        "box,centroid",
        '"[2, 2, 6, 6]","[4, 1]"',
        "centroid of roi: [4.0, 1.0] lies outside its box [2, 2, 6, 6]",
    ),
    "spread of more than the image": (
        "spread",
        '"[1, 4.5]"',
        "spread of roi: [1.0, 4.5] is more than half of the image",
    ),
    "spread of more than the box": (
        "box,spread",
        '"[2, 2, 6, 6]","[1, 2.5]"',
        "spread of roi: [1.0, 2.5] is more than half of its box",
    ),
    "lower bound above the mask": (
        "ratio_low,mask",
        "0.3,mask.png",
        "ratio_low of roi is 0.3, but its mask shows 0.2",
    ),
    "upper bound below the mask": (
        "ratio_high,mask",
        "0.1,mask.png",
        "ratio_high of roi is 0.1, but its mask shows 0.2",
    ),
    "lower bound on an empty mask": (
        "ratio_low,mask",
        "0.001,empty.png",
        "ratio_low of roi is 0.001, but its mask shows 0",
    ),
    "box of another region than the mask": (
        "box,mask",
        '"[0, 0, 4, 8]",mask.png',
        "box of roi is [0, 0, 4, 8], but its mask shows [0, 0, 2, 8]",
    ),
    "centroid of another region than the mask": (
        "centroid,mask",
        '"[0.5, 6.5]",mask.png',
        "centroid of roi is [0.5, 6.5], but its mask shows [0.5, 3.5]",
    ),
    "spread of another region than the mask": (
        "spread,mask",
        '"[0.5, 1]",mask.png',
        "spread of roi is [0.5, 1], but its mask shows [0.5, 2.3]",
    ),
}


def read(folder: Path, columns: str, cells: str, **arguments):
    (folder / "cases.csv").write_text(f"image,{columns}\na.png,{cells}\n", encoding="utf-8")
    return read_cases(folder / "cases.csv", **arguments)


def faults_of(folder: Path, columns: str, cells: str, **arguments) -> list[str]:
    with pytest.raises(TableError) as caught:
        read(folder, columns, cells, **arguments)
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(("columns", "cells", "expected"), FAULTS.values(), ids=FAULTS.keys())
def test_a_contradiction_is_told_once(folder, columns, cells, expected):
    (fault,) = faults_of(folder, columns, cells)
    assert fault.startswith("line 2: ")
    assert expected in fault


SOUND = {
    "a ratio on its bounds": ("ratio,ratio_low,ratio_high", "0.2,0.2,0.2"),
    "an absent class": ("present,ratio,ratio_high", "0,0,0"),
    "an absent class that may have an area": ("present,ratio_high,ratio_low", "0,0.1,0"),
    "absent, with background marked": ("present,marks", "0,white.png"),
    "a box, with background marked": ("box,marks", '"[2, 0, 4, 8]",white.png'),
    "all that the mask shows": (
        "ratio,present,marks,box,centroid,spread,mask",
        '0.2,1,marks.png,"[0, 0, 2, 8]","[0.5, 3.5]","[0.5, 2.3]",mask.png',
    ),
    "what another reader may have measured": (
        "ratio_low,ratio_high,box,centroid,spread,mask",
        '0.21,0.3,"[0, 0, 3, 7]","[1, 2.5]","[0.9, 2]",mask.png',
    ),
    "a box that is full": ("ratio,box", '0.2,"[0, 0, 2, 8]"'),
    "a centroid counted from pixels' corners": ("box,centroid", '"[2, 2, 3, 3]","[2.5, 2.5]"'),
    "a region of one pixel": (
        "extremes,centroid,spread",
        '"[[1, 1], [1, 1], [1, 1], [1, 1]]","[1, 1]","[0, 0]"',
    ),
}


@pytest.mark.parametrize(("columns", "cells"), SOUND.values(), ids=SOUND.keys())
def test_what_may_all_be_true_is_no_fault(folder, columns, cells):
    assert len(read(folder, columns, cells).cases) == 1


def test_only_a_share_of_the_image_is_compared_with_the_box(folder):
    ratios = (RatioDefinition(name="r", numerator="a", denominator="foreground"),)
    columns, cells = "ratio:a,ratio:b,box:a", '0.9,0.1,"[0, 0, 2, 2]"'
    assert read(folder, columns, cells, ratios=ratios)
    (fault,) = faults_of(folder, columns, cells)
    assert "ratio of a is 0.9, which is 72.0 pixels, but its box holds 4" in fault


def test_each_class_is_held_to_its_own_statements(folder):
    columns = "ratio:a,ratio:b,box:a,box:b,mask"
    sound = '0.1,0.1,"[0, 0, 1, 8]","[1, 0, 2, 8]",two.png'
    assert read(folder, columns, sound)
    exchanged = '0.1,0.1,"[1, 0, 2, 8]","[6, 0, 7, 8]",two.png'
    (fault,) = faults_of(folder, columns, exchanged)
    assert "box of b is [6, 0, 7, 8], but its mask shows [1, 0, 2, 8]" in fault


def test_a_row_that_contradicts_itself_is_not_compared_further(folder):
    (fault,) = faults_of(folder, "ratio,extremes", '0,"[[0, 0], [0, 0], [1, 1], [1, 1]]"')
    assert "ratio 0 says that there is no roi, but extremes says that there is" in fault
