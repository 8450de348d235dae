"""What a person is shown of the targets is what a training would begin with."""

import numpy as np
import pytest

from wsseg.train.cases import read_cases
from wsseg.train.config import TrainConfig
from wsseg.train.trainer import PREVIEW_SIZE, choose_facts, prepare_data, target_preview


def test_the_first_targets_are_shown_and_what_is_not_taught_is_unknown(make_blobs, tmp_path):
    known = ["ratio,marks", "ratio,marks", "ratio", "marks", "mask", "ratio,marks"]
    table = read_cases(make_blobs(tmp_path, 6, 1, known=known))
    shown = target_preview(table, ())
    config = TrainConfig(preset="wsseg", size=PREVIEW_SIZE)
    data = prepare_data(table, config, choose_facts(table, config)).train
    for place, case in enumerate(table.part("train")):
        sample, target = data.item(place), shown(case)
        taught = sample.target_weight.numpy() > 0
        assert target.shape == (1, PREVIEW_SIZE, PREVIEW_SIZE)
        assert np.array_equal(target[taught], sample.target.numpy()[taught])
        assert np.isnan(target[~taught]).all()
    # In order: marks that grew, an area alone, marks alone, a mask.
    marked, area, marks, mask = (shown(case) for case in table.part("train")[:4])
    assert np.nanmean(marked) > 0
    assert np.isnan(area).all()
    assert 0 < np.isfinite(marks).mean() < 0.2
    assert np.isfinite(mask).all()


def test_what_is_guessed_of_an_area_is_shown(make_blobs, tmp_path):
    table = read_cases(make_blobs(tmp_path, 30, 1, known=["ratio"] * 30))
    shown = target_preview(table, ())
    proposed = [shown(case) for case in table.part("train")]
    assert all(np.isfinite(target).all() for target in proposed)
    strengths = sorted(float(target.max()) for target in proposed)
    assert strengths == pytest.approx(np.arange(1, 30) / 29, abs=0.01)
