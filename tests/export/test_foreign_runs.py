"""A run folder that wsseg did not write is one line, and nothing in it is executed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.export.conftest import OPTIONS
from wsseg.export.publish import export_run
from wsseg.imaging import WssegError
from wsseg.train.run_folder import RECORD, SAMPLES, STATE, WEIGHTS, of_this_run, started


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def broken_record(run: Path, **changes) -> None:
    content = json.loads((run / RECORD).read_text()) | changes
    (run / RECORD).write_text(json.dumps(content))


def with_nan(run: Path) -> None:
    tensors = load_file(run / WEIGHTS)
    name = sorted(n for n, t in tensors.items() if t.is_floating_point())[0]
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, run / WEIGHTS)


def without_a_tensor(run: Path) -> None:
    tensors = load_file(run / WEIGHTS)
    tensors.popitem()
    save_file(tensors, run / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (with_nan, "holds weights that are not finite, such as "),
        (without_a_tensor, "1 tensors are missing, such as "),
        (lambda run: broken_record(run, classes=["a", "b", "c"]), "instead of"),
        (lambda run: broken_record(run, size="large"), r"run\.json is damaged .* size: "),
        (lambda run: (run / RECORD).write_text("[" * 100_000), r"run\.json is damaged"),
        (lambda run: (run / RECORD).write_bytes(b"\0\xff"), r"run\.json is damaged"),
        (lambda run: torch.save(Touch(run / "made"), run / WEIGHTS), "cannot be read"),
        (
            lambda run: np.savez(run / SAMPLES, slice_0=np.zeros(3)),
            r"other slices than \(c, H, W\)",
        ),
        (
            lambda run: np.savez(run / SAMPLES, slice_0=np.array([Touch(run / "made")])),
            "cannot be read",
        ),
    ],
)
def test_a_foreign_run_is_refused_in_one_line(run, tmp_path: Path, damage, words: str):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    damage(copy)
    with pytest.raises(WssegError, match=words) as told:
        export_run(copy, tmp_path / "model", OPTIONS)
    assert "\n" not in str(told.value)
    assert not (copy / "made").exists()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("state", [[], {}, {"given": None}, {"given": {}}])
def test_a_state_of_something_else_is_not_resumed(tmp_path: Path, state):
    torch.save(state, tmp_path / STATE)
    with pytest.raises(WssegError, match=r"no state of this run .*: train again"):
        started(tmp_path, tmp_path / "cases.csv", "abc")


def test_a_state_with_code_in_it_is_not_executed(tmp_path: Path):
    torch.save(Touch(tmp_path / "made"), tmp_path / STATE)
    with pytest.raises(WssegError, match="is damaged and the run cannot be resumed"):
        started(tmp_path, tmp_path / "cases.csv", "abc")
    assert not (tmp_path / "made").exists()


def test_weights_of_another_network_are_no_state_of_this_run(tmp_path: Path):
    layer = torch.nn.Linear(2, 3)
    with pytest.raises(WssegError, match="no state of this run") as told, of_this_run(tmp_path):
        layer.load_state_dict(torch.nn.Linear(3, 3).state_dict())
    assert "\n" not in str(told.value)


def test_a_device_without_memory_for_a_state_is_not_blamed_on_the_state(tmp_path: Path):
    with pytest.raises(torch.OutOfMemoryError), of_this_run(tmp_path):
        raise torch.OutOfMemoryError
