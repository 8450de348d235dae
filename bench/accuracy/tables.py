"""Training tables on disk: every arm is given exactly what it may know, and nothing more."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.accuracy.arms import Arm
from bench.accuracy.datasets import Dataset, Picture, label_map, scribble_map
from bench.accuracy.folds import Part
from wsseg.imaging.definitions import PixelCounts, area_ratios
from wsseg.train.simulate import MarkOptions, simulate_marks


def write_table(
    dataset: Dataset, arm: Arm, teaching: Sequence[tuple[Picture, Part]], folder: Path, *, seed: int
) -> Path:
    """Write the table of an arm into `folder`, which is emptied first; returns its path.

    teaching: pictures of train and val. Ratios are those of the full-resolution label maps. Only
    full supervision has a column mask, in train as in val: nothing can leak into the other arms.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if arm.marks == "drawn":
        return _write(dataset, teaching, folder, "marks")
    outlined = _write(dataset, teaching, folder / "outlined", "mask")
    if arm.marks == "masks":
        return outlined
    options = MarkOptions(
        kind=arm.marks,
        per_component=dataset.per_component,
        share=arm.share,
        ratio_noise=arm.ratio_noise,
        seed=seed,
    )
    table = simulate_marks(
        outlined, folder / "marked", percent=arm.percent, options=options, keep_masks=()
    )
    shutil.rmtree(folder / "outlined")
    return table


def _write(
    dataset: Dataset, teaching: Sequence[tuple[Picture, Part]], folder: Path, column: str
) -> Path:
    """A table with ratios and the column mask, of label maps, or marks, of scribbles."""
    (folder / column).mkdir(parents=True)
    table = folder / "cases.csv"
    kinds = [_named("mark_kind", name) for name in dataset.classes if column == "marks"]
    ratios = [_named("ratio", name) for name in dataset.classes]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "group", "split", column, *ratios, *kinds])
        for picture, part in teaching:
            labels = label_map(dataset, picture)
            drawn = labels if column == "mask" else scribble_map(dataset, picture)
            cell = _save(drawn, folder, f"{column}/{picture.number:04d}.png")
            counts = PixelCounts.of_labels(labels, len(dataset.classes))
            shares = area_ratios(counts, ["image"] * len(dataset.classes)).tolist()
            row = [picture.image.resolve(), picture.group, part, cell, *shares]
            writer.writerow([*row, *("scribble" for _ in kinds)])
    return table


def _save(labels: NDArray[np.uint8], folder: Path, name: str) -> str:
    Image.fromarray(labels).save(folder / name)
    return name


def _named(column: str, class_name: str) -> str:
    return f"{column}:{class_name}"
