"""Devices and processes: one process an accelerator, started the way torchrun starts them.

Fabric can start processes too, but "ddp" runs the user's script again from its first line and
cannot from a notebook or standard input, and "ddp_spawn" imports `__main__` again. torchrun's
launcher asks a name server, listens on all interfaces, and leaves its workers running if it is
killed. So the processes are started here, and Fabric does the rest.
"""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from wsseg.imaging.definitions import Frozen
from wsseg.imaging.errors import WssegError
from wsseg.imaging.scratch import Scratch
from wsseg.train.config import TrainConfig
from wsseg.train.fabric import (
    DDPStrategy,
    Fabric,
    LightningEnvironment,
    TorchElasticEnvironment,
)

WORKER = "wsseg.train.worker"
RENDEZVOUS = "WSSEG_RENDEZVOUS"
"""Environment variable: the file through which the processes of one machine find each other."""
READY = "ready"
EXIT_SECONDS = 60
"""How long a worker process may take to exit after the run."""


class Task(Frozen):
    """What every process of a run needs to know. Workers receive it as a line of JSON."""

    cases: Path
    out: Path
    config: TrainConfig
    resume: bool


@contextmanager
def launched(task: Task) -> Iterator[Fabric]:
    """A Fabric with all processes of the run connected; they are gone when the block ends.

    Under torchrun, its processes are used. Otherwise this process has rank 0, and for `devices` > 1
    the others are started as new interpreters, which works from a script, a console command, a
    notebook and a test alike. Raises WssegError for devices that do not exist.
    """
    device = _device(task.config)
    with ExitStack() as stack:
        if not has_assigned_rank() and task.config.devices > 1:
            stack.enter_context(_workers(task))
        fabric = _fabric(task.config, device)
        stack.enter_context(_connected(fabric))
        yield fabric


def refuse_tasks() -> None:
    """Raise WssegError if srun started this command several times, each for its own run.

    SLURM_NTASKS alone is no evidence: a batch script that requests several tasks sets it too, but
    runs its commands once.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks.isdecimal() and int(tasks) > 1 and not has_assigned_rank():
        raise WssegError(
            f"srun started this command {tasks} times, and each would train by itself: start it "
            f"once (srun --ntasks=1) with --devices {tasks}, or under torchrun"
        )


def is_first_process() -> bool:
    """Whether this process checks and writes files; valid before, inside and after `launched`."""
    return os.environ.get("RANK", "0") == "0"


def has_assigned_rank() -> bool:
    """Whether torchrun or `_workers` has assigned a rank to this process."""
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} <= os.environ.keys()


def _device(config: TrainConfig) -> torch.device:
    """The type of device to train on, after checking that it exists."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind = ("cuda" if available else "cpu") if config.accelerator == "auto" else config.accelerator
    local = int(os.environ.get("LOCAL_WORLD_SIZE", config.devices))
    if kind == "cuda" and local > available:
        raise WssegError(
            f"devices = {local} on accelerator = cuda, but {available} CUDA devices were found; "
            "lower devices, set accelerator = cpu, or look at the driver with nvidia-smi"
        )
    processes = int(os.environ.get("WORLD_SIZE", config.devices))
    if config.batch % processes:
        raise WssegError(
            f"batch = {config.batch} cannot be split evenly over {processes} processes; "
            f"choose a multiple of {processes}"
        )
    return torch.device(kind)


def _fabric(config: TrainConfig, device: torch.device) -> Fabric:
    precision = fabric_precision(config.precision, device)
    if not has_assigned_rank():
        # Explicit, because Fabric would otherwise take the variables of a Slurm job for its own.
        return Fabric(
            accelerator=device.type,
            devices=1,
            precision=precision,
            plugins=[LightningEnvironment()],
        )
    local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    return Fabric(
        accelerator=device.type,
        devices=local,
        num_nodes=world // local,
        strategy=DDPStrategy(),
        precision=precision,
        plugins=[TorchElasticEnvironment()],
    )


@contextmanager
def _connected(fabric: Fabric) -> Iterator[None]:
    disabled = logging.root.manager.disable
    try:
        # Lightning logs its ranks at level INFO, from several loggers.
        logging.disable(logging.INFO)
        if RENDEZVOUS in os.environ:
            _join_process_group(fabric.device.type, Path(os.environ[RENDEZVOUS]))
        fabric.launch()
        logging.disable(disabled)
        yield
    finally:
        logging.disable(disabled)
        if dist.is_initialized():
            dist.destroy_process_group()


def _join_process_group(device: str, file: Path) -> None:
    """Connect the processes that `_workers` started through a file, which Fabric then uses.

    Torch's default, an address and a port, asks a name server for 127.0.0.1.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=dist.FileStore(str(file), world),  # type: ignore[attr-defined]
        rank=rank,
        world_size=world,
        device_id=torch.device(device, rank) if device == "cuda" else None,
    )


@contextmanager
def _workers(task: Task) -> Iterator[None]:
    """Start the processes of rank 1 and above; this process has rank 0 inside the block."""
    count = task.config.devices
    threads = torch.get_num_threads()
    share = max(1, threads // count)
    scratch = Scratch()
    shared = _shared_variables(count, share, scratch.path / "rendezvous")
    workers = [_start(task, shared | _rank_variables(rank)) for rank in range(1, count)]
    torch.set_num_threads(share)
    try:
        _await_ready(workers)
        with _environment(shared | _rank_variables(0)):
            yield
        for worker in workers:
            worker.wait(EXIT_SECONDS)
    except RuntimeError as error:
        codes = [_exit_code(worker) for worker in workers]
        if any(code < 0 for code in codes):  # ended by a signal
            raise WssegError(
                "a training process was killed, perhaps for want of memory; go on with --resume, "
                "and a smaller batch or fewer workers if it happens again"
            ) from error
        if any(codes):
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise WssegError(
                f"a training process failed: its own message stands above; here: {reason}"
            ) from error
        raise
    finally:
        torch.set_num_threads(threads)
        for worker in workers:
            worker.kill()
            worker.communicate()
        scratch.close()


def _shared_variables(count: int, threads: int, rendezvous: Path) -> dict[str, str]:
    """The variables that torchrun would set for each of `count` processes, and the rendezvous.

    The processes use the loopback interface: gloo would look up the host name.
    """
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    return {
        **({"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {}),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        RENDEZVOUS: str(rendezvous),
        "OMP_NUM_THREADS": str(threads),
    }


def _start(task: Task, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    worker = subprocess.Popen(
        [sys.executable, "-m", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        # Ctrl-C then reaches this process alone, which ends the workers.
        start_new_session=True,
    )
    if worker.stdin is None:
        raise AssertionError("a pipe was asked for")
    with suppress(BrokenPipeError):  # `_await_ready` reports a worker that has exited
        worker.stdin.write(task.model_dump_json() + "\n")
        worker.stdin.flush()
    return worker


def _await_ready(workers: Sequence["subprocess.Popen[str]"]) -> None:
    """Wait until every worker has imported its modules: connecting to a dead one takes long."""
    for rank, worker in enumerate(workers, start=1):
        if worker.stdout is None or worker.stdout.readline().strip() != READY:
            raise WssegError(
                f"training process {rank} ended before it began; its own message is above, and "
                "devices = 1 trains without further processes"
            )


def _exit_code(worker: "subprocess.Popen[str]") -> int:
    """The exit code of a process, or 0 if it is still running."""
    try:
        return worker.wait(1)
    except subprocess.TimeoutExpired:
        return 0


def _rank_variables(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ[name] for name in values.keys() & os.environ.keys()}
    os.environ |= values
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ |= before


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16; emulation is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fabric_precision(
    wanted: Literal["auto", "fp32", "bf16"], device: torch.device
) -> Literal["32-true", "bf16-mixed"]:
    """Fabric's name for the precision; `auto` is bfloat16 if the hardware supports it.

    Raises WssegError for bfloat16 on a CUDA device without it; on a CPU it is only slow.
    """
    if wanted == "fp32" or (wanted == "auto" and not has_bf16(device)):
        return "32-true"
    if device.type == "cuda" and not has_bf16(device):
        name = torch.cuda.get_device_name(device)
        raise WssegError(f"{name} has no bfloat16: set precision = fp32 or auto")
    return "bf16-mixed"
