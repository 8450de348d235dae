"""Which runs a benchmark has: data set, arm, network, size, fold and seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from bench.accuracy.arms import ARMS, MAIN
from bench.accuracy.datasets import DATASETS
from bench.accuracy.folds import FOLDS
from wsseg.imaging.errors import WssegError


@dataclass(frozen=True)
class Scale:
    """What is equal for all arms of a benchmark. pixels: sides of the network's input.

    passes: times the epochs of a data set.
    """

    network: str
    pixels: tuple[int, ...]
    batch: int
    learning_rate: float
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    passes: int = 1


SCALES = {
    "small": Scale("mobilenet_v2", (128,), 8, 1e-3, (0,), MAIN),
    "full": Scale("resnet50", (256, 384), 16, 3e-4, (0, 1, 2), tuple(ARMS), passes=2),
}


@dataclass(frozen=True)
class Job:
    """One run; the fields are the key of its row in the results."""

    dataset: str
    arm: str
    network: str
    size: int
    fold: int
    seed: int
    epochs: int

    @property
    def name(self) -> str:
        """File and folder name of the run."""
        return (
            f"{self.dataset}_{self.arm}_{self.network}_{self.size}"
            f"_fold{self.fold}_seed{self.seed}_{self.epochs}ep"
        )


@dataclass(frozen=True)
class Choice:
    """What the command line narrows or widens; None for what the scale says."""

    datasets: tuple[str, ...] = tuple(DATASETS)
    arms: tuple[str, ...] | None = None
    pixels: tuple[int, ...] | None = None
    folds: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] | None = None
    epochs: int | None = None


def jobs(scale: Scale, choice: Choice) -> list[Job]:
    """All runs, the arms of one data set after each other, repetitions of all of them last.

    WssegError for an unknown data set, arm or fold.
    """
    arms = choice.arms or scale.arms
    _require_known("data set", choice.datasets, DATASETS)
    _require_known("arm", arms, ARMS)
    _require_known("fold", choice.folds, range(FOLDS))
    order = product(
        choice.folds,
        choice.seeds or scale.seeds,
        choice.pixels or scale.pixels,
        choice.datasets,
        arms,
    )
    return [
        Job(
            dataset,
            arm,
            scale.network,
            size,
            fold,
            seed,
            choice.epochs or DATASETS[dataset].epochs * scale.passes,
        )
        for fold, seed, size, dataset, arm in order
        if ARMS[arm].marks != "drawn" or DATASETS[dataset].scribbles
        if ARMS[arm].teacher != scale.network
    ]


def _require_known(what: str, asked: Sequence[object], known: object) -> None:
    wrong = [name for name in asked if name not in known]  # type: ignore[operator]
    if wrong:
        raise WssegError(f"there is no {what} {wrong[0]}: choose {', '.join(map(str, known))}")  # type: ignore[call-overload]
