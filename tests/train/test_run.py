"""Whole runs: what they leave, that they repeat, resume and do not depend on the processes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from wsseg.imaging.errors import WssegError
from wsseg.train.cases import read_cases
from wsseg.train.checkpoint import load_run
from wsseg.train.config import SelfTraining, TrainConfig
from wsseg.train.dataset import CaseDataset
from wsseg.train.prepare import build_front, choose_given
from wsseg.train.presets import PRESETS
from wsseg.train.progress import EpochReport, StepReport
from wsseg.train.record import RunRecord
from wsseg.train.retarget import Renewals
from wsseg.train.run import train
from wsseg.train.targets.selftrain import Cut, agreement

CONFIG = TrainConfig(
    # Both heads learn, and targets are renewed before the second and the third epoch.
    terms=PRESETS["wsseg"] + PRESETS["paper"],
    self_training=SelfTraining(rounds=2, start=0.3, end=0.5),
    network="mobilenet_v2",
    size=32,
    epochs=4,
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
    if (report.epoch, report.step) == (3, 2):
        os.kill(os.getpid(), signal.SIGKILL)
cases, out, config = sys.argv[1:]
train(Path(cases), Path(out), TrainConfig.model_validate_json(config), on_step=on_step)
"""


@dataclass
class Straight:
    """files: the cuts that were kept after each epoch; those of the second lie beside `out`."""

    out: Path
    record: RunRecord
    steps: list[StepReport]
    epochs: list[EpochReport]
    files: list[set[str]]
    untouched: bool


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cases(make_blobs, tmp_path_factory):
    """Two cases to judge by; of nine to learn from, two with marks, one with a mask."""
    known = ["ratio,mask"] * 2 + ["ratio,marks"] * 2 + ["mask"] + ["ratio"] * 6
    return make_blobs(tmp_path_factory.mktemp("blobs"), 11, 2, known=known)


@pytest.fixture(scope="module")
def straight(cases, tmp_path_factory):
    """A run from start to end, with what its watchers saw and the caller's random state."""
    out = tmp_path_factory.mktemp("straight") / "run"
    steps: list[StepReport] = []
    epochs: list[EpochReport] = []
    files: list[set[str]] = []

    def on_epoch(report: EpochReport) -> None:
        epochs.append(report)
        files.append({path.name for path in out.glob("cuts-*")})
        if report.epoch == 3:
            shutil.copy(out / "cuts-2.npz", out.parent)

    before = torch.random.get_rng_state()
    record = train(cases, out, CONFIG, on_step=steps.append, on_epoch=on_epoch)
    untouched = torch.equal(before, torch.random.get_rng_state())
    return Straight(out, record, steps, epochs, files, untouched)


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


def _cuts(cases, folder):
    """The newest cuts in a folder, by the case's place."""
    table = read_cases(cases)
    given = choose_given(table, CONFIG)
    front = build_front(CONFIG, given)
    train = CaseDataset(table.part("train"), table.classes, (), front, growth=given["growth"])
    Renewals(train, CONFIG, folder, first=CONFIG.epochs + 1)
    return train.cuts


def test_a_run_leaves_its_record_weights_curves_pictures_and_samples(straight):
    out, record = straight.out, straight.record
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
    assert [row["epoch"] for row in _curve(out)] == [1, 2, 3, 4]
    assert record.metrics["iou"] == max(row["val_iou"] for row in _curve(out))
    for name in ("curves.png", "examples.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 200


def test_run_json_says_from_which_probability_on_a_pixel_counts(straight):
    written = json.loads((straight.out / "run.json").read_text())["thresholds"]
    assert written == list(straight.record.thresholds)
    assert len(written) == 1
    assert 0.3 <= written[0] <= 0.7


def test_cuts_are_kept_while_a_run_may_have_to_be_resumed(straight):
    first, second = "cuts-2.npz", "cuts-3.npz"
    assert straight.files == [set(), {first}, {first, second}, {first, second}]


def test_the_parts_of_the_objective_add_up_to_its_total(straight):
    for row in _curve(straight.out):
        parts = [row[term.kind] for term in CONFIG.terms]
        assert sum(parts) == pytest.approx(row["total"], rel=1e-5)


def test_watchers_see_every_step_and_every_epoch(straight):
    assert [(r.epoch, r.step, r.steps) for r in straight.steps] == [
        (epoch, step, 2) for epoch in (1, 2, 3, 4) for step in (1, 2)
    ]
    assert [report.epoch for report in straight.epochs] == [1, 2, 3, 4]
    assert straight.epochs[-1].choice.epoch == straight.record.chosen_epoch


def test_training_leaves_the_random_state_of_its_caller_alone(straight):
    assert straight.untouched


def test_a_finished_run_is_read_back_with_the_weights_that_were_judged(straight, cases):
    record = straight.record
    run = load_run(straight.out)
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


def _interrupt_at(epoch):
    def interrupt(report):
        if report.epoch == epoch:
            raise KeyboardInterrupt

    return interrupt


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
    # Killed in the epoch that began with new targets, which is trained again.
    assert {path.name for path in out.glob("cuts-*")} == {"cuts-2.npz", "cuts-3.npz"}
    with pytest.raises(WssegError, match="not the folder of a finished run"):
        load_run(out)
    # Interrupted again in an epoch that goes on with the targets of the last.
    with pytest.raises(KeyboardInterrupt):
        train(cases, out, CONFIG, resume=True, on_step=_interrupt_at(4))
    record = train(cases, out, CONFIG, resume=True)
    assert record == straight.record
    assert not list(out.glob("cuts-*"))
    _assert_same_run(out, straight.out)


def test_an_interrupted_run_keeps_its_last_whole_epoch(straight, cases, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(cases, tmp_path, CONFIG, on_step=_interrupt_at(2))
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert [row["epoch"] for row in state["history"]] == [1]
    assert _curve(tmp_path) == _curve(straight.out)[:1]


def test_two_processes_give_the_curve_and_the_cuts_of_one(straight, cases, tmp_path):
    environment, seen = dict(os.environ), list[StepReport]()
    cuts: list[dict[int, Cut]] = []

    def on_epoch(report: EpochReport) -> None:
        if report.epoch == 2:
            cuts.append(_cuts(cases, tmp_path))

    config = CONFIG.model_copy(update={"devices": 2})
    train(cases, tmp_path, config, on_step=seen.append, on_epoch=on_epoch)
    assert dict(os.environ) == environment
    totals = [report.total for report in straight.steps]
    assert seen[0].total == pytest.approx(totals[0], rel=1e-5)
    # From the second step on, Adam divides tiny gradients by themselves, and rounding grows.
    assert [report.total for report in seen] == pytest.approx(totals, rel=2e-3)
    assert _moments(tmp_path) == pytest.approx(_moments(straight.out), rel=0.02)
    expected = _cuts(cases, straight.out.parent)
    assert cuts[0].keys() == expected.keys()
    for place, found in cuts[0].items():
        assert agreement(found.inside, expected[place].inside) > 0.98
        torch.testing.assert_close(found.certainty, expected[place].certainty, atol=0.01, rtol=0)


def test_resuming_a_complete_run_returns_its_record_and_changes_nothing(straight, cases):
    out = straight.out
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert train(cases, out, CONFIG, resume=True) == straight.record
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
