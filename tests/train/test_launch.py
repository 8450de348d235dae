"""Devices and precision: what is chosen, and what is refused."""

import os
import subprocess
import sys

import pytest
import torch

from wsseg.imaging import WssegError
from wsseg.train import launch
from wsseg.train.config import TrainConfig
from wsseg.train.launch import Task, fabric_precision, launched, refuse_tasks
from wsseg.train.trainer import train

CPU = torch.device("cpu")


def _task(tmp_path, **settings):
    config = TrainConfig(**{"accelerator": "cpu", **settings})
    return Task(cases=tmp_path / "cases.csv", out=tmp_path / "run", config=config, resume=False)


def _launch(tmp_path, **settings):
    return launched(_task(tmp_path, **settings))


def test_a_task_reaches_another_process_as_it_was(tmp_path):
    task = _task(tmp_path, seed=7).model_copy(update={"resume": True})
    assert Task.model_validate_json(task.model_dump_json()) == task


def test_one_process_trains_where_it_was_told_to(tmp_path):
    with _launch(tmp_path, precision="fp32") as fabric:
        assert (fabric.device, fabric.world_size, fabric.is_global_zero) == (CPU, 1, True)


def test_a_batch_that_the_processes_cannot_share_evenly_is_refused(tmp_path):
    with (
        pytest.raises(WssegError, match="batch = 8 cannot be split evenly over 3 processes"),
        _launch(tmp_path, devices=3, batch=8),
    ):
        pass


def test_a_process_that_does_not_come_up_is_an_error_not_a_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "WORKER", "wsseg.imaging.errors")
    environment = dict(os.environ)
    with (
        pytest.raises(WssegError, match="training process 1 ended before it began"),
        _launch(tmp_path, devices=2),
    ):
        pass
    assert dict(os.environ) == environment


def test_a_process_that_fails_leaves_both_messages(tmp_path, monkeypatch):
    code = (
        f"import sys\nprint({launch.READY!r}, flush=True)\nsys.exit('process 1: a file is cut')\n"
    )
    (tmp_path / "failing_worker.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(launch, "WORKER", "failing_worker")
    with (
        pytest.raises(WssegError, match=r"process failed: .* stands above; here: closed by peer"),
        launch._workers(_task(tmp_path, devices=2)),
    ):
        raise RuntimeError("closed by peer\nand a trace")


def test_missing_gpus_are_counted_in_the_message(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(WssegError, match=r"devices = 2 .* 1 CUDA devices were found"),
        _launch(tmp_path, accelerator="cuda", devices=2),
    ):
        pass


@pytest.mark.parametrize(
    ("avx", "amx", "expected"),
    [(False, False, "32-true"), (True, False, "bf16-mixed"), (False, True, "bf16-mixed")],
)
def test_auto_uses_bfloat16_only_where_the_processor_has_it(monkeypatch, avx, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert fabric_precision("auto", CPU) == expected
    assert fabric_precision("fp32", CPU) == "32-true"
    assert fabric_precision("bf16", CPU) == "bf16-mixed"


def test_bfloat16_on_a_gpu_without_it_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(WssegError, match="Tesla T4 has no bfloat16"):
        fabric_precision("bf16", torch.device("cuda"))
    assert fabric_precision("auto", torch.device("cuda")) == "32-true"


@pytest.mark.slow
def test_lightning_prints_nothing_of_its_own_when_training_in_bfloat16():
    program = (
        "from wsseg.train.fabric import Fabric\n"
        "Fabric(accelerator='cpu', devices=1, precision='bf16-mixed')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


def test_a_job_that_asks_for_several_tasks_still_trains_in_one_process(tmp_path, monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    refuse_tasks()
    with _launch(tmp_path, precision="fp32") as fabric:
        assert (fabric.world_size, fabric.is_global_zero) == (1, True)


def test_a_command_that_srun_starts_several_times_is_refused(tmp_path, monkeypatch):
    for name, value in (SLURM | {"SLURM_STEP_NUM_TASKS": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WssegError, match=r"srun started this command 2 times.*--devices 2"):
        train(tmp_path / "cases.csv", tmp_path / "run", TrainConfig())
    # torchrun under srun says which process this is.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    refuse_tasks()
