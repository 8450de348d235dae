"""Tiny data sets in the three forms that the benchmark reads."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIDE = 40


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def disc(centre: tuple[int, int], radius: float) -> np.ndarray:
    rows, columns = np.indices((SIDE, SIDE))
    inside: np.ndarray = np.hypot(rows - centre[0], columns - centre[1]) <= radius
    return inside


def picture_of(labels: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(60, 10, labels.shape)
    grey: np.ndarray = (noise + 120 * (labels > 0)).clip(0, 255).astype(np.uint8)
    return grey


def write_index(folder: Path, rows: Sequence[dict[str, object]]) -> None:
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_busi(folder: Path) -> None:
    """25 lesions, every fifth a copy of the one before, and a picture without a lesion."""
    rows: list[dict[str, object]] = []
    for number in range(26):
        name, normal = f"case_{number}", number == 25
        lesion = disc((20, 20), 6 + number % 5) & (not normal)
        save(folder / f"images/{name}.png", picture_of(lesion, number))
        save(folder / f"masks/{name}.png", lesion)
        group = f"group_{number - (number % 5 == 4)}"
        kind = "normal" if normal else "benign"
        rows.append({"name": name, "class": kind, "duplicate_group": group})
    write_index(folder, rows)


def write_abdomen(folder: Path) -> None:
    """12 patients of 3 slices: none, one and two kidneys, beside a liver."""
    rows: list[dict[str, object]] = []
    for case in range(12):
        for number in range(3):
            labels = np.zeros((SIDE, SIDE), np.uint8)
            labels[disc((8, 20), 5)] = 6
            labels[disc((28, 10), 5) & (number > 0)] = 2
            labels[disc((28, 30), 4) & (number > 1)] = 3
            name = f"case{case:02d}_slice{number}.png"
            save(folder / "images" / name, picture_of(labels, case))
            save(folder / "labels" / name, labels)
            rows.append({"file": name, "case": case, "slice": number})
    write_index(folder, rows)


def write_cardiac(folder: Path) -> None:
    """12 patients of 2 slices with three structures, scribbles inside them and outside all."""
    rows: list[dict[str, object]] = []
    for patient in range(12):
        for number in range(2):
            labels = np.zeros((SIDE, SIDE), np.uint8)
            labels[disc((20, 10), 5)] = 1
            labels[disc((20, 26), 8)] = 2
            labels[disc((20, 26), 4)] = 3
            scribbles = np.full((SIDE, SIDE), 4, np.uint8)
            scribbles[2, :] = 0
            scribbles[20, 8:12] = 1
            scribbles[14, 24:28] = 2
            scribbles[20, 24:28] = 3
            name = f"patient{patient:03d}_slice_{number}"
            save(folder / f"images/{name}.png", picture_of(labels, patient))
            save(folder / f"labels/{name}.png", labels)
            save(folder / f"scribbles/{name}.png", scribbles)
            rows.append({"name": name, "patient": f"patient{patient:03d}"})
    write_index(folder, rows)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with busi/, abdomen_ct/ and cardiac_mr/."""
    folder = tmp_path_factory.mktemp("data")
    write_busi(folder / "busi")
    write_abdomen(folder / "abdomen_ct")
    write_cardiac(folder / "cardiac_mr")
    return folder
