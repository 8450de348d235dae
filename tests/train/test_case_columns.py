"""The header of cases.csv: its columns, and the classes that they name."""

from pathlib import Path

import pytest

from wsseg.imaging import TableError
from wsseg.train.cases import read_cases


def faults_of(folder: Path, text: str, **arguments) -> list[str]:
    (folder / "cases.csv").write_text(text, encoding="utf-8")
    with pytest.raises(TableError) as caught:
        read_cases(folder / "cases.csv", **arguments)
    return [str(fault) for fault in caught.value.faults]


HEADER_FAULTS = {
    "no image column": ("picture,ratio\n", "no column named image"),
    "misspelt column": ("image,ratios\n", "unknown column ratios: the nearest known one is ratio;"),
    "image column by another name": (
        "path,ratio\n",
        "unknown column path: if it holds the paths of the pictures, call it image",
    ),
    "misspelt beside a lacking image": (
        "path,ratios\n",
        "unknown column ratios: the nearest known one is ratio;",
    ),
    "unlike any beside an image": ("image,path\n", "unknown column path: the nearest known one"),
    "both kinds of ratio": ("image,ratio,ratio:a\n", "both ratio and ratio:<class>"),
    "ratio of no class": ("image,ratio:\n", "unknown column ratio:"),
    "two columns of one name": ("image,image\n", "2 columns are named image"),
    "column without a name": ("image,ratio,\na.png,0.1,2\n", "column 3 has no name"),
    "class called image": ("image,ratio:image\n", "a class cannot be called image"),
    "both kinds of box": ("image,box,box:a\n", "both box and box:<class> columns: keep one kind"),
    "one box for two classes": (
        "image,ratio:a,ratio:b,box\n",
        "a box column with 2 classes: write box:<class>, one column a class",
    ),
    "misspelt class": (
        "image,ratio:tumour,box:tumor\n",
        "column box:tumor names no class: the classes are tumour; name every class by a "
        "ratio:<class> column",
    ),
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
