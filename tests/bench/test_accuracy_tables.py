"""What an arm's training table tells it, and what not."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.accuracy.arms import ARMS
from bench.accuracy.datasets import DATASETS, label_map, scribble_map
from bench.accuracy.folds import parts
from bench.accuracy.tables import write_table
from tests.bench.conftest import SIDE
from wsseg.imaging import WssegError
from wsseg.train.cases import read_cases

WEAK = [name for name, arm in ARMS.items() if arm.marks not in ("masks", "drawn")]


def teaching(data: Path, name: str):
    dataset = DATASETS[name]
    pictures = dataset.read(data / dataset.folder)
    split = zip(pictures, parts(pictures, 0, dealt=dataset.dealt), strict=True)
    return dataset, [(picture, part) for picture, part in split if part != "held-out"]


def table_of(data: Path, name: str, arm: str, folder: Path) -> Path:
    dataset, pictures = teaching(data, name)
    return write_table(dataset, ARMS[arm], pictures, folder, seed=0)


@pytest.mark.parametrize("arm", WEAK)
def test_a_weak_table_carries_no_mask(data, tmp_path, arm):
    dataset, pictures = teaching(data, "busi")
    path = write_table(dataset, ARMS[arm], pictures[:6], tmp_path / "cases", seed=0)
    table = read_cases(path)
    assert {case.split for case in table.cases} == {"train", "val"}
    assert all(case.mask is None for case in table.cases)
    assert "mask" not in path.read_text(encoding="utf-8").splitlines()[0].split(",")
    # Nor does a full mask lie in the folder under another name.
    for drawn in (tmp_path / "cases").rglob("*.png"):
        assert (np.asarray(Image.open(drawn)) > 0).sum() < 0.03 * SIDE**2


def test_full_supervision_has_the_masks_of_the_whole_table(data, tmp_path):
    dataset, pictures = teaching(data, "kidneys2")
    table = read_cases(table_of(data, "kidneys2", "full", tmp_path / "cases"))
    assert table.classes == ("right_kidney", "left_kidney")
    for case, (picture, part) in zip(table.cases, pictures, strict=True):
        assert case.mask is not None
        assert np.array_equal(np.asarray(Image.open(case.mask)), label_map(dataset, picture))
        assert (case.split, case.group) == (part, picture.group)


def test_ratios_are_those_of_the_full_resolution(data, tmp_path):
    dataset, pictures = teaching(data, "kidneys")
    table = read_cases(table_of(data, "kidneys", "wsseg-8", tmp_path / "cases"))
    for case, (picture, _) in zip(table.cases, pictures, strict=True):
        assert case.ratios == ((label_map(dataset, picture) == 1).mean(),)


def test_both_kidneys_of_a_slice_are_marked(data, tmp_path):
    _, pictures = teaching(data, "kidneys")
    table = read_cases(table_of(data, "kidneys", "wsseg-4", tmp_path / "cases"))
    for case, (picture, _) in zip(table.cases, pictures, strict=True):
        assert case.marks is not None
        marks = np.asarray(Image.open(case.marks)) > 0
        labels = np.asarray(Image.open(picture.labels))
        assert [bool(marks[labels == n].any()) for n in (2, 3)] == [
            (labels == n).any() for n in (2, 3)
        ]


@pytest.mark.parametrize(
    ("arm", "least", "most"), [("wsseg-share-25", 1, 7), ("wsseg-share-0", 0, 0)]
)
def test_a_share_leaves_the_other_images_their_ratio(data, tmp_path, arm, least, most):
    table = read_cases(table_of(data, "busi", arm, tmp_path / "cases"))
    train = table.part("train")
    assert least <= sum(case.marks is not None for case in train) <= most
    assert all(case.ratios[0] is not None for case in train)


def test_drawn_scribbles_keep_class_and_background_strokes(data, tmp_path):
    dataset, pictures = teaching(data, "cardiac")
    table = read_cases(table_of(data, "cardiac", "wsseg-scribble", tmp_path / "cases"))
    assert all(case.mask is None for case in table.cases)
    assert all(region.mark_kind == "scribble" for case in table.cases for region in case.regions)
    assert table.cases[0].marks is not None
    marks = np.asarray(Image.open(table.cases[0].marks))
    assert np.array_equal(marks, scribble_map(dataset, pictures[0][0]))
    assert (marks[2] == 255).all()
    assert sorted(np.unique(marks)) == [0, 1, 2, 3, 255]


def test_a_missing_data_set_is_told(tmp_path):
    with pytest.raises(WssegError, match="--data"):
        DATASETS["busi"].read(tmp_path / "busi")


def test_a_picture_without_a_lesion_is_no_case(data):
    assert len(DATASETS["busi"].read(data / "busi")) == 25


def test_the_table_of_one_arm_replaces_that_of_another(data, tmp_path):
    table_of(data, "busi", "full", tmp_path / "cases")
    path = table_of(data, "busi", "wsseg-8", tmp_path / "cases")
    assert sorted(found.name for found in (tmp_path / "cases").iterdir()) == ["marked"]
    with path.open(encoding="utf-8", newline="") as file:
        assert "mask" not in next(csv.reader(file))
