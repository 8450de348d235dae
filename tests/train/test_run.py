"""Whole runs: what they leave, that they repeat, resume and do not depend on the processes."""

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from wsseg.imaging.errors import WssegError
from wsseg.train.checkpoint import load_run
from wsseg.train.config import TrainConfig
from wsseg.train.progress import EpochReport, StepReport
from wsseg.train.run import train

CONFIG = TrainConfig(
    network="mobilenet_v2",
    size=32,
    epochs=3,
    batch=4,
    learning_rate=1e-5,
    precision="fp32",
    accelerator="cpu",
    seed=3,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from wsseg.train.config import TrainConfig
from wsseg.train.run import train
def on_step(report):
    if (report.epoch, report.step) == (2, 2):
        os.kill(os.getpid(), signal.SIGKILL)
cases, out, config = sys.argv[1:]
train(Path(cases), Path(out), TrainConfig.model_validate_json(config), on_step=on_step)
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cases(make_blobs, tmp_path_factory):
    return make_blobs(tmp_path_factory.mktemp("blobs"), 11, 2)


@pytest.fixture(scope="module")
def straight(cases, tmp_path_factory):
    """A run from start to end, with what its watchers saw and the caller's random state."""
    out = tmp_path_factory.mktemp("straight") / "run"
    steps: list[StepReport] = []
    epochs: list[EpochReport] = []
    before = torch.random.get_rng_state()
    record = train(cases, out, CONFIG, on_step=steps.append, on_epoch=epochs.append)
    untouched = torch.equal(before, torch.random.get_rng_state())
    return out, record, steps, epochs, untouched


def _curve(run):
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(row[name]) for name in row if name != "seconds"} for row in rows]


def _assert_same_run(run, other):
    assert _curve(run) == _curve(other)
    weights, others = (load_file(folder / "weights.safetensors") for folder in (run, other))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def _moments(run):
    """Length of Adam's average gradient."""
    state = torch.load(run / "last.pt", weights_only=True)["optimizer"]["state"]
    return torch.cat([moments["exp_avg"].flatten() for moments in state.values()]).norm().item()


def test_a_run_leaves_its_record_weights_curves_pictures_and_samples(straight):
    out, record, *_ = straight
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "curves.png",
        "examples.png",
        "last.pt",
        "metrics.csv",
        "run.json",
        "samples.npz",
        "tb",
        "weights.safetensors",
    }
    assert json.loads((out / "run.json").read_text())["classes"] == ["roi"]
    assert record.chosen_by == "mask"
    assert [row["epoch"] for row in _curve(out)] == [1, 2, 3]
    assert record.metrics["iou"] == max(row["val_iou"] for row in _curve(out))
    for name in ("curves.png", "examples.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 200


def test_the_parts_of_the_objective_add_up_to_its_total(straight):
    for row in _curve(straight[0]):
        parts = [row[name] for name in ("confidence", "reconstruction", "weak_mark", "size")]
        assert sum(parts) == pytest.approx(row["total"], rel=1e-5)


def test_watchers_see_every_step_and_every_epoch(straight):
    _, record, steps, epochs, _ = straight
    assert [(r.epoch, r.step, r.steps) for r in steps] == [
        (epoch, step, 2) for epoch in (1, 2, 3) for step in (1, 2)
    ]
    assert [report.epoch for report in epochs] == [1, 2, 3]
    assert epochs[-1].choice.epoch == record.chosen_epoch


def test_training_leaves_the_random_state_of_its_caller_alone(straight):
    assert straight[-1]


def test_a_finished_run_is_read_back_with_the_weights_that_were_judged(straight, cases):
    out, record, *_ = straight
    run = load_run(out)
    raw = np.asarray(Image.open(cases.parent / "i0.png"), np.float32)[None]
    assert run.record == record
    assert [sample.shape[0] for sample in run.samples] == [1, 1]
    assert np.array_equal(run.samples[0], raw)
    ious = []
    for number, sample in enumerate(run.samples):
        with torch.no_grad():
            found = run.predictor(torch.from_numpy(sample)[None])[0, 0].numpy() >= 0.5
        true = np.asarray(Image.open(cases.parent / f"m{number}.png")) > 0
        ious.append((found & true).sum() / (found | true).sum())
    assert np.mean(ious) == pytest.approx(record.metrics["iou"], abs=1e-6)


def test_a_run_killed_within_an_epoch_resumes_to_the_same_curve_and_weights(
    straight, cases, tmp_path
):
    out = tmp_path / "run"
    arguments = [str(cases), str(out), CONFIG.model_dump_json()]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "run.json").exists()
    with pytest.raises(WssegError, match="not the folder of a finished run"):
        load_run(out)
    record = train(cases, out, CONFIG, resume=True)
    assert record == straight[1]
    _assert_same_run(out, straight[0])


def test_an_interrupted_run_keeps_its_last_whole_epoch(straight, cases, tmp_path):
    def interrupt(report):
        if report.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cases, tmp_path, CONFIG, on_step=interrupt)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert [row["epoch"] for row in state["history"]] == [1]
    assert _curve(tmp_path) == _curve(straight[0])[:1]


def test_two_processes_give_the_curve_of_one(straight, cases, tmp_path):
    out, _, steps, *_ = straight
    environment, seen = dict(os.environ), list[StepReport]()
    train(cases, tmp_path, CONFIG.model_copy(update={"devices": 2}), on_step=seen.append)
    assert dict(os.environ) == environment
    totals = [report.total for report in steps]
    assert seen[0].total == pytest.approx(totals[0], rel=1e-5)
    # From the second step on, Adam divides tiny gradients by themselves, and rounding grows.
    assert [report.total for report in seen] == pytest.approx(totals, rel=2e-3)
    assert _moments(tmp_path) == pytest.approx(_moments(out), rel=0.02)


def test_resuming_a_complete_run_returns_its_record_and_changes_nothing(straight, cases):
    out, record, *_ = straight
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert train(cases, out, CONFIG, resume=True) == record
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
