"""A network that ignores its image is told from one that looks, and from one that is only poor."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from wsseg.imaging import Dependence, Window
from wsseg.train.cases import read_cases
from wsseg.train.data.dataset import CaseDataset
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.image_dependence import dependence_of
from wsseg.train.validation import PARTS_CASES, usual_parts

CPU = torch.device("cpu")
SIDE = 48
BRIGHT = 120.0


def disc(row, column, radius):
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.hypot(rows - row, columns - column) < radius


def cases(folder, *, centred=False, columns=("ratio", "marks", "mask"), same_size=False, count=10):
    """Bright discs on dark noise, each with a mark within it."""
    random = np.random.default_rng(1)
    rows = [["image", "split", *columns]]
    for number in range(count):
        row, column = (24, 24) if centred else random.uniform(14, 34, 2)
        inside = disc(row, column, 9 if same_size else random.uniform(6, 13))
        grey = random.normal(60, 12, inside.shape) + 120 * inside
        named = {
            "ratio": f"{inside.mean():.5f}",
            "marks": f"w{number}.png",
            "mask": f"m{number}.png",
        }
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / f"i{number}.png")
        Image.fromarray(inside.astype(np.uint8)).save(folder / named["mask"])
        Image.fromarray(disc(row, column, 3).astype(np.uint8)).save(folder / named["marks"])
        rows.append([f"i{number}.png", "train", *(named[column] for column in columns)])
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    table = read_cases(folder / "cases.csv")
    return CaseDataset(table.cases, table.classes, (), Preprocess(Window(), 32, 1))


def blob(raw):
    """The same disc whatever the image."""
    return torch.from_numpy(disc(24, 24, 9)).float()[None, None]


def nearly_blob(raw):
    """The same disc with an edge that follows the noise of the image."""
    wobble = (raw.mean() - raw.mean().floor()).item()
    return torch.from_numpy(disc(24 + wobble, 24, 9 + wobble)).float()[None, None]


def seeing(raw):
    return (raw > BRIGHT).float()


def seeing_twice_as_much(raw):
    return torch.nn.functional.max_pool2d(seeing(raw), 5, 1, 2)


def empty(raw):
    return torch.zeros_like(raw)


def everything(raw):
    return torch.ones_like(raw)


def judge(predictor, data):
    return dependence_of(predictor, data, range(len(data)), (0.5,), CPU)


EVIDENCE = [("ratio",), ("ratio", "marks"), ("marks",), ("mask",), ("ratio", "marks", "mask")]


@pytest.mark.parametrize("columns", EVIDENCE)
@pytest.mark.parametrize("network", [blob, nearly_blob, empty, everything])
def test_a_network_that_ignores_the_image_is_told_by_any_evidence(tmp_path, network, columns):
    found = judge(network, cases(tmp_path, columns=columns))
    assert found.ignored == ("roi",)
    assert "its ratios of roi mean nothing" in found.warning
    assert found.evidence["roi"]["masks_alike"] > 0.8


@pytest.mark.parametrize("columns", EVIDENCE)
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("network", [seeing, seeing_twice_as_much])
def test_a_network_that_looks_is_not_said_to_ignore_even_where_masks_are_much_alike(
    tmp_path, network, centred, columns
):
    found = judge(network, cases(tmp_path, centred=centred, columns=columns))
    assert found.ignored == ()
    assert found.warning == ""


def test_where_nothing_that_is_known_differs_there_is_no_verdict(tmp_path):
    data = cases(tmp_path, same_size=True, columns=("ratio",))
    assert judge(blob, data).ignored == ()
    assert judge(seeing, data).ignored == ()


def test_few_cases_are_no_ground_for_a_verdict(tmp_path):
    found = judge(blob, cases(tmp_path, count=3))
    assert found == Dependence(cases=3)


def test_the_figures_are_numbers_that_json_holds(tmp_path):
    for network in (blob, empty, seeing):
        found = judge(network, cases(tmp_path))
        assert Dependence.model_validate(json.loads(found.model_dump_json())) == found


def test_the_usual_number_of_parts_is_that_of_19_in_20_masks_that_have_a_pixel(tmp_path):
    data = cases(tmp_path, count=21)
    masks = iter([np.zeros((SIDE, SIDE), bool)] + [disc(24, 24, 9)] * 18 + [disc(8, 8, 4)] * 2)

    def with_some_more(raw):
        mask = next(masks)
        if mask[8, 8]:
            mask = mask | disc(30, 30, 4)
        return torch.from_numpy(mask).float()[None, None]

    # Two of 20 masks have two parts: more than one in 20.
    assert usual_parts(with_some_more, data, range(len(data)), (0.5,), CPU) == {"roi": 2}
    assert usual_parts(seeing, data, range(PARTS_CASES - 1), (0.5,), CPU) == {}
    assert usual_parts(empty, data, range(len(data)), (0.5,), CPU) == {}
