"""Probability maps lie where the image lies and hold what the network gave, to the last bit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from PIL import Image
from pydicom import dcmread

from tests.serve.conftest import LEVELS, SOFTNESS, rows, run, threshold_graph, write_model
from tests.serve.test_dicom_seg import slice_of, write_series
from wsseg.imaging.errors import WssegError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


def expected(pixels: np.ndarray, label: int) -> np.ndarray:
    """The network's probability: a logistic function of the grey value."""
    level = LEVELS.reshape(-1)[label - 1]
    chance: np.ndarray = 1 / (1 + np.exp((level - pixels.astype(np.float64)) / SOFTNESS))
    return chance


def test_a_dicom_series_has_a_volume_for_each_class_on_its_own_grid(model, tmp_path):
    out = tmp_path / "out"
    scans = write_series(tmp_path / "scans")
    run(model, tmp_path / "r.csv", scans, probability=out, masks=tmp_path / "masks", skip=False)
    (labels,) = (tmp_path / "masks").glob("*.nii.gz")
    for label in (1, 2):
        (path,) = out.glob(f"*.p{label}.nii.gz")
        found = Nifti1Image.from_filename(path)
        assert found.get_data_dtype() == np.float32
        np.testing.assert_allclose(found.affine, Nifti1Image.from_filename(labels).affine)
        values = np.asarray(found.dataobj).T
        stack = np.stack([slice_of(number) for number in range(5)])
        np.testing.assert_allclose(values, expected(stack, label), atol=1e-6)


def test_eight_bits_are_read_as_0_to_1_again(model, tmp_path):
    scans = write_series(tmp_path / "scans")
    for kind in ("float32", "uint8"):
        folder = tmp_path / kind
        run(model, folder / "r.csv", scans, probability=folder / "p", probability_type=kind)
    for label in (1, 2):
        (exact,) = (tmp_path / "float32" / "p").glob(f"*.p{label}.nii.gz")
        (rounded,) = (tmp_path / "uint8" / "p").glob(f"*.p{label}.nii.gz")
        stored = Nifti1Image.from_filename(rounded)
        assert stored.get_data_dtype() == np.uint8
        np.testing.assert_allclose(
            stored.get_fdata(), Nifti1Image.from_filename(exact).get_fdata(), atol=0.5 / 255 + 1e-6
        )


@pytest.mark.parametrize(("kind", "suffix"), [("float32", ".tif"), ("uint8", ".png")])
def test_a_picture_has_a_picture(model, tmp_path, kind, suffix):
    pixels = np.zeros((16, 24), np.uint8)
    pixels[3:9, 4:12] = 150
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "x.png")
    options = {"probability": tmp_path / "p", "probability_type": kind}
    run(model, tmp_path / "r.csv", tmp_path / "in", **options)
    names = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert [name.endswith(f".p{n}{suffix}") for n, name in enumerate(names, 1)] == [True, True]
    values = np.asarray(Image.open(tmp_path / "p" / names[0])) / (255 if kind == "uint8" else 1)
    np.testing.assert_allclose(values, expected(pixels, 1), atol=0.5 / 255 + 1e-6)


def test_probability_maps_change_no_measurement(model, tmp_path):
    scans = write_series(tmp_path / "scans")
    run(model, tmp_path / "a.csv", scans)
    run(model, tmp_path / "b.csv", scans, probability=tmp_path / "p")
    assert rows(tmp_path / "a.csv") == rows(tmp_path / "b.csv")


def test_equal_slices_get_equal_maps_although_one_of_them_is_computed(model, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    pixels = np.zeros((16, 24), np.uint8)
    pixels[3:9, 4:12] = 150
    for name in ("a", "b"):
        Image.fromarray(pixels).save(scans / f"{name}.png")
    run(model, tmp_path / "r.csv", scans, probability=tmp_path / "p", batch=1)
    first, second = (
        next((tmp_path / "p").glob(f"{name}.*p1.tif")).read_bytes() for name in ("a", "b")
    )
    assert first == second


def test_a_model_without_its_probability_is_refused_before_a_scan_is_read(tmp_path):
    old = write_model(tmp_path / "old", threshold_graph(probability=False))
    with pytest.raises(WssegError, match="exported without its probability"):
        run(old, tmp_path / "r.csv", write_series(tmp_path / "in"), probability=tmp_path / "p")


def test_label_maps_say_what_they_are_and_which_model_made_them(model, tmp_path):
    run(model, tmp_path / "r.csv", write_series(tmp_path / "scans"), masks=tmp_path / "masks")
    (path,) = (tmp_path / "masks").glob("*.nii.gz")
    header = Nifti1Image.from_filename(path).header
    assert header["intent_code"] == 1002
    sha256 = rows(tmp_path / "r.csv")[0]["model_sha256"]
    assert f"sha256:{sha256[:16]}".encode() in bytes(header["descrip"])


def test_the_legend_is_what_dcmqi_takes_to_make_a_segmentation(model, tmp_path):
    masks, scans = tmp_path / "masks", write_series(tmp_path / "scans")
    codes = ["bright=SCT:52988006", "bright.anatomy=SCT:76752008"]
    run(model, tmp_path / "r.csv", scans, masks=masks, codes=codes)
    (labels,) = masks.glob("*.nii.gz")
    program = shutil.which("itkimage2segimage", path=str(Path(sys.executable).parent))
    assert program
    arguments = ["--inputImageList", labels, "--inputDICOMDirectory", scans]
    arguments += ["--outputDICOM", tmp_path / "seg.dcm", "--inputMetadata", masks / "labels.json"]
    subprocess.run([program, *map(str, arguments)], check=True, capture_output=True)
    made = dcmread(tmp_path / "seg.dcm")
    assert [each.SegmentLabel for each in made.SegmentSequence] == ["bright", "brightest"]
    assert made.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lesion"
    area = np.count_nonzero(np.asarray(nibabel.load(labels).dataobj))  # type: ignore[attr-defined]
    assert made.pixel_array.sum() == area


def test_the_table_of_colours_names_every_class(model, tmp_path):
    run(model, tmp_path / "r.csv", write_series(tmp_path / "scans"), masks=tmp_path / "masks")
    lines = (tmp_path / "masks" / "labels.txt").read_text().splitlines()
    assert [line.split('"')[1] for line in lines] == ["Clear Label", "bright", "brightest"]
    legend = json.loads((tmp_path / "masks" / "labels.json").read_text())
    colours = [each["recommendedDisplayRGBValue"] for each in legend["segmentAttributes"][0]]
    assert [line.split()[1:4] for line in lines[1:]] == [list(map(str, rgb)) for rgb in colours]
