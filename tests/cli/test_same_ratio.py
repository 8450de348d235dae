"""The same slices give the same ratio, whatever file they come in."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import blob, call
from wsseg.cli.demo_data import write_series


def write_three_ways(folder: Path, slices: np.ndarray) -> None:
    """Write slices (slice, row, column) as PNG pictures, one NIfTI file and a DICOM series."""
    (folder / "png").mkdir(parents=True)
    for index, plane in enumerate(slices):
        Image.fromarray(plane).save(folder / "png" / f"{index}.png")
    lps = np.diag([0.5, 0.8, 3.0, 1.0])  # columns 0.5 mm to the left, rows 0.8 mm to posterior
    image = nib.Nifti1Image(slices.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)
    nib.save(image, folder / "volume.nii.gz")
    write_series(slices, lps, folder / "dicom")


def ratios(report: Path, suffix: str) -> list[float]:
    with report.open(newline="", encoding="utf-8") as file:
        return [
            float(row["ratio"]) for row in csv.DictReader(file) if row["source"].endswith(suffix)
        ]


def test_png_nifti_and_dicom_give_the_same_ratio(job: Path, tmp_path: Path):
    slices = np.stack([blob(seed)[0] for seed in range(20, 24)])
    # not symmetric in any direction, so that a mirrored plane would show
    slices[:, :10, :20] = 255
    write_three_ways(tmp_path / "scans", slices)
    report = tmp_path / "ratios.csv"
    call("infer", tmp_path / "scans", "--model", job / "model", "--report", report)
    png, nifti, dicom = (ratios(report, end) for end in (".png", ".nii.gz", ".dcm"))
    assert len(png) == len(nifti) == len(dicom) == 4
    np.testing.assert_allclose(nifti, png, atol=1e-6)
    np.testing.assert_allclose(dicom, png, atol=1e-6)


def test_areas_in_mm2_are_pixels_times_the_pixel_size(job: Path, tmp_path: Path):
    slices = np.stack([blob(seed)[0] for seed in range(20, 22)])
    write_three_ways(tmp_path / "scans", slices)
    report = tmp_path / "ratios.csv"
    call("infer", tmp_path / "scans", "--model", job / "model", "--report", report)
    with report.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["source"].endswith(".png"):
                assert row["denominator_mm2"] == ""
            else:
                area = 0.5 * 0.8 * int(row["denominator_px"])
                # NIfTI keeps lengths in single precision
                assert float(row["denominator_mm2"]) == pytest.approx(area, rel=1e-6)
