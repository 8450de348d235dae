"""The data sets: where their pictures, label maps and groups lie, and what is a class of them."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsseg.imaging.definitions import Window
from wsseg.imaging.errors import WssegError

EIGHT_BIT = Window(kind="fixed", low=0, high=255)


@dataclass(frozen=True)
class Picture:
    """One picture. number: its place in the data set, from 0, which stands for it in results.

    group: what must not be split over folds, a patient or a set of near-duplicates. scribbles:
    label map of strokes drawn by hand, by the numbers of the data set.
    """

    number: int
    image: Path
    labels: Path
    group: str
    scribbles: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """How a folder of pictures becomes cases.

    numbers: value in the label maps -> class number, other values being background. epochs: chosen
    so that every data set gets about 1000 steps of 8 images. dealt: groups are few, so folds are
    dealt out evenly instead of by hash alone. per_component: marks for each connected part. flip:
    whether a mirrored picture still shows the same classes.
    """

    folder: str
    classes: tuple[str, ...]
    numbers: dict[int, int]
    read: Callable[[Path], list[Picture]]
    epochs: int
    dealt: bool = True
    per_component: bool = False
    flip: bool = True
    window: Window | None = None
    scribbles: bool = False


def breast_ultrasound(folder: Path, *, lesions: bool = True) -> list[Picture]:
    """BUSI: pictures with a lesion, or those without; groups are near-duplicates."""
    rows = [row for row in _index(folder) if (row["class"] != "normal") == lesions]
    return [
        Picture(
            number,
            folder / "images" / f"{row['name']}.png",
            folder / "masks" / f"{row['name']}.png",
            row["duplicate_group"],
        )
        for number, row in enumerate(rows)
    ]


def abdominal_ct(folder: Path) -> list[Picture]:
    """Axial slices with their organs; groups are patients."""
    return [
        Picture(
            number, folder / "images" / row["file"], folder / "labels" / row["file"], row["case"]
        )
        for number, row in enumerate(_index(folder))
    ]


def cardiac_mr(folder: Path) -> list[Picture]:
    """Short-axis slices of hearts with scribbles drawn by experts; groups are patients."""
    return [
        Picture(
            number,
            folder / "images" / f"{row['name']}.png",
            folder / "labels" / f"{row['name']}.png",
            row["patient"],
            folder / "scribbles" / f"{row['name']}.png",
        )
        for number, row in enumerate(_index(folder))
    ]


DATASETS = {
    "busi": Dataset("busi", ("lesion",), {1: 1}, breast_ultrasound, epochs=24, dealt=False),
    "kidneys": Dataset(
        "abdomen_ct",
        ("kidneys",),
        {2: 1, 3: 1},
        abdominal_ct,
        epochs=13,
        per_component=True,
        window=EIGHT_BIT,
    ),
    "kidneys2": Dataset(
        "abdomen_ct",
        ("right_kidney", "left_kidney"),
        {2: 1, 3: 2},
        abdominal_ct,
        epochs=13,
        per_component=True,
        flip=False,
        window=EIGHT_BIT,
    ),
    "cardiac": Dataset(
        "cardiac_mr",
        ("right_ventricle", "myocardium", "left_ventricle"),
        {1: 1, 2: 2, 3: 3},
        cardiac_mr,
        epochs=36,
        scribbles=True,
    ),
}

NOT_DRAWN = 4
"""Value of a pixel in the cardiac scribbles that no stroke covers; 0 is a stroke of background."""
BACKGROUND = 255


def label_map(dataset: Dataset, picture: Picture) -> NDArray[np.uint8]:
    """Full mask (row, column): class numbers, 0 for all else."""
    return _renumbered(picture.labels, dataset.numbers)


def scribble_map(dataset: Dataset, picture: Picture) -> NDArray[np.uint8]:
    """Strokes (row, column) as wsseg reads them: class number, 255 background, 0 not marked."""
    if picture.scribbles is None:
        raise WssegError(f"{dataset.folder} has no scribbles: leave out the arm that uses them")
    return _renumbered(picture.scribbles, {**dataset.numbers, 0: BACKGROUND, NOT_DRAWN: 0})


def _renumbered(path: Path, numbers: dict[int, int]) -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    table[list(numbers)] = list(numbers.values())
    with Image.open(path) as picture:
        # A 1-bit picture opens as true and false, which cannot be looked up.
        renumbered: NDArray[np.uint8] = table[np.asarray(picture).astype(np.uint8)]
    return renumbered


def _index(folder: Path) -> list[dict[str, str]]:
    path = folder / "index.csv"
    if not path.is_file():
        raise WssegError(f"there is no {path}: give the folder that holds {folder.name} as --data")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
