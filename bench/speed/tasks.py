"""What helpers do in a turn: each function gets ready and returns the action to be timed."""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

Action = Callable[[], float]
"""Does the work once and returns how many slices, files or images it did."""

MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
REPEATS = 10
SEED = 0


def engine(
    *, model: str, entry: int, slices: str, batch: int, batches: int = 1, device: str = "auto"
) -> Action:
    """The engine of one entry of a model folder, on batches of slices that lie ready."""
    from wsseg.serve.engines.base import Device, EngineOptions
    from wsseg.serve.engines.benchmark import warm_up
    from wsseg.serve.engines.select import open_entry
    from wsseg.serve.manifest import load_model

    manifest, folder = load_model(Path(model))
    options = EngineOptions(device=cast("Device", device))
    opened = open_entry(folder, manifest, manifest.engines[entry], options)
    ready = _batches(slices, batch)
    warm_up(lambda: opened(next(ready)))

    def run() -> float:
        for _ in range(batches):
            opened(next(ready))
        return batch * batches

    return run


def network(
    *, run: str, slices: str, batch: int, precision: str, compiled: bool, device: str
) -> Action:
    """The graph that is exported, in PyTorch itself: from an array to arrays, as an engine."""
    import torch

    from wsseg.export.graph import DeployGraph
    from wsseg.serve.engines.torch import full_float32
    from wsseg.train.run_folder import load_run

    if precision == "fp32":  # what the engines are held to
        full_float32()
    trained = load_run(Path(run))
    half: Literal["fp16", "fp32"] = "fp16" if precision == "fp16" else "fp32"
    graph = DeployGraph(trained.predictor, trained.record.thresholds, half).eval().to(device)
    called: Any = torch.compile(graph) if compiled else graph
    ready = _batches(slices, batch)

    def once() -> float:
        with torch.inference_mode(), _autocast(precision, device):
            answers = called(torch.from_numpy(next(ready)).to(device))
        for answer in answers[:3]:
            answer.cpu()
        return batch

    return once


def training(
    *, name: str, size: int, batch: int, precision: str, compiled: bool, device: str
) -> Action:
    """Optimiser steps of a network on images that lie ready: what training waits for most."""
    import torch
    from torch.nn import functional as F

    from wsseg.train.networks import build_network

    torch.manual_seed(SEED)
    built = build_network(name, classes=1, channels=1).train().to(device)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(built.parameters(), lr=1e-4)
    called: Any = torch.compile(built) if compiled else built
    image = torch.rand(batch, 3, size, size, device=device)
    target = (image[:, :1] > 0.5).float()

    def step() -> float:
        with _autocast(precision, device):
            outputs = called(image)
            loss = F.binary_cross_entropy_with_logits(outputs.logits.float(), target)
            loss = loss + F.mse_loss(outputs.reconstruction.float(), image[:, :1])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits until a GPU is done
        return batch

    return step


def find_files(*, folder: str) -> Action:
    """What wsseg does before it reads a pixel: find, sort and check all series of a folder."""
    from wsseg.imaging.discovery import find
    from wsseg.imaging.scan import ScanRef

    def run() -> float:
        with tempfile.TemporaryDirectory() as scratch:
            found = list(find([Path(folder)], scratch=Path(scratch)))
        return sum(len(scan.files) for scan in found if isinstance(scan, ScanRef))

    return run


def read_headers(*, folder: str) -> Action:
    """The plain loop: pydicom reads the header of every file."""
    from pydicom import dcmread

    def run() -> float:
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        for path in paths:
            dcmread(path, stop_before_pixels=True)
        return len(paths)

    return run


def matrix_rate(*, run: str, precision: str, device: str) -> Action:
    """Slices a second if the network's arithmetic went at the rate of one large product."""
    import torch

    from bench.speed.card import network_cost

    kind = torch.float16 if precision == "fp16" else torch.float32
    side = MATRIX_SIDE[device]
    left, right = (torch.rand(side, side, device=device, dtype=kind) for _ in range(2))
    slices = REPEATS * 2 * side**3 / network_cost(Path(run), precision).flops

    def once() -> float:
        for _ in range(REPEATS):
            product = left @ right
        product[0, 0].item()
        return slices

    return once


def copy_rate(*, run: str, precision: str, device: str) -> Action:
    """Slices a second if the network's features went through memory at the rate of one copy."""
    import torch

    from bench.speed.card import network_cost

    source = torch.zeros(COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    # A copy reads and writes.
    slices = REPEATS * 2 * COPY_BYTES[device] / network_cost(Path(run), precision).nbytes

    def once() -> float:
        for _ in range(REPEATS):
            target.copy_(source)
        target[0].item()
        return slices

    return once


def _batches(slices: str, batch: int) -> "cycle[NDArray[np.float32]]":
    """Batches (n, 1, H, W) of the slices in a file, over and over."""
    pixels = np.load(slices)
    places = np.arange(-(-len(pixels) // batch) * batch) % len(pixels)
    whole = pixels[places, None].astype(np.float32)
    return cycle([whole[at : at + batch] for at in range(0, len(whole), batch)])


def _autocast(precision: str, device: str) -> Any:
    import torch

    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()
