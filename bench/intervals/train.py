"""A network that leaves enough groups out for intervals to be calibrated on one part of them.

    python -m bench.intervals.train --data DATA --weights WEIGHTS [--dataset kidneys]

A fold of few patients is too small: at a coverage of 0.9 it takes nine to calibrate, and others to
measure. So three of the five folds of `bench.accuracy` are held out, and two teach.
"""

import argparse
import logging
import shutil
from pathlib import Path

from bench.accuracy.arms import ARMS
from bench.accuracy.datasets import DATASETS, Picture
from bench.accuracy.folds import Part, parts
from bench.accuracy.jobs import SCALES, Job
from bench.accuracy.run_one import settings
from bench.accuracy.tables import write_table
from bench.accuracy.task import Task
from wsseg.train.trainer import train

HELD_OUT = (0, 1, 2)
ARM = "wsseg-8"
SCALE = "small"


def folder_of(work: Path, dataset: str) -> Path:
    """Where the network of a data set lies."""
    return work / f"{dataset}_{ARM}_{SCALES[SCALE].network}_three-folds-out"


def split(dataset: str, data: Path) -> list[tuple[Picture, Part]]:
    """Every picture and its part, three folds being held out."""
    chosen = DATASETS[dataset]
    pictures = chosen.read(data / chosen.folder)
    one_out = [parts(pictures, fold, dealt=chosen.dealt) for fold in HELD_OUT]
    held_out = [any(each == "held-out" for each in column) for column in zip(*one_out, strict=True)]
    # A picture that is in none of these folds has the same part in all of them.
    return [
        (picture, "held-out" if out else part)
        for picture, out, part in zip(pictures, held_out, one_out[0], strict=True)
    ]


def main() -> None:
    """Train one network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--weights", default="imagenet", help="as for bench.accuracy")
    parser.add_argument("--dataset", choices=tuple(DATASETS), default="kidneys")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"))
    asked = parser.parse_args()
    dataset, scale = DATASETS[asked.dataset], SCALES[SCALE]
    teaching = [one for one in split(asked.dataset, asked.data) if one[1] != "held-out"]
    folder = folder_of(asked.work, asked.dataset)
    # Half of the teaching images: twice the passes give as many steps.
    job = Job(
        asked.dataset, ARM, scale.network, scale.pixels[0], HELD_OUT[0], 0, 2 * dataset.epochs
    )
    task = Task(job, SCALE, str(asked.data), str(asked.weights), str(asked.work), "")
    table = write_table(dataset, ARMS[ARM], teaching, folder / "cases", seed=0)
    shutil.rmtree(folder / "run", ignore_errors=True)
    train(table, folder / "run", settings(task, dataset, ARMS[ARM]))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
