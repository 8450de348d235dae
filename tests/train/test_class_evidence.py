"""Classes that a table teaches too little of are told before anything is trained."""

from pathlib import Path

import pytest

from wsseg.imaging import RatioDefinition
from wsseg.train.cases import read_cases, small_regions


def doubts(folder: Path, text: str, **arguments) -> str:
    path = folder / "cases.csv"
    path.write_text(text, encoding="utf-8")
    return "\n".join(read_cases(path, **arguments).doubts)


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ("image,ratio:a,ratio:b\na.png,0.1,0\nb.png,0.1,0\n", "no training case shows b"),
        ("image,present\na.png,1\nb.png,1\n", "prevents roi from covering the whole image"),
        ('image,points\na.png,"[[1, 1]]"\n', "prevents roi from covering the whole image"),
        ("image,ratio_low\na.png,0.1\n", "prevents roi from covering the whole image"),
        ("image,mask,ratio:a,ratio:b\na.png,mask.png,,\n", "no training case shows b"),
    ],
)
def test_a_class_that_can_hardly_be_learnt_is_doubted(folder, text, doubt):
    assert doubt in doubts(folder, text)


@pytest.mark.parametrize(
    "text",
    [
        "image,ratio\na.png,0.1\n",
        "image,present,group\na.png,1,p\nb.png,0,p\n",
        'image,points\na.png,"[[1, 1], [9, 7, 255]]"\n',
        'image,box\na.png,"[0, 0, 4, 4]"\n',
        "image,mask\na.png,mask.png\n",
        "image,ratio_high\na.png,0.1\n",
    ],
)
def test_a_class_that_can_be_learnt_is_not(folder, text):
    said = doubts(folder, text)
    assert "everywhere" not in said
    assert "nowhere" not in said


def test_a_denominator_that_nobody_knows_is_doubted(folder):
    ratios = (RatioDefinition(name="r", numerator="fat", denominator="muscle"),)
    known = "image,ratio:fat,ratio:muscle\na.png,0.5,0.2\n"
    unknown = "image,ratio:fat,present:muscle\na.png,0.5,1\n"
    classes = ("fat", "muscle")
    doubt = "the ratio of fat is relative to muscle, and no training case says where"
    assert doubt in doubts(folder, unknown, ratios=ratios, classes=classes)
    assert doubt not in doubts(folder, known, ratios=ratios)


def test_regions_below_a_cell_of_the_network_are_counted(folder):
    path = folder / "cases.csv"
    path.write_text("image,ratio\na.png,0.0005\nb.png,0.1\n", encoding="utf-8")
    table = read_cases(path)
    (told,) = small_regions(table.cases, table.classes, ("image",), 32)
    assert "1 training cases have less of roi than one of the 32 x 32 cells" in told
    assert "line 2" in told
    assert not list(small_regions(table.cases, table.classes, ("image",), 64))
