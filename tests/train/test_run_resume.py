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

from tests.train.conftest import CONFIG, curve_of, moments_of, one_thread
from wsseg.imaging.errors import WssegError
from wsseg.train.cases import read_cases
from wsseg.train.checkpoint import load_run
from wsseg.train.dataset import CaseDataset
from wsseg.train.prepare import build_front, choose_given
from wsseg.train.progress import EpochReport, StepReport
from wsseg.train.retarget import Renewals
from wsseg.train.run import train
from wsseg.train.targets.selftrain import Cut, agreement


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


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


def _assert_same_run(run, other):
    assert curve_of(run) == curve_of(other)
    weights, others = (load_file(folder / "weights.safetensors") for folder in (run, other))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def _cuts(cases, folder):
    """The newest cuts in a folder, by the case's place."""
    table = read_cases(cases)
    given = choose_given(table, CONFIG)
    front = build_front(CONFIG, given)
    train = CaseDataset(table.part("train"), table.classes, (), front, growth=given["growth"])
    Renewals(train, CONFIG, folder, first=CONFIG.epochs + 1)
    return train.cuts


def _interrupt_at(epoch):
    def interrupt(report):
        if report.epoch == epoch:
            raise KeyboardInterrupt

    return interrupt


def test_a_run_killed_within_an_epoch_resumes_to_the_same_curve_and_weights(
    straight, partly_marked, tmp_path
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
    assert {path.name for path in out.glob("cuts-*")} == {"cuts-2.npz", "cuts-3.npz"}
    with pytest.raises(WssegError, match="not the folder of a finished run"):
        load_run(out)
    # Interrupted again in an epoch that goes on with the targets of the last.
    with pytest.raises(KeyboardInterrupt):
        train(partly_marked, out, CONFIG, resume=True, on_step=_interrupt_at(4))
    record = train(partly_marked, out, CONFIG, resume=True)
    assert record == straight.record
    assert not list(out.glob("cuts-*"))
    _assert_same_run(out, straight.out)


def test_reading_processes_change_nothing_not_even_when_targets_are_renewed(
    straight, partly_marked, tmp_path
):
    train(partly_marked, tmp_path, CONFIG.model_copy(update={"workers": 1}))
    _assert_same_run(tmp_path, straight.out)


def test_an_interrupted_run_keeps_its_last_whole_epoch(straight, partly_marked, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(partly_marked, tmp_path, CONFIG, on_step=_interrupt_at(2))
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert [row["epoch"] for row in state["history"]] == [1]
    assert curve_of(tmp_path) == curve_of(straight.out)[:1]


def test_two_processes_give_the_curve_and_the_cuts_of_one(straight, partly_marked, tmp_path):
    environment, seen = dict(os.environ), list[StepReport]()
    cuts: list[dict[int, Cut]] = []
    moments: list[float] = []

    def on_epoch(report: EpochReport) -> None:
        moments.append(moments_of(tmp_path))
        if report.epoch == 2:
            cuts.append(_cuts(partly_marked, tmp_path))

    config = CONFIG.model_copy(update={"devices": 2})
    train(partly_marked, tmp_path, config, on_step=seen.append, on_epoch=on_epoch)
    assert dict(os.environ) == environment
    totals = [report.total for report in straight.steps]
    assert seen[0].total == pytest.approx(totals[0], rel=1e-5)
    # From the second step on, Adam divides tiny gradients by themselves, and rounding grows.
    assert [report.total for report in seen] == pytest.approx(totals, rel=2e-3)
    assert moments[0] == pytest.approx(straight.moments[0], rel=0.02)
    expected = _cuts(partly_marked, straight.out.parent)
    assert cuts[0].keys() == expected.keys()
    for place, found in cuts[0].items():
        assert agreement(found.inside, expected[place].inside) > 0.98
        torch.testing.assert_close(found.certainty, expected[place].certainty, atol=0.01, rtol=0)


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


def test_resuming_a_complete_run_returns_its_record_and_changes_nothing(straight, partly_marked):
    out = straight.out
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert train(partly_marked, out, CONFIG, resume=True) == straight.record
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
