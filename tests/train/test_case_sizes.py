"""Sizes in cases.csv, in whatever unit, are the same ratios."""

from pathlib import Path

import nibabel
import numpy as np
import openpyxl
import pytest

from tests.train.conftest import COLUMNS, ROWS
from wsseg.imaging import RatioDefinition, TableError, TableOptions
from wsseg.train.cases import Case, read_cases


def write(folder: Path, text: str) -> Path:
    path = folder / "cases.csv"
    path.write_text(text, encoding="utf-8")
    return path


def cases(folder: Path, text: str, **arguments) -> tuple[Case, ...]:
    return read_cases(write(folder, text), **arguments).cases


@pytest.mark.parametrize(
    "text",
    [
        "image,ratio,ratio_low,ratio_high\na.png,0.0423,0.01,0.1\nb.png,0.0063,,\n",
        "image,ratio_percent,ratio_low_percent,ratio_high_percent\na.png,4.23,1,10\nb.png,0.63,,\n",
        "image;Ratio percent;ratio_percent_low;ratio high percent\na.png;4,23;1;10\nb.png;0,63;;\n",
        "image;ratio;ratio_low;ratio_high\na.png;4,23 %;1%;10%\nb.png;0,63%;;\n",
        "image,ratio_percent:roi,ratio_low_percent:roi,ratio_high_percent:roi\n"
        "a.png,4.23%,1,10\nb.png,0.63,,\n",
        "image,area_px,ratio_low,ratio_high\na.png,3.384,0.01,0.1\nb.png,0.504,,\n",
    ],
)
def test_one_ratio_can_be_written_in_several_ways(folder, text):
    first, second = cases(folder, text)
    (region,) = first.regions
    assert (*first.ratios, region.low, region.high) == pytest.approx((0.0423, 0.01, 0.1))
    assert second.ratios == pytest.approx((0.0063,))


def test_a_workbook_is_a_table_of_cases(folder):
    book = openpyxl.Workbook()
    sheet = book.create_sheet("Lesions")
    for line in (["Image", "ratio", "Patient", "Group"], ["a.png", 0.0423, "X", 7], [None] * 4):
        sheet.append(line)
    sheet["B2"].number_format = "0.00%"
    book.save(folder / "cases.xlsx")
    options = TableOptions("Lesions", ("patient",))
    (case,) = read_cases(folder / "cases.xlsx", options=options).cases
    assert (case.row, case.ratios, case.group) == (2, (0.0423,), "7")


def test_areas_of_several_classes_are_shares_of_their_own_images(folder):
    text = f"image,area_px:a,ratio:b,group\na.png,{ROWS * COLUMNS // 4},0.5,p\nb.png,0,,p\n"
    table = read_cases(write(folder, text))
    assert table.classes == ("a", "b")
    assert [case.ratios for case in table.cases] == [(0.25, 0.5), (0.0, None)]


def test_an_area_in_mm2_is_divided_by_that_of_the_image(folder):
    volume = np.zeros((COLUMNS, ROWS, 3), np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([0.5, 2, 3, 1])), folder / "mm.nii.gz")
    (case,) = cases(folder, "image,slice,area_mm2\nmm.nii.gz,1,20\n")
    assert case.ratios == pytest.approx((20 / (0.5 * 2 * ROWS * COLUMNS),))


def test_an_area_says_nothing_of_a_ratio_to_something_else(folder):
    ratios = (RatioDefinition(name="r", numerator="a", denominator="b"),)
    with pytest.raises(TableError, match="area_px:a: an area gives a share of the whole image"):
        cases(folder, "image,area_px:a,ratio:b\na.png,8,0.5\n", ratios=ratios)


def test_an_area_of_an_image_that_is_not_there_is_told_once(folder):
    with pytest.raises(TableError) as caught:
        cases(folder, "image,area_px\nx.png,8\n")
    assert len(caught.value.faults) == 1


def test_a_ratio_in_a_column_of_areas_is_doubted(folder):
    (doubt, *_) = read_cases(write(folder, "image,area_px\na.png,0.005\nb.png,0.004\n")).doubts
    assert "the median of area_px is 5.62e-05, less than a ten-thousandth" in doubt


def test_what_may_be_in_another_unit_is_doubted(folder):
    (doubt, *_) = read_cases(write(folder, "image,ratio\na.png,0.63\nb.png,0.9\n")).doubts
    assert "the median of ratio is 0.765, more than half of the image" in doubt
