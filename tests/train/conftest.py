"""Files that the tests of this room share."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

ROWS, COLUMNS = 10, 8


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
    odd.png, inverted.png, small.png, text.png, far.nii.gz and folder is wrong in its way.
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
    picture(tmp_path / "inverted.png", labels(1, *[0] * 20, *[2] * 59))
    Image.fromarray(labels(1, shape=(4, 4))).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
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
    # Imported here: this file may be read before types are checked at imports.
    from wsseg.train.label_checks import region_box, region_moments

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
