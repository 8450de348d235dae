"""Sound scans, and a model that thresholds them in ONNX Runtime."""

from pathlib import Path

import numpy as np

from tests.imaging.conftest import _write_dicom
from tests.serve.conftest import picture, write_model, write_volume

__all__ = ["write_model", "write_series", "write_volumes"]


def write_series(folder: Path, count: int, *, slices: int = 4, side: int = 48) -> Path:
    """Write CT series, named 000 and so on, of square slices; returns the folder."""
    for series in range(count):
        for index in range(slices):
            _write_dicom(
                folder / f"{series:03d}" / f"{index}.dcm",
                picture(slices * series + index, (side, side)).astype(np.int16),
                Rows=side,
                Columns=side,
                SeriesInstanceUID=f"1.2.3.{series + 1}",
                SOPInstanceUID=f"1.2.3.{series + 1}.{index + 1}",
                ImagePositionPatient=[0.0, 0.0, 2.0 * index],
            )
    return folder


def write_volumes(folder: Path, count: int, *, slices: int = 6, side: int = 200) -> Path:
    """Write NIfTI volumes of noise, so that label maps are no trifle; returns the folder."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for index in range(count):
        shape = (slices, side, side + index % 3)
        write_volume(folder / f"{index:04d}.nii", noise.integers(0, 255, shape, np.uint8))
    return folder
