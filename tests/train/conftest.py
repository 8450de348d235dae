"""Files that the tests of this room share."""

import csv
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from tests.small_network import small_network
from wsseg.train import launch
from wsseg.train.cases import CaseTable, region_box, region_moments
from wsseg.train.config import PRESETS, SelfTraining, TrainConfig
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.fabric import Fabric
from wsseg.train.launch import RENDEZVOUS
from wsseg.train.learner import Learner
from wsseg.train.networks import Network
from wsseg.train.progress import EpochReport, StepReport
from wsseg.train.run_folder import RunRecord
from wsseg.train.trainer import (
    build_preprocess,
    choose_facts,
    first_network,
    prepare_data,
    prepare_learner,
    train,
)
from wsseg.train.validation import Data

ROOT = Path(__file__).parents[2]
ROWS, COLUMNS = 10, 8

CONFIG = TrainConfig(
    # Both heads learn, and targets are renewed before the second and the third epoch.
    terms=PRESETS["wsseg"] + PRESETS["paper"],
    self_training=SelfTraining(rounds=2, start=0.3, end=0.5),
    network="mobilenet_v2",
    size=32,
    epochs=4,
    batch=4,
    learning_rate=1e-5,
    precision="fp32",
    accelerator="cpu",
    seed=3,
)


def picture(path: Path, values: np.ndarray | int = 0) -> Path:
    Image.fromarray(np.broadcast_to(values, (ROWS, COLUMNS)).astype(np.uint8)).save(path)
    return path


def labels(*numbers: int, shape: tuple[int, int] = (ROWS, COLUMNS)) -> np.ndarray:
    """A label map whose first pixels, in reading order, have the given numbers."""
    drawn = np.zeros(shape, np.uint8)
    drawn.ravel()[: len(numbers)] = numbers
    return drawn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of 80 pixels, marks of 4 and 1, masks of 16 that hold them, volumes of 3 slices.

    white.png is the mask in black and white, two.png the mask in halves of class 1 and 2; each of
    cut.png, odd.png, annexed.png, inverted.png, small.png, text.png, far.nii.gz and folder is wrong
    in its way.
    """
    for name in ("a", "b", "c", "d"):
        picture(tmp_path / f"{name}.png", 100)
    picture(tmp_path / "marks.png", labels(*[1] * 4))
    picture(tmp_path / "mask.png", labels(*[1] * 16))
    picture(tmp_path / "white.png", labels(*[255] * 16))
    picture(tmp_path / "two.png", labels(*[1] * 8, *[2] * 8))
    picture(tmp_path / "background.png", labels(1, 255, *[0] * 50, 255))
    picture(tmp_path / "empty.png")
    picture(tmp_path / "odd.png", labels(1, 7, 9))
    (tmp_path / "annexed.png").symlink_to(".git/annex/objects/SHA256E-s1--0.png")
    picture(tmp_path / "inverted.png", labels(1, *[0] * 20, *[2] * 59))
    Image.fromarray(labels(1, shape=(4, 4))).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:900])
    (tmp_path / "folder").mkdir()
    volume = np.zeros((COLUMNS, ROWS, 3), np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "volume.nii.gz")
    stack = np.zeros(volume.shape, np.uint8)
    stack[:2, :8, 1] = 1
    nibabel.save(nibabel.Nifti1Image(stack, np.eye(4)), tmp_path / "stack.nii.gz")
    nibabel.save(nibabel.Nifti1Image(stack, np.diag([2, 2, 2, 1])), tmp_path / "far.nii.gz")
    return tmp_path


def signals(disc: np.ndarray, number: int) -> dict[str, str]:
    """What a row may say of the disc of the picture of that number, by column."""
    centroid, spread = region_moments(disc)
    return {
        "ratio": f"{disc.mean():.6f}",
        "marks": f"w{number}.png",
        "mask": f"m{number}.png",
        "present": "1",
        "box": json.dumps(region_box(disc)),
        "centroid": json.dumps(centroid),
        "spread": json.dumps(spread),
    }


@pytest.fixture(scope="session")
def make_blobs() -> Callable[..., Path]:
    """A function that writes noisy pictures of one bright disc each, of uneven sizes about 40.

    It returns the table, with ratios, marks (a small disc) and masks; the first `val` cases are
    for validation. `columns` says which columns there are, see `signals`; `known` which of them
    each case fills, all without it.
    """

    def make(
        folder: Path,
        count: int,
        val: int,
        columns: str = "ratio,marks,mask",
        known: Sequence[str] = (),
    ) -> Path:
        random = np.random.default_rng(0)
        rows = [["image", "split", *columns.split(",")]]
        for number in range(count):
            height, width = (int(size) for size in random.integers(34, 44, 2))
            distance = np.hypot(*(np.indices((height, width)) - np.full((2, 1, 1), 17)))
            disc = distance < random.uniform(6, 12)
            grey = random.normal(60, 15, disc.shape) + 120 * disc
            Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / f"i{number}.png")
            Image.fromarray(disc.astype(np.uint8)).save(folder / f"m{number}.png")
            Image.fromarray((distance < 3).astype(np.uint8)).save(folder / f"w{number}.png")
            cells, filled = signals(disc, number), known[number] if known else columns
            given = [
                cells[column] if column in filled.split(",") else ""
                for column in columns.split(",")
            ]
            rows.append([f"i{number}.png", "val" if number < val else "train", *given])
        with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        return folder / "cases.csv"

    return make


@dataclass
class Straight:
    """What a whole run was seen to do.

    files: names of the cuts kept after each epoch. untouched: whether the caller's random state
    was.
    """

    out: Path
    record: RunRecord
    steps: list[StepReport]
    epochs: list[EpochReport]
    files: list[set[str]]
    untouched: bool


def prepared(
    table: CaseTable, config: TrainConfig, precision: Literal["32-true", "bf16-mixed"] = "32-true"
) -> tuple[Data, Learner]:
    """Data and a small network that is ready for its first step."""
    facts = choose_facts(table, config)
    data = prepare_data(table, config, facts)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    with small_network():
        return data, prepare_learner(fabric, data, config, facts)


@contextmanager
def one_thread() -> Iterator[None]:
    """The same sums in every run: threads add in an order of their own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def quick_runs() -> Iterator[None]:
    """Runs take the small network, and draw nothing, which takes longer than their training."""
    nothing: dict[str, Any] = {
        name: lambda *arguments: None for name in ("draw_curves", "draw_examples")
    }
    with small_network(), patch.multiple("wsseg.train.report", **nothing):
        yield


@dataclass
class Followed:
    """What was seen of a run: each step's total, and after each epoch the state that `last.pt`
    holds and the cuts that lie beside it, as tensors by file and name."""

    totals: list[float] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    pseudo_labels: list[dict[str, dict[str, torch.Tensor]]] = field(default_factory=list)


def train_in_float64(cases: Path, out: Path, config: TrainConfig) -> Followed:
    """Follow a run whose network computes in float64.

    So every step is the step of any number of processes. In float32 only the first one is: the
    gradient of a network with batch norm and kinks magnifies rounding, a deep one some ten thousand
    times, and Adam's first steps go by its sign.
    """
    seen = Followed()

    def on_epoch(report: EpochReport) -> None:
        seen.states.append(torch.load(out / "last.pt", weights_only=True))
        seen.pseudo_labels.append(
            {path.name: _arrays(path) for path in out.glob("pseudo-labels-*")}
        )

    def network(*given: Any) -> Network:
        return first_network(*given).double()

    def preprocess(*given: Any) -> Preprocess:
        return build_preprocess(*given).double()

    double = patch.multiple(
        "wsseg.train.trainer", first_network=network, build_preprocess=preprocess
    )
    with one_thread(), quick_runs(), double:
        on_step = lambda step: seen.totals.append(step.total)  # noqa: E731
        train(cases, out, config, on_step=on_step, on_epoch=on_epoch)
    return seen


def _arrays(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file}


class TwoProcesses:
    """Two processes that live as long as the tests, for what two processes do together."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self.executor = executor

    def run(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Call `work(rank, *arguments)` in both, which must wait for each other."""
        calls = [self.executor.submit(work, rank, *arguments) for rank in (0, 1)]
        for call in calls:
            call.result()

    def train(self, cases: Path, out: Path, config: TrainConfig) -> None:
        """Train in `quick_runs`."""
        self.run(_train_as_one_of_two, cases, out, config)

    def train_in_float64(self, cases: Path, out: Path, config: TrainConfig) -> Followed:
        """What `train_in_float64` gives, as the first of the two reports it."""
        self.run(_train_in_float64_as_one_of_two, cases, out, config)
        return Followed(*torch.load(out.with_suffix(".seen"), weights_only=True))


@contextmanager
def _one_of_two(rank: int, out: Path) -> Iterator[None]:
    environment = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        RENDEZVOUS: str(out.with_suffix(".rendezvous")),
    }
    with patch.dict(os.environ, environment):
        yield


def _train_as_one_of_two(rank: int, cases: Path, out: Path, config: TrainConfig) -> None:
    with _one_of_two(rank, out), one_thread(), quick_runs():
        train(cases, out, config)


def _train_in_float64_as_one_of_two(rank: int, cases: Path, out: Path, config: TrainConfig) -> None:
    with _one_of_two(rank, out):
        seen = train_in_float64(cases, out, config)
    if rank == 0:
        torch.save((seen.totals, seen.states, seen.pseudo_labels), out.with_suffix(".seen"))


@pytest.fixture(scope="session")
def two_processes() -> Iterator[TwoProcesses]:
    """They start with the first work for them: to import PyTorch takes each some seconds."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn) as executor:
        yield TwoProcesses(executor)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`quick_runs`, and the small network in the processes that a training starts too."""
    monkeypatch.setattr(launch, "WORKER", "tests.small_network")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    with quick_runs():
        yield


@pytest.fixture(scope="session")
def partly_marked(
    make_blobs: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two cases to judge by; of nine to learn from, two with marks, one with a mask."""
    known = ["ratio,mask"] * 2 + ["ratio,marks"] * 2 + ["mask"] + ["ratio"] * 6
    return make_blobs(tmp_path_factory.mktemp("blobs"), 11, 2, known=known)


@pytest.fixture(scope="session")
def uninterrupted(partly_marked: Path, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """A run of the small network from start to end, with what its watchers saw.

    And whether it left the caller's random state alone.
    """
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    steps: list[StepReport] = []
    epochs: list[EpochReport] = []
    files: list[set[str]] = []

    def on_epoch(report: EpochReport) -> None:
        epochs.append(report)
        files.append({path.name for path in out.glob("pseudo-labels-*")})

    before = torch.random.get_rng_state()
    with one_thread(), small_network():
        record = train(partly_marked, out, CONFIG, on_step=steps.append, on_epoch=on_epoch)
    untouched = torch.equal(before, torch.random.get_rng_state())
    return Straight(out, record, steps, epochs, files, untouched)


def curve_of(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv, without what depends on the machine."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(row[name]) for name in row if name != "seconds"} for row in rows]
