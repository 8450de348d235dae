"""Whole runs: what they leave, and what they tell on their way."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.conftest import CONFIG, curve_of, prepared
from wsseg.imaging import Window
from wsseg.train.cases import Case, read_cases
from wsseg.train.data.dataset import Native
from wsseg.train.networks import last_layer
from wsseg.train.progress import TrainingState
from wsseg.train.report import finish, warn_of_missed
from wsseg.train.run_folder import WEIGHTS, RunFacts, load_run, save_weights
from wsseg.train.validation import Choice, count

pytestmark = pytest.mark.usefixtures("quick")


def test_a_run_leaves_its_record_weights_curves_pictures_and_samples(uninterrupted):
    out, record = uninterrupted.out, uninterrupted.record
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "curves.png",
        "examples.png",
        "last.pt",
        "metrics.csv",
        "predictions.csv",
        "run.json",
        "samples.npz",
        "splits.csv",
        "tb",
        "weights.safetensors",
    }
    assert json.loads((out / "run.json").read_text())["classes"] == ["roi"]
    assert record.chosen_by == "mask"
    assert [row["epoch"] for row in curve_of(out)] == [1, 2, 3, 4]
    scores = [row["val_iou"] for row in curve_of(out)]
    best = 1 + max(range(4), key=lambda place: (scores[place], place))
    assert record.normalisation is not None
    assert record.normalisation.averaged_score == max(scores)
    assert record.chosen_epoch in ({best} if record.normalisation.kept == "averaged" else {best, 4})
    for name in ("curves.png", "examples.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 200


def test_run_json_says_from_which_probability_on_a_pixel_counts(uninterrupted):
    written = json.loads((uninterrupted.out / "run.json").read_text())["thresholds"]
    assert written == list(uninterrupted.record.thresholds)
    assert len(written) == 1
    assert 0.3 <= written[0] <= 0.7


def test_cuts_are_kept_while_a_run_may_have_to_be_resumed(uninterrupted):
    first, second = "pseudo-labels-2.npz", "pseudo-labels-3.npz"
    assert uninterrupted.files == [set(), {first}, {first, second}, {first, second}]


def test_the_parts_of_the_objective_add_up_to_its_total(uninterrupted):
    for row in curve_of(uninterrupted.out):
        parts = [row[term.kind] for term in CONFIG.terms]
        assert sum(parts) == pytest.approx(row["total"], rel=1e-5)


def test_watchers_see_every_step_and_every_epoch(uninterrupted):
    assert [(r.epoch, r.step, r.steps) for r in uninterrupted.steps] == [
        (epoch, step, 2) for epoch in (1, 2, 3, 4) for step in (1, 2)
    ]
    assert [report.epoch for report in uninterrupted.epochs] == [1, 2, 3, 4]
    assert uninterrupted.epochs[-1].choice.epoch == uninterrupted.record.chosen_epoch


def test_training_leaves_the_random_state_of_its_caller_alone(uninterrupted):
    assert uninterrupted.untouched


def test_a_finished_run_is_read_back_with_the_weights_that_were_judged(
    uninterrupted, partly_marked
):
    record = uninterrupted.record
    run = load_run(uninterrupted.out)
    raw = np.asarray(Image.open(partly_marked.parent / "i0.png"), np.float32)[None]
    assert run.record == record
    assert [sample.shape[0] for sample in run.samples] == [1, 1]
    assert np.array_equal(run.samples[0], raw)
    ious = []
    for number, sample in enumerate(run.samples):
        with torch.no_grad():
            found = run.predictor(torch.from_numpy(sample)[None])[0, 0].numpy()
        found = found >= np.float32(record.thresholds[0])
        true = np.asarray(Image.open(partly_marked.parent / f"m{number}.png")) > 0
        ious.append((found & true).sum() / (found | true).sum())
    assert np.mean(ious) == pytest.approx(record.metrics["iou"], abs=1e-6)


@pytest.mark.parametrize(("bias", "told"), [(-50.0, True), (50.0, False)])
def test_a_run_that_finds_nothing_of_a_class_says_so(
    make_blobs, tmp_path, caplog, bias: float, told: bool
):
    table = read_cases(make_blobs(tmp_path, 4, 2))
    data, learner = prepared(table, CONFIG)
    layer = last_layer(learner.predictor().network)
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias.fill_(bias)
    save_weights(learner.average.module, tmp_path / WEIGHTS)
    history = [{"epoch": 1, "learning_rate": 0.1, "total": 1.0, "seconds": 1.0}]
    training = TrainingState(
        RunFacts(cases_sha256="", window=Window(), channels=1), history, Choice(1, "last")
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING, "wsseg.train"):
        finish(learner, data, table, training, tmp_path)
    said = "the network finds no pixel of roi in any of the 2 images that show it"
    assert (said in caplog.text) == told


def test_a_class_that_its_fitted_threshold_lets_through_is_not_said_to_be_missed(
    uninterrupted, caplog
):
    fitted = (0.4, 0.6)
    native = Native(torch.zeros(1, 2, 2), None, torch.zeros(2, 2, dtype=torch.int64))
    maps = torch.tensor([0.45, 0.55])[:, None, None].expand(2, 2, 2)
    case = Case(row=2, image=Path("a.png"), ratios=(0.1, 0.2))
    own = {"classes": ("low", "high"), "thresholds": fitted}
    counts = [count(case, native, maps, ("image", "image"), fitted)]
    with caplog.at_level(logging.WARNING, "wsseg.train"):
        warn_of_missed(counts, uninterrupted.record.model_copy(update=own))
    (warning,) = caplog.records
    assert "finds no pixel of high in any of the 1 images" in warning.getMessage()
