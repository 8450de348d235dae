"""Whole runs that recover masks by ratios on file, and measure what they measure without them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.serve.conftest import (
    LEVELS,
    SOFTNESS,
    rows,
    run,
    write_model,
)
from tests.serve.recovery import BOTH, recover, smooth, write_scans
from wsseg.serve.engines.onnxruntime import OnnxEngine
from wsseg.serve.measure import is_far
from wsseg.serve.report import RecoveredRow, columns

CONTRACT = (
    *("source", "modality", "study_uid", "series_uid", "instance_uid", "frame", "slice", "plane"),
    *("ratio_name", "class_name", "known_ratio", "predicted_ratio", "pixels", "image_pixels"),
    *("threshold", "mean_probability", "flags", "status"),
    *("model", "model_sha256", "engine", "precision", "wsseg_version"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the threshold model with a ratio over the image for each class."""
    return write_model(tmp_path_factory.mktemp("model") / "model", ratios=BOTH)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures 0.png to 3.png, and a volume of three slices."""
    return write_scans(tmp_path / "scans")


def most_probable(pixels: np.ndarray, count: int) -> np.ndarray:
    """The brightest pixels, the first of equals."""
    chosen = np.zeros(pixels.size, bool)
    chosen[np.argsort(-pixels.ravel().astype(int), kind="stable")[:count]] = True
    return chosen.reshape(pixels.shape)


@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.2518, 0.9, 1.0])
def test_a_mask_holds_the_known_number_of_pixels_and_the_most_probable_ones(
    model: Path, pictures: Path, tmp_path: Path, ratio: float
):
    text = f"source,ratio:bright\n1.png,{ratio}\n"
    summary, (row,), masks = recover(model, tmp_path, text, pictures)
    count = round(ratio * 960)
    with Image.open(masks / "1.png") as stored:
        np.testing.assert_array_equal(np.asarray(stored) == 1, most_probable(smooth(1), count))
    assert [path.name for path in masks.iterdir()] == ["1.png"]
    assert (int(row["pixels"]), int(row["image_pixels"])) == (count, 960)
    assert (summary.exit_code, summary.recovered) == (0, 1)


def test_the_table_tells_known_and_predicted_ratio_and_where_the_map_was_cut(
    model: Path, pictures: Path, tmp_path: Path
):
    text = "source,ratio:bright\n2.png,0.25\n"
    _, (row,), _ = recover(model, tmp_path, text, pictures)
    assert tuple(row) == tuple(columns(RecoveredRow)) == CONTRACT
    inside = np.sort(smooth(2).ravel())[-240:].astype(np.float64)
    probability = 1 / (1 + np.exp(-(inside - LEVELS[0]) / SOFTNESS))
    assert float(row["threshold"]) == pytest.approx(probability[0], rel=1e-5)
    assert float(row["mean_probability"]) == pytest.approx(probability.mean(), rel=1e-5)
    assert (row["source"], row["slice"], row["class_name"]) == ("2.png", "0", "bright")
    assert float(row["known_ratio"]) == 0.25
    measured = {
        r["ratio_name"]: r for r in rows(tmp_path / "out" / "ratios.csv") if r["source"] == "2.png"
    }
    assert row["predicted_ratio"] == measured["bright"]["ratio"]
    assert row["model_sha256"] == measured["bright"]["model_sha256"]


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_what_is_measured_is_the_same_bytes_with_and_without_known_ratios(
    model: Path, pictures: Path, tmp_path: Path, batch: int
):
    drawn = {"masks": tmp_path / "masks", "overlays": tmp_path / "overlays"}
    run(model, tmp_path / "plain" / "ratios.csv", pictures, **drawn)
    before = {path: path.read_bytes() for path in (tmp_path / "masks").iterdir()}
    text = "source,slice,ratio:bright\n0.png,,0.3\n3.png,,0.1\nvolume.nii.gz,1,0.2\n"
    recover(model, tmp_path, text, pictures, batch=batch, memory_mb=1, **drawn)
    for table in (tmp_path / "plain").iterdir():
        assert table.read_bytes() == (tmp_path / "out" / table.name).read_bytes()
    assert {path: path.read_bytes() for path in (tmp_path / "masks").iterdir()} == before


def test_only_batches_with_a_known_slice_ask_for_the_probability(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch
):
    asked = []
    compute = OnnxEngine.with_probability

    def noting(engine, pixels):
        asked.append(len(pixels))
        return compute(engine, pixels)

    monkeypatch.setattr(OnnxEngine, "with_probability", noting)
    recover(model, tmp_path, "source,ratio:bright\n0.png,0.3\n", pictures, batch=2)
    assert asked == [2]


def test_recovered_classes_share_no_pixel(model: Path, pictures: Path, tmp_path: Path):
    text = "source,ratio:bright,ratio:brightest\n0.png,0.4,0.2\n"
    _, table, masks = recover(model, tmp_path, text, pictures)
    assert [(row["class_name"], int(row["pixels"])) for row in table] == [
        ("bright", 384),
        ("brightest", 192),
    ]
    with Image.open(masks / "0.png") as stored:
        labels = np.asarray(stored)
    # everywhere "bright" is the more probable class, so "brightest" gets the next best pixels
    np.testing.assert_array_equal(labels == 1, most_probable(smooth(0), 384))
    np.testing.assert_array_equal(labels > 0, most_probable(smooth(0), 576))


def test_a_volume_gets_a_label_map_on_its_grid_with_the_known_slices_alone(
    model: Path, pictures: Path, tmp_path: Path
):
    text = "source;slice;ratio_name;ratio\nvolume.nii.gz;2;bright;0.5\nvolume.nii.gz;0;bright;0.1\n"
    _, table, masks = recover(model, tmp_path, text, pictures)
    assert [(row["slice"], row["pixels"]) for row in table] == [("0", "96"), ("2", "480")]
    found = nib.nifti1.load(masks / "volume.nii.gz")
    labels = np.asanyarray(found.dataobj).transpose(2, 1, 0)
    np.testing.assert_array_equal(labels[0] == 1, most_probable(smooth(4), 96))
    assert not labels[1].any()
    np.testing.assert_array_equal(labels[2] == 1, most_probable(smooth(6), 480))
    source = nib.nifti1.load(pictures / "volume.nii.gz")
    np.testing.assert_array_equal(found.affine, source.affine)


def test_a_known_ratio_far_from_the_measured_one_is_flagged(
    model: Path, pictures: Path, tmp_path: Path
):
    run(model, tmp_path / "plain" / "ratios.csv", pictures / "0.png")
    measured = float(rows(tmp_path / "plain" / "ratios.csv")[0]["ratio"])
    text = f"source,ratio:bright\n0.png,{measured * 0.9}\n1.png,0.01\n"
    _, (near, far), _ = recover(model, tmp_path, text, pictures)
    assert near["flags"] == ""
    assert far["flags"] == "FAR_FROM_PREDICTED"


@pytest.mark.parametrize(
    ("known", "predicted", "far"),
    [(0.2, 0.1, False), (0.2, 0.09, True), (0.2, 0.31, True), (0.0, 0.0, False), (0.0, 0.1, True)],
)
def test_far_is_more_than_half_of_the_known_ratio_away(known: float, predicted: float, far: bool):
    assert is_far(known, predicted) == far
