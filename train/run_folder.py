"""The folder of a run: its record, weights and state, and whether a run may start there."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from wsseg.imaging.definitions import (
    Dependence,
    Frozen,
    RatioDefinition,
    Seen,
    Window,
    fault_text,
)
from wsseg.imaging.dicom.codes import ClassCodes
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic
from wsseg.train.config import NetworkName, TrainConfig, write_config
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.networks import Network, Predictor, build_network
from wsseg.train.targets.evidence import Growth

RECORD = "run.json"
WEIGHTS = "weights.safetensors"
SAMPLES = "samples.npz"
CONFIG = "config.json"
STATE = "last.pt"
AVERAGED = "averaged.safetensors"
"""The weights as training averaged them, while a run ends with others."""
METRICS = "metrics.csv"
EVENTS = "tb"
CURVES = "curves.png"
EXAMPLES = "examples.png"

MAY_CHANGE = {"accelerator", "devices", "workers"}
"""Settings of where a run is computed, which do not change its result: it may resume elsewhere."""

log = logging.getLogger(__name__)


class RunFacts(Frozen):
    """What holds for a whole run besides its settings; a resumed run must find it unchanged.

    cases_sha256: hash of the table of cases. window, channels: the network's input, from the
    settings or chosen from the images. seen: what the training images are. growth: how marks that
    bear a region's shape become targets; None if no loss learns targets. files: fingerprints of the
    files of the table. teacher: hash of the weights of the run that is distilled, if any.
    """

    cases_sha256: str
    window: Window
    channels: int
    seen: Seen | None = None
    growth: Growth | None = None
    files: dict[str, list[int | str]] = Field(default_factory=dict)
    teacher: str | None = None


class Comparison(Frozen):
    """A student and its teacher on the same cases: validation cases where there are any.

    student, teacher: the figures of `metrics.summarise`, each at its own thresholds. agreement:
    mean IoU of the student's masks with the teacher's. relative_time: the student's time for a
    slice divided by the teacher's, in PyTorch on the machine that trained the student.
    """

    cases: int
    student: dict[str, float]
    teacher: dict[str, float]
    agreement: float
    relative_time: float


class TeacherRecord(Frozen):
    """The run that taught this one: its folder's name, its network, and how the two compare."""

    run: str
    network: NetworkName
    weights_sha256: str
    comparison: Comparison


class Normalisation(Frozen):
    """Which batch-norm statistics were kept: those averaged in training, or taken anew.

    `anew`: over training images, with the weights of the chosen epoch or of the last one, see
    `calibration.choose_normalisation`. epoch: the epoch whose weights are kept. averaged_score,
    anew_score (of the better epoch): scores by the rule of checkpoint selection, at a threshold of
    0.5, on `cases` cases of the `split`; None where nothing could be compared.
    """

    kept: Literal["averaged", "anew"]
    epoch: int
    split: Literal["val", "train"] = "val"
    cases: int = 0
    averaged_score: float | None = None
    anew_score: float | None = None


class RunRecord(Frozen):
    """The description of a run's network; weights and sample slices lie beside it.

    `weights.safetensors` holds the chosen weights, `samples.npz` a few raw validation slices,
    float32 (c, H, W), on which export judges its engines.

    labels: the values of each class in the label files; empty where class k has label k.
    chosen_by: the rule that chose the epoch, by figures at a threshold of 0.5.
    metrics: figures of the kept network on the validation split, at `thresholds`.
    thresholds: for each class the probability at or above which a pixel belongs to it, fitted to
        the ratios of training images.
    normalisation: which batch-norm statistics are kept.
    dependence: whether masks depend on the image.
    teacher: the run that taught this one; None for a run that learnt from its cases alone.
    seen: what the training images were; None in the record of an earlier version.
    parts: see `validation.usual_parts`; empty in the record of an earlier version.
    codes: what each class is, by a clinical terminology; only classes for which it was stated.
    """

    classes: tuple[str, ...]
    ratios: tuple[RatioDefinition, ...]
    labels: dict[str, tuple[int | str, ...]] = Field(default_factory=dict)
    channels: Literal[1, 3]
    window: Window
    size: int
    network: NetworkName
    preset: str
    initial_weights: str
    cases: int
    cases_sha256: str
    epochs: int
    chosen_epoch: int
    chosen_by: str
    seed: int
    metrics: dict[str, float]
    thresholds: tuple[float, ...]
    normalisation: Normalisation | None = None
    dependence: Dependence | None = None
    teacher: TeacherRecord | None = None
    seen: Seen | None = None
    parts: dict[str, int] = Field(default_factory=dict)
    codes: dict[str, ClassCodes] = Field(default_factory=dict)
    wsseg_version: str


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its network with the chosen weights, in `eval()`, on the CPU.

    samples: raw slices (c, H, W) in physical units, float32.
    """

    record: RunRecord
    preprocess: Preprocess
    network: Network
    predictor: Predictor
    samples: list[NDArray[np.float32]]


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights and buffers as safetensors, whole or not at all."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    content = save(tensors)
    with atomic(path, nbytes=len(content)) as partial:
        # Not save_file, which makes a file that only its owner may read.
        partial.write_bytes(content)


def read_weights(network: nn.Module, path: Path) -> None:
    """Load weights that `save_weights` wrote; raise WssegError if they are not this network's."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WssegError(
            f"{path} cannot be read ({error}): train again or copy it again"
        ) from error
    own, fault = network.state_dict(), ""
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    other = [n for n, t in tensors.items() if n in own and t.shape != own[n].shape]
    if missing:
        fault = f"{len(missing)} tensors are missing, such as {missing[0]}"
    elif unknown:
        fault = f"{len(unknown)} tensors are unknown, such as {unknown[0]}"
    elif other:
        name = other[0]
        fault = f"{name} is {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
    if fault:
        raise WssegError(f"{path} does not fit the network of its run: {fault}")
    broken = not_finite(tensors)
    if broken:
        raise WssegError(f"{path} holds weights that are not finite, such as {broken}: train again")
    network.load_state_dict(tensors)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of a tensor that holds NaN or infinity; None where none does."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name
    return None


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write tensors, numbers and text in nested dictionaries and lists, whole or not at all."""
    with atomic(path) as partial:
        torch.save(state, partial)


def read_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, on the CPU; nothing in the file is executed."""
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, BadZipFile, UnpicklingError) as error:
        raise WssegError(
            f"{path} is damaged and the run cannot be resumed: train again with another --out"
        ) from error
    if not isinstance(state, dict):
        raise WssegError(
            f"{path} is no state of this run (a {type(state).__name__}): train again with another "
            "--out"
        )
    return state


def read_record(run: Path) -> RunRecord:
    """Return the record of a finished run; raise WssegError, with a remedy, for anything else."""
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
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(step) for step in fault["loc"]) or "the file as a whole"
        raise WssegError(
            f"{path} is damaged or of another version of wsseg: {key}: {fault_text(fault)}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise WssegError(f"{path} is damaged: {error}") from error


def load_run(run: Path) -> TrainedRun:
    """Return what a finished run left for export; raise WssegError for what the folder lacks."""
    record = read_record(run)
    # A fork, because building draws random weights: the caller's generator stays as it was.
    with torch.random.fork_rng(devices=[]):
        network = build_network(
            record.network, classes=len(record.classes), channels=record.channels
        )
    read_weights(network, run / WEIGHTS)
    path = run / SAMPLES
    try:
        with np.load(path, allow_pickle=False) as stored:
            samples = [stored[f"slice_{index}"] for index in range(len(stored.files))]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise WssegError(f"{path} cannot be read ({error}): train again") from error
    if any(each.ndim != 3 or len(each) != record.channels for each in samples):
        raise WssegError(
            f"{path} holds other slices than (c, H, W) with {record.channels} channels: train again"
        )
    front = Preprocess(record.window, record.size, record.channels)
    return TrainedRun(record, front, network, Predictor(front, network).eval(), samples)


def save_samples(samples: list[NDArray[np.float32]], path: Path) -> None:
    """Write raw slices (c, H, W) of any sizes, compressed, whole or not at all."""
    named: dict[str, Any] = {f"slice_{number}": raw for number, raw in enumerate(samples)}
    with atomic(path) as partial:
        np.savez_compressed(partial, **named)


def check_start(out: Path, config: TrainConfig, *, resume: bool) -> None:
    """Raise WssegError if a run with these settings may not start or be resumed in `out`."""
    if out.exists() and not out.is_dir():
        raise WssegError(f"--out {out} is a file; give the name of a folder")
    if config.folds is None and any(out.glob("fold-*")):
        raise WssegError(f"{out} holds the folds of a cross-validation: give another --out")
    # A folder with settings alone is of a run that was stopped within its first epoch.
    held = [name for name in (RECORD, STATE) if (out / name).exists()]
    if held and not resume:
        raise WssegError(
            f"{out} already holds a run ({held[0]}): give another --out, or --resume to go on "
            "with it"
        )
    before = settings_of(out)
    if before is not None and resume:
        old, new = before.model_dump(mode="json"), config.model_dump(mode="json")
        changed = [
            f"{name} was {old[name]}, now {new[name]}"
            for name in old
            if name not in MAY_CHANGE and old[name] != new[name]
        ]
        if changed:
            raise WssegError(
                f"the run in {out} has other settings: {'; '.join(changed)}. Resume it without "
                "these settings, or train with another --out"
            )
    elif held:
        raise WssegError(f"{out} has no {CONFIG}, so it cannot be resumed: give another --out")
    elif resume:
        log.warning("%s holds no run to go on with: a new one begins", out)


def settings_of(out: Path) -> TrainConfig | None:
    """Return the settings of the run in a folder; None where no run has begun.

    Raises WssegError for settings of another version.
    """
    path = out / CONFIG
    if not path.exists():
        return None
    try:
        return TrainConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise WssegError(
            f"{path} is not the settings of a run of this version: give another --out"
        ) from error


def complete(out: Path, cases: Path, cases_sha256: str) -> RunRecord | None:
    """Return the record of a run that is complete; None for one that is not.

    Raises WssegError if it was trained on another table than `cases`.
    """
    if not (out / RECORD).exists():
        return None
    record = read_record(out)
    require_same_cases(record.cases_sha256, cases, cases_sha256)
    log.info("%s is complete: epoch %d of %d was selected", out, record.chosen_epoch, record.epochs)
    return record


def started(out: Path, cases: Path, cases_sha256: str) -> dict[str, Any] | None:
    """Return the state after the last whole epoch of an unfinished run; None if there is none.

    Raises WssegError if it was trained on another table than `cases`.
    """
    if not (out / STATE).exists():
        log.info("no epoch of a run in %s is finished: starting at the first", out)
        return None
    state = read_state(out / STATE)
    with of_this_run(out):
        before = str(state["given"]["cases_sha256"])
    require_same_cases(before, cases, cases_sha256)
    return state


@contextmanager
def of_this_run(out: Path) -> Iterator[None]:
    """Turn what a state raises that no run of these settings has left into a WssegError."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError too, and no fault of the state
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WssegError(
            f"{out / STATE} is no state of this run ({words}): train again with another --out"
        ) from error


def require_same_cases(before: str, cases: Path, now: str) -> None:
    """Raise WssegError if a run's table of cases differs from the one given now."""
    if before != now:
        raise WssegError(
            f"{cases.name} has changed since the run began (sha256 {before[:12]}, now "
            f"{now[:12]}): restore it, or train again with another --out"
        )


def sweep(out: Path) -> None:
    """Remove what a killed run left half-written."""
    for scratch in out.glob(".tmp-*"):
        shutil.rmtree(scratch)
    if (out / RECORD).exists():
        (out / AVERAGED).unlink(missing_ok=True)


def keep_config(config: TrainConfig, out: Path) -> None:
    """Write the settings of a run that begins."""
    with atomic(out / CONFIG) as partial:
        write_config(config, partial)


def keep_record(record: RunRecord, out: Path) -> None:
    """Write run.json, whose presence marks the run as complete."""
    with atomic(out / RECORD) as partial:
        partial.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
