"""Curves and examples as pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsseg.imaging.definitions import SKY, VERMILION, YELLOW
from wsseg.train.cases import Case
from wsseg.train.data.dataset import Native
from wsseg.train.report import Example, draw_curves, draw_examples
from wsseg.train.validation import Prediction, count

HISTORY = [
    {"epoch": n, "learning_rate": 1 / n, "seconds": 1.0, "size": 1 / n, "total": 1 / n}
    for n in range(1, 6)
]


def _colours(path):
    with Image.open(path) as picture:
        return {tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3)}


def _rgb(colour):
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))


@pytest.mark.slow
def test_curves_gain_a_panel_when_there_are_validation_figures(tmp_path):
    draw_curves(HISTORY, 5, tmp_path / "without.png")
    draw_curves([*HISTORY[:4], {**HISTORY[4], "val_iou": 0.5}], 5, tmp_path / "with.png")
    heights = []
    for name in ("without.png", "with.png"):
        with Image.open(tmp_path / name) as picture:
            heights.append(picture.size[1])
    assert heights[1] == pytest.approx(heights[0] * 1.5, rel=0.01)


def _example(channels=1, masked=True):
    square = torch.zeros(1, 30, 40, dtype=torch.bool)
    square[0, 5:20, 5:25] = True
    marks = torch.zeros(30, 40, dtype=torch.int64)
    marks[10:14, 10:14] = 1
    native = Native(torch.rand(channels, 30, 40) * 200, square if masked else None, marks)
    probability = square.roll(3, 2).float()
    case = Case(row=7, image=Path("slice.png"), ratios=(0.2,))
    counts = count(case, native, probability, ("image",))
    return Example("worst", Prediction(native, probability, counts, (0.5,)))


def test_an_example_shows_mark_true_mask_and_prediction_each_in_its_colour(tmp_path):
    draw_examples([_example()], tmp_path / "examples.png")
    assert {_rgb(YELLOW), _rgb(SKY), _rgb(VERMILION)} <= _colours(tmp_path / "examples.png")


@pytest.mark.slow
def test_colour_slices_missing_masks_and_no_examples_at_all_are_drawn(tmp_path):
    broken = _example(channels=3, masked=False)
    broken.prediction.native.image[0, 0, 0] = float("nan")
    for number, examples in enumerate(([broken] * 9, [])):
        draw_examples(examples, tmp_path / f"{number}.png")
        assert len(_colours(tmp_path / f"{number}.png")) > 1
