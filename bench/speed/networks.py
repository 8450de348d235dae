"""Scenarios of networks alone: engines and precisions, and training."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch

from bench.speed.contest import Turn
from bench.speed.helper import Helper, existing
from bench.speed.models import model_folder, run_folder
from bench.speed.results import Place
from bench.speed.scenario import Candidate, Scenario
from bench.speed.setting import NETWORK, STUDENT, Setting
from bench.speed.slices import slices_file
from wsseg.serve.manifest import load_model
from wsseg.train.config import NetworkName
from wsseg.train.launch import has_bf16

EAGER = "eager PyTorch"
COMPILED = "compiled PyTorch"
GPU_BATCHES = (1, 8, 32)


def helped(task: str, **told: str | int | bool) -> Callable[[ExitStack], Callable[[], Turn]]:
    """Ready once a helper process of its own is."""
    return lambda stack: stack.enter_context(Helper(task=task, **told))


def engine_places(setting: Setting) -> list[Place]:
    """Every size with its batches."""
    on_gpu = setting.device == "cuda"
    return [
        Place("engines", size, batch)
        for size, batches in setting.scale.batches
        for batch in (GPU_BATCHES if on_gpu else batches)
    ]


def engine_candidates(setting: Setting, place: Place) -> list[Candidate]:
    """PyTorch and every engine of the model folders, of the network and of the student."""
    return [
        candidate
        for name in (NETWORK, STUDENT)
        for candidate in (*_torch(setting, place, name), *_engines(setting, place, name))
    ]


def _torch(setting: Setting, place: Place, name: NetworkName) -> Iterator[Candidate]:
    """PyTorch in the precisions that the hardware has; on a GPU also the card's own rates."""
    size, batch = _known(place)
    run = existing(run_folder(setting, name, size))
    told: dict[str, Any] = {"run": run, "device": setting.device}
    looped = {**told, "slices": existing(slices_file(setting)), "batch": batch}
    for precision in precisions(setting.device):
        for what, compiled in ((EAGER, False), (COMPILED, True)):
            ready = helped("network", **looped, precision=precision, compiled=compiled)
            peers = _peers(setting, name)
            yield Candidate(f"{name} {what}", precision, size, batch, ready, peers)
    if setting.device == "cuda":
        for title, task in zip(limits(name), ("matrix", "copy"), strict=True):
            ready = helped(task, **told, precision="fp16")
            yield Candidate(title, "fp16", size, batch, ready)


def _engines(setting: Setting, place: Place, name: NetworkName) -> Iterator[Candidate]:
    """One candidate an entry of the manifest; those of other machines say so when opened."""
    size, batch = _known(place)
    folder = model_folder(setting, name, size)
    for number, entry in enumerate(load_model(folder)[0].engines):
        ready = helped(
            "engine",
            model=existing(folder),
            entry=number,
            slices=existing(slices_file(setting)),
            batch=batch,
            # On a CPU too: an engine must not slip onto a GPU, nor from it.
            device=setting.device,
        )
        what = f"{name} {entry.runtime}" + (f" {entry.gpu}" if entry.gpu else "")
        peers = _peers(setting, name)
        if name == STUDENT:
            peers = (*peers, f"{NETWORK} {entry.runtime} {entry.precision}")
        yield Candidate(what, entry.precision, size, batch, ready, peers)


def limits(name: NetworkName) -> tuple[str, str]:
    """How the card's own rates are called: of a large matrix product, of a copy."""
    return f"{name} at the card's matrix rate", f"{name} at the card's copy rate"


def precisions(device: str) -> list[str]:
    """What PyTorch can compute in at full speed on the device."""
    bf16 = ["bf16"] if has_bf16(torch.device(device)) else []
    return ["fp32", *bf16, *(["fp16"] if device == "cuda" else [])]


def _peers(setting: Setting, name: NetworkName) -> tuple[str, ...]:
    card = tuple(f"{limit} fp16" for limit in limits(name)) if setting.device == "cuda" else ()
    return (f"{name} {EAGER} fp32", *card)


def _known(place: Place) -> tuple[int, int]:
    if place.size is None or place.batch is None:
        raise AssertionError("engines are measured at a size and a batch")
    return place.size, place.batch


def training_places(setting: Setting) -> list[Place]:
    """The smaller size."""
    return [Place("training", setting.scale.sizes[0], setting.scale.training)]


def training_candidates(setting: Setting, place: Place) -> list[Candidate]:
    """A step of both networks, eager and compiled, in every precision of training."""
    size, batch = _known(place)
    return [
        Candidate(
            f"{name} {what}",
            precision,
            size,
            batch,
            helped(
                "training",
                name=name,
                size=size,
                batch=batch,
                precision=precision,
                compiled=compiled,
                device=setting.device,
            ),
            (f"{name} {EAGER} fp32",),
        )
        for name in (NETWORK, STUDENT)
        for what, compiled in ((EAGER, False), (COMPILED, True))
        for precision in precisions(setting.device)
        if precision != "fp16"  # training in half precision needs a loss scale, which wsseg has not
    ]


def rounds(setting: Setting) -> int:
    """Short turns, many of them."""
    return setting.scale.rounds


ENGINES = Scenario(
    "engines",
    "Engines and precisions",
    "slices/s",
    "From an array of 512 x 512 slices to masks and areas, in a process that is warm. `size` is "
    "that of the network's input. The ratio is the speed over the peer's; over a GPU's own rates "
    "(a large product of matrices in fp16, a copy), it is the share of them that is reached, if "
    "every convolution's input and output went through memory once.",
    engine_places,
    engine_candidates,
    rounds,
)
TRAINING = Scenario(
    "training",
    "Training",
    "images/s",
    "Optimiser steps on images that lie ready.",
    training_places,
    training_candidates,
    rounds,
)
