"""One run in a process of its own, so that its memory is given back and its threads are its own.

python -m bench.accuracy.run_one TASK      (TASK: JSON, as `Task.to_json` writes it)
"""

import logging
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from bench.accuracy.arms import ARMS, TAUGHT, Arm
from bench.accuracy.datasets import DATASETS, Dataset
from bench.accuracy.folds import parts
from bench.accuracy.held_out import image_scores, measure
from bench.accuracy.jobs import SCALES
from bench.accuracy.machine import commit, machine
from bench.accuracy.results import add_row, write_images
from bench.accuracy.scores import summarise
from bench.accuracy.tables import write_table
from bench.accuracy.task import Task
from wsseg.imaging.errors import WssegError
from wsseg.runs import with_mark_average
from wsseg.train.config import TrainConfig
from wsseg.train.run_folder import RECORD, load_run
from wsseg.train.trainer import train

BACKBONE_RATE = 0.3
"""A pretrained backbone learns more slowly than the head."""
DROPOUT = 0.1
CHANGES = {"rotate_degrees": 15.0, "shrink": 0.75, "contrast": 0.3, "noise": 0.04}


def run(task: Task) -> None:
    """Make the table, train, measure the held-out images, and add the row to the results."""
    start = time.monotonic()
    dataset, arm = DATASETS[task.job.dataset], ARMS[task.job.arm]
    pictures = dataset.read(Path(task.data, dataset.folder))
    split = list(zip(pictures, parts(pictures, task.job.fold, dealt=dataset.dealt), strict=True))
    folder = Path(task.work, task.job.name)
    teaching = [(picture, part) for picture, part in split if part != "held-out"]
    table = write_table(dataset, arm, teaching, folder / "cases", seed=task.job.seed)
    shutil.rmtree(folder / "run", ignore_errors=True)
    train(table, folder / "run", settings(task, dataset, arm))
    held_out = [picture for picture, part in split if part == "held-out"]
    counts = measure(load_run(folder / "run"), dataset, held_out)
    write_images(Path(task.out), task.job, image_scores(held_out, counts))
    add_row(
        Path(task.out),
        {
            **asdict(task.job),
            "marks": arm.words,
            "percent": "" if arm.percent is None else f"{arm.percent:g}",
            "images": len(held_out),
            **{name: f"{value:.4f}" for name, value in asdict(summarise(counts)).items()},
            "minutes": f"{(time.monotonic() - start) / 60:.1f}",
            "commit": commit(),
            "machine": machine(),
            "weights": task.weights_name,
        },
    )


def settings(task: Task, dataset: Dataset, arm: Arm) -> TrainConfig:
    """The same for every arm but preset and terms; no arm may choose its epoch by masks."""
    scale = SCALES[task.scale]
    config = TrainConfig.model_validate(
        {
            "preset": arm.preset,
            "network": task.job.network,
            "weights": task.weights,
            "size": task.job.size,
            "window": dataset.window,
            "epochs": task.job.epochs,
            "batch": scale.batch,
            "learning_rate": scale.learning_rate,
            "backbone_rate": BACKBONE_RATE,
            "dropout": DROPOUT,
            "select": "last",
            "seed": task.job.seed,
            **arm.settings,
            "distill": _teacher(task, arm) if arm.teacher else None,
            "augmentation": {**CHANGES, "flip_horizontal": 0.5 if dataset.flip else 0.0},
        }
    )
    # The paper's mark term averaged over the image teaches almost nothing: its better reading.
    return with_mark_average(config, "mark") if arm.preset.startswith("paper") else config


def _teacher(task: Task, arm: Arm) -> Path:
    """The finished run of the arm's teacher on the same images; WssegError where there is none."""
    job = replace(task.job, arm=TAUGHT, network=arm.teacher)
    pattern = f"{job.dataset}_{job.arm}_{job.network}_*_fold{job.fold}_seed{job.seed}_*ep/run"
    found = sorted(Path(task.work).glob(f"{pattern}/{RECORD}"))
    if not found:
        raise WssegError(
            f"{task.work} has no run {pattern}: run the arm {TAUGHT} with --size full first"
        )
    return found[-1].parent


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        run(Task.from_json(sys.argv[1]))
    except WssegError as error:
        sys.exit(str(error))
