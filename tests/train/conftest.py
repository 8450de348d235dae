"""Files that the tests of this room share."""

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
    odd.png, small.png, text.png, far.nii.gz and folder is wrong in its way.
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
