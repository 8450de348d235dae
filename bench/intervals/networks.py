"""The trained networks that the study measures, their held-out images, and changed copies."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from bench.accuracy.datasets import DATASETS, Picture, breast_ultrasound
from bench.accuracy.folds import FOLDS, parts
from bench.accuracy.jobs import SCALES, Job
from bench.intervals.held_out import Cases, Pixels, measure
from bench.intervals.train import ARM, SCALE, folder_of, split
from wsseg.imaging.errors import WssegError
from wsseg.train.run_folder import RECORD, load_run

SEED = 0
CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "another grey curve (gamma 0.6)": lambda raw: np.rint(255 * (raw / 255) ** 0.6),
    "blurred (Gaussian, 2.5 pixels)": lambda raw: np.rint(
        ndimage.gaussian_filter(raw, (2.5, 2.5, 0))
    ),
    "more speckle (20 %)": lambda raw: np.rint(
        raw * np.random.default_rng(SEED).normal(1, 0.2, raw.shape).astype(np.float32)
    ).clip(0, 255),
}
"""What another scanner or another setting might do to an 8-bit sonogram; all stay 0..255."""


@dataclass(frozen=True)
class Measured:
    """One network: the name of its data set, its held-out images, and the same images changed.

    empty: images without a region of the class, which no training image is.
    """

    dataset: str
    cases: Cases
    changed: dict[str, Cases]
    empty: Cases | None = None


def measured(data: Path, work: Path) -> Iterator[Measured]:
    """Every network of BUSI and of the kidneys below `work`; WssegError if there is none."""
    found = [*_lesions(data, work), *_kidneys(data, work)]
    if not found:
        raise WssegError(
            f"{work} has no run of busi with {ARM}: run python -m bench.accuracy "
            f"--datasets busi --arms {ARM} first"
        )
    for dataset, run, pictures in found:
        network, chosen = load_run(run), DATASETS[dataset]
        cases = measure(network, chosen, pictures)
        if dataset != "busi":
            yield Measured(dataset, cases, {})
            continue
        yield Measured(
            dataset,
            cases,
            {name: measure(network, chosen, pictures, change) for name, change in CHANGES.items()},
            measure(network, chosen, breast_ultrasound(data / chosen.folder, lesions=False)),
        )


def _lesions(data: Path, work: Path) -> Iterator[tuple[str, Path, Sequence[Picture]]]:
    dataset, scale = DATASETS["busi"], SCALES[SCALE]
    pictures = dataset.read(data / dataset.folder)
    for fold in range(FOLDS):
        job = Job("busi", ARM, scale.network, scale.pixels[0], fold, SEED, dataset.epochs)
        if (work / job.name / "run" / RECORD).is_file():
            of = parts(pictures, fold, dealt=dataset.dealt)
            out = [one for one, part in zip(pictures, of, strict=True) if part == "held-out"]
            yield "busi", work / job.name / "run", out


def _kidneys(data: Path, work: Path) -> Iterator[tuple[str, Path, Sequence[Picture]]]:
    run = folder_of(work, "kidneys") / "run"
    if (run / RECORD).is_file():
        yield "kidneys", run, [one for one, part in split("kidneys", data) if part == "held-out"]
