"""Runs that were killed, and runs in two processes, come to what one whole run comes to."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.train.conftest import (
    CONFIG,
    curve_of,
    one_thread,
    train_in_float64,
)
from wsseg.imaging import WssegError
from wsseg.train.progress import StepReport
from wsseg.train.run_folder import load_run
from wsseg.train.trainer import train

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.small_network import small_network
from wsseg.train.config import TrainConfig
from wsseg.train.trainer import train
def on_step(report):
    if (report.epoch, report.step) == (3, 2):
        os.kill(os.getpid(), signal.SIGKILL)
cases, out, config = sys.argv[1:]
with small_network():
    train(Path(cases), Path(out), TrainConfig.model_validate_json(config), on_step=on_step)
"""


def _assert_same_run(run, other):
    assert curve_of(run) == curve_of(other)
    weights, others = (load_file(folder / "weights.safetensors") for folder in (run, other))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def _interrupt_at(epoch):
    def interrupt(report):
        if report.epoch == epoch:
            raise KeyboardInterrupt

    return interrupt


@pytest.mark.slow
def test_a_run_killed_within_an_epoch_resumes_to_the_same_curve_and_weights(
    uninterrupted, partly_marked, tmp_path
):
    out = tmp_path / "run"
    arguments = [str(partly_marked), str(out), CONFIG.model_dump_json()]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "run.json").exists()
    # Killed in the epoch that began with new targets, which is trained again.
    assert {path.name for path in out.glob("pseudo-labels-*")} == {
        "pseudo-labels-2.npz",
        "pseudo-labels-3.npz",
    }
    with pytest.raises(WssegError, match="not the folder of a finished run"):
        load_run(out)
    # Interrupted again in an epoch that goes on with the targets of the last.
    with pytest.raises(KeyboardInterrupt):
        train(partly_marked, out, CONFIG, resume=True, on_step=_interrupt_at(4))
    record = train(partly_marked, out, CONFIG, resume=True)
    assert record == uninterrupted.record
    assert not list(out.glob("pseudo-labels-*"))
    _assert_same_run(out, uninterrupted.out)


@pytest.mark.slow
def test_reading_processes_change_nothing_not_even_when_targets_are_renewed(
    uninterrupted, partly_marked, tmp_path
):
    train(partly_marked, tmp_path, CONFIG.model_copy(update={"workers": 1}))
    _assert_same_run(tmp_path, uninterrupted.out)


def test_an_interrupted_run_keeps_its_last_whole_epoch(uninterrupted, partly_marked, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(partly_marked, tmp_path, CONFIG, on_step=_interrupt_at(2))
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert [row["epoch"] for row in state["history"]] == [1]
    assert curve_of(tmp_path) == curve_of(uninterrupted.out)[:1]


def test_two_processes_give_the_curve_and_the_cuts_of_one_in_float64(
    two_processes, partly_marked, tmp_path
):
    alone = train_in_float64(partly_marked, tmp_path / "one", CONFIG)
    found = two_processes.train_in_float64(partly_marked, tmp_path / "two", CONFIG)
    assert found.totals == pytest.approx(alone.totals, rel=1e-6)  # reported in float32
    for state, expected in zip(found.states, alone.states, strict=True):
        for part in ("network", "average", "optimizer"):
            torch.testing.assert_close(state[part], expected[part], rtol=1e-5, atol=1e-8)
    # Renewed before the second and the third epoch, removed after the last.
    assert [set(pseudo_labels) for pseudo_labels in alone.pseudo_labels] == [
        set(),
        {"pseudo-labels-2.npz"},
        {"pseudo-labels-2.npz", "pseudo-labels-3.npz"},
        {"pseudo-labels-2.npz", "pseudo-labels-3.npz"},
    ]
    torch.testing.assert_close(
        found.pseudo_labels, alone.pseudo_labels, rtol=1e-5, atol=1e-6, equal_nan=True
    )


@pytest.mark.slow
def test_two_processes_begin_as_one_does_and_leave_the_environment(
    uninterrupted, partly_marked, tmp_path
):
    environment, seen = dict(os.environ), list[StepReport]()
    config = CONFIG.model_copy(update={"devices": 2, "epochs": 1})
    train(partly_marked, tmp_path, config, on_step=seen.append)
    assert dict(os.environ) == environment
    assert seen[0].total == pytest.approx(uninterrupted.steps[0].total, rel=1e-4)


def test_a_run_whose_images_have_changed_does_not_go_on(partly_marked, tmp_path):
    """Same table, same names: only the files tell. A copy of the same content is the same."""
    folder, out = tmp_path / "cases", tmp_path / "run"
    shutil.copytree(partly_marked.parent, folder)
    table = folder / partly_marked.name
    with pytest.raises(KeyboardInterrupt):
        train(table, out, CONFIG, on_step=_interrupt_at(2))
    image, content = folder / "i4.png", (folder / "i4.png").read_bytes()
    Image.fromarray(np.asarray(Image.open(image)) // 2).save(image)
    marks = np.asarray(Image.open(folder / "w3.png")).copy()
    marks[16, 16] = 0
    Image.fromarray(marks).save(folder / "w3.png")
    with pytest.raises(WssegError, match="marks of line 5, image of line 6: restore them"):
        train(table, out, CONFIG, resume=True)
    image.write_bytes(content)
    (folder / "w3.png").write_bytes((partly_marked.parent / "w3.png").read_bytes())
    with pytest.raises(KeyboardInterrupt):
        train(table, out, CONFIG, resume=True, on_step=_interrupt_at(2))


def test_two_trainings_do_not_share_a_folder_not_even_to_resume(partly_marked, tmp_path):
    refused = []

    def beside(report):
        for resume in (False, True):
            with pytest.raises(WssegError, match="another training is at work") as caught:
                train(partly_marked, tmp_path / "run", CONFIG, resume=resume)
            refused.append(caught.value)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(partly_marked, tmp_path / "run", CONFIG, on_step=beside)
    assert len(refused) == 2
    assert not list(tmp_path.glob(".lock-*"))


def test_resuming_a_complete_run_returns_its_record_and_changes_nothing(
    uninterrupted, partly_marked
):
    out = uninterrupted.out
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert train(partly_marked, out, CONFIG, resume=True) == uninterrupted.record
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
