"""Weights and the state of an unfinished run on disk; a finished run read back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from wsseg.imaging.atomic import atomic
from wsseg.imaging.errors import WssegError
from wsseg.train.front import Front
from wsseg.train.networks import Network, build_network
from wsseg.train.predictor import Predictor
from wsseg.train.record import RECORD, SAMPLES, WEIGHTS, RunRecord


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its network with the chosen weights, in `eval()`, on the CPU.

    samples: raw slices (c, H, W) in physical units, float32.
    """

    record: RunRecord
    front: Front
    network: Network
    predictor: Predictor
    samples: list[NDArray[np.float32]]


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights and buffers as safetensors, whole or not at all."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    with atomic(path) as partial:
        # Not save_file, which makes a file that only its owner may read.
        partial.write_bytes(save(tensors))


def read_weights(network: nn.Module, path: Path) -> None:
    """Load weights that `save_weights` wrote; WssegError if they are not this network's."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WssegError(
            f"{path} cannot be read ({error}): train again or copy it again"
        ) from error
    fault = _fault(network.state_dict(), tensors)
    if fault:
        raise WssegError(f"{path} does not fit the network of its run: {fault}")
    broken = not_finite(tensors)
    if broken:
        raise WssegError(
            f"{path} holds numbers that are not finite, such as in {broken}: its network can "
            "measure and teach nothing; train again"
        )
    network.load_state_dict(tensors)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that holds NaN or an infinite number; None where none does."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name
    return None


def _fault(own: dict[str, Tensor], found: dict[str, Tensor]) -> str | None:
    """What keeps `found` from being loaded, in words; None if nothing does."""
    missing, unknown = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    if missing:
        return f"{len(missing)} tensors are missing, such as {missing[0]}"
    if unknown:
        return f"{len(unknown)} tensors are unknown, such as {unknown[0]}"
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            return f"{name} is {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
    return None


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write tensors, numbers and text in nested dictionaries and lists, whole or not at all."""
    with atomic(path) as partial:
        torch.save(state, partial)


def read_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, on the CPU; nothing in the file is executed."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, BadZipFile, UnpicklingError) as error:
        raise WssegError(
            f"{path} is damaged and the run cannot be resumed: train again with another --out"
        ) from error
    return state


def read_record(run: Path) -> RunRecord:
    """run.json of a finished run; WssegError, with what to do, for anything else."""
    path = run / RECORD
    if not run.is_dir():
        raise WssegError(f"there is no run folder {run}: give the --out folder of wsseg-train")
    if not path.is_file():
        if any(run.glob(f"fold-*/{RECORD}")):
            raise WssegError(
                f"{run} holds the folds of a cross-validation: give the folder of one, such as "
                f"{run / 'fold-1'}, or of a run on all cases"
            )
        raise WssegError(
            f"{run} has no {RECORD}: it is not the folder of a finished run; "
            "finish it with wsseg-train --resume or give another folder"
        )
    try:
        return RunRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise WssegError(f"{path} is damaged or of another version of wsseg: {error}") from error


def load_run(run: Path) -> TrainedRun:
    """Everything a finished run left for export; WssegError says what a folder lacks."""
    record = read_record(run)
    # A fork, because building draws random weights: the caller's generator stays as it was.
    with torch.random.fork_rng(devices=[]):
        network = build_network(
            record.network, classes=len(record.classes), channels=record.channels
        )
    read_weights(network, run / WEIGHTS)
    front = Front(record.window, record.size, record.channels)
    predictor = Predictor(front, network).eval()
    return TrainedRun(record, front, network, predictor, _read_samples(run / SAMPLES))


def save_samples(samples: list[NDArray[np.float32]], path: Path) -> None:
    """Write raw slices (c, H, W) of any sizes, compressed, whole or not at all."""
    named: dict[str, Any] = {f"slice_{number}": raw for number, raw in enumerate(samples)}
    with atomic(path) as partial:
        np.savez_compressed(partial, **named)


def _read_samples(path: Path) -> list[NDArray[np.float32]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return [stored[f"slice_{number}"] for number in range(len(stored.files))]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise WssegError(f"{path} cannot be read ({error}): train again") from error
