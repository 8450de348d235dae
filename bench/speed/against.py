"""Whole commands of other programs on the same slices, in environments of their own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors.torch import load_file

from bench.accuracy.machine import ROOT
from bench.speed.command import Command, infer_command
from bench.speed.commands import (
    BATCH,
    WHOLE,
    command_rounds,
    everywhere,
    one_slice,
    report_file,
)
from bench.speed.contest import EntrantError, Turn
from bench.speed.models import model_folder, run_folder
from bench.speed.peers.environments import python
from bench.speed.results import Place
from bench.speed.scenario import Candidate, Scenario, fixed
from bench.speed.served import served_precision
from bench.speed.setting import NETWORK, Setting
from bench.speed.slices import SIDE, series_folder, slices_file
from wsseg.imaging.files import atomic
from wsseg.train.run_folder import WEIGHTS

LOOP = "plain PyTorch loop"
MONAI = "MONAI sliding window"
NNUNET = "nnU-Net 2-D"
NNUNET_ONCE = "nnU-Net 2-D without mirroring"
SCRIPTS = Path(__file__).parent / "peers"
# Only what the scripts share: nothing of wsseg may leak into a peer's environment.
CHANGES = {"PYTHONPATH": str(ROOT)}
PRECISION = "fp32"
Ready = Callable[[ExitStack], Callable[[], Turn]]


def candidates(setting: Setting, place: Place) -> list[Candidate]:
    """wsseg at every size, and every peer that has its environment."""
    return [*_ours(setting), *_loops(setting), *_monai(setting), *_nnunet(setting)]


def _ours(setting: Setting) -> Iterator[Candidate]:
    peers = tuple(f"{name} {PRECISION}" for name in (LOOP, MONAI, NNUNET_ONCE, NNUNET))
    for size in setting.scale.sizes:
        model = model_folder(setting, NETWORK, size)
        report = report_file(setting, f"peers-{size}")
        command = infer_command(_scans(setting), model, report, count=setting.scale.peer_slices)
        precision = served_precision(model, one_slice(setting))
        yield Candidate(WHOLE, precision, size, BATCH, fixed(command), peers)


def _loops(setting: Setting) -> Iterator[Candidate]:
    for size in setting.scale.sizes:
        out = str(report_file(setting, f"loop-{size}"))
        line = [_weights(setting), str(_scans(setting)), out, str(size), setting.device]
        ready = _peer(setting, "torchvision", line)
        yield Candidate(LOOP, PRECISION, size, 1, ready)


def _monai(setting: Setting) -> Iterator[Candidate]:
    # A window of the slice's own size: a smaller one would only do the same work in overlapping
    # pieces.
    out = setting.work / "monai"
    line = [_weights(setting), str(_scans(setting)), str(out), str(SIDE), setting.device]
    yield Candidate(MONAI, PRECISION, SIDE, 4, _peer(setting, "monai", line))


def _nnunet(setting: Setting) -> Iterator[Candidate]:
    for what, mirroring in ((NNUNET_ONCE, "once"), (NNUNET, "default")):
        out = setting.work / "nnunet-out"
        model = setting.work / f"nnunet-{setting.scale.peer_slices}"
        line = ["predict", str(model), str(out), setting.device, mirroring]
        turn = _peer(setting, "nnunet", line)
        yield Candidate(what, PRECISION, SIDE, 1, _planned(setting, model, turn))


def _planned(setting: Setting, model: Path, turn: Ready) -> Ready:
    """Ready once nnU-Net has a plan for these slices, weights and a volume of them."""

    def ready(stack: ExitStack) -> Callable[[], Turn]:
        # A missing environment is told before anything is planned in it.
        taken, own = turn(stack), python(setting.peers, "nnunet")
        if not (model / "scans").exists():
            slices = _part(setting)
            script = str(SCRIPTS / "run_nnunet.py")
            Command((str(own), script, "prepare", str(slices), str(model)), 0, CHANGES)()
        return taken

    return ready


def _peer(setting: Setting, name: str, arguments: list[str]) -> Ready:
    """Ready if the peer has its environment."""

    def ready(stack: ExitStack) -> Callable[[], Turn]:
        own = python(setting.peers, name)
        if own is None:
            raise EntrantError(f"{setting.peers / name} is not there: make bench-speed makes it")
        line = (str(own), str(SCRIPTS / f"run_{name}.py"), *arguments)
        return Command(line, setting.scale.peer_slices, CHANGES, tells=True)

    return ready


def _scans(setting: Setting) -> Path:
    """One DICOM series of the slices that every peer gets."""
    return series_folder(setting, "peers", series=1, slices=setting.scale.peer_slices)


def _part(setting: Setting) -> Path:
    """The same slices as an array."""
    import numpy as np

    path = setting.work / f"slices-{setting.scale.peer_slices}.npy"
    pixels = np.load(slices_file(setting))
    with atomic(path) as partial:
        np.save(partial, pixels[np.arange(setting.scale.peer_slices) % len(pixels)])
    return path


def _weights(setting: Setting) -> str:
    """The network's weights as a state dictionary that torch alone can read."""
    path = setting.work / f"{NETWORK}.pth"
    if not path.exists():
        run = run_folder(setting, NETWORK, setting.scale.sizes[0])
        with atomic(path) as partial:
            torch.save(load_file(run / WEIGHTS), partial)
    return str(path)


PEERS = Scenario(
    "peers",
    "Against other programs",
    "slices/s",
    "Whole commands on one series of 512 x 512 slices, start-up included: the plain loop and MONAI "
    "with the same ResNet-50 network, nnU-Net v2 with a 2-D plan of its own for these slices and "
    "untrained weights. Memory is that of a command's largest process.",
    lambda setting: everywhere("peers"),
    candidates,
    command_rounds,
)
