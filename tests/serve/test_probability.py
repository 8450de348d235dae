"""Probability maps lie where the image lies and hold what the network gave, to the last bit."""

import json
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from nibabel.nifti1 import Nifti1Image
from PIL import Image
from pydicom import dcmread

from tests.serve.conftest import LEVELS, SOFTNESS, rows, run, threshold_graph, write_model
from tests.serve.test_dicom_seg import program, slice_of, write_series
from wsseg.imaging.errors import WssegError
from wsseg.imaging.legend import write_legend


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
        assert 1 - 1e-6 < stored.get_fdata().max() <= 1


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


def test_the_sum_of_a_probability_map_is_the_soft_area_of_the_network(model, tmp_path):
    run(model, tmp_path / "r.csv", write_series(tmp_path / "in"), probability=tmp_path / "p")
    network = onnxruntime.InferenceSession(model / "model.onnx")
    pixels = np.stack([slice_of(number) for number in range(1, 5)])[:, None].astype(np.float32)
    (soft,) = network.run(["soft_area"], {"pixels": pixels})
    for label in (1, 2):
        (path,) = (tmp_path / "p").glob(f"*.p{label}.nii.gz")
        found = np.asarray(Nifti1Image.from_filename(path).dataobj, np.float64).sum(axis=(0, 1))
        np.testing.assert_allclose(found[1:], soft[:, label - 1], rtol=1e-6)
        assert found[0] == 0  # a slice that was skipped


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_voxels_of_a_probability_map_from_the_threshold_on_are_those_of_the_label_map(
    model, tmp_path, kind
):
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 300, (7, 9, 5)).astype(np.int16)
    turned = np.array([[0, 0, 2.5, 1], [-0.8, 0, 0, 2], [0, 0.5, 0, 3], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    Nifti1Image(voxels, turned).to_filename(tmp_path / "in" / "x.nii.gz")
    options = {"probability": tmp_path / "p", "probability_type": kind, "masks": tmp_path / "m"}
    run(model, tmp_path / "r.csv", tmp_path / "in", **options)
    labels = Nifti1Image.from_filename(tmp_path / "m" / "x.nii.gz")
    for label in (1, 2):
        found = Nifti1Image.from_filename(tmp_path / "p" / f"x.p{label}.nii.gz")
        np.testing.assert_array_equal(found.affine, labels.affine)
        masked = np.asarray(labels.dataobj) >= label  # class 2 lies within class 1
        assert masked.any()
        np.testing.assert_array_equal(found.get_fdata() >= 0.5, masked)


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


def by_dcmqi(labels: Path, scans: Path, legend: Path, path: Path) -> Path:
    """The DICOM segmentation that dcmqi makes of a label map."""
    arguments = ["--inputImageList", labels, "--inputDICOMDirectory", scans]
    arguments += ["--outputDICOM", path, "--inputMetadata", legend]
    command = [program("itkimage2segimage"), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def test_dcmqi_makes_a_segmentation_of_a_label_map_and_the_legend(model, tmp_path):
    masks, scans = tmp_path / "masks", write_series(tmp_path / "scans")
    codes = ["bright=SCT:52988006", "bright.anatomy=SCT:76752008"]
    run(model, tmp_path / "r.csv", scans, masks=masks, codes=codes)
    (labels,) = masks.glob("*.nii.gz")
    made = dcmread(by_dcmqi(labels, scans, masks / "labels.json", tmp_path / "seg.dcm"))
    first, second = made.SegmentSequence
    assert [first.SegmentLabel, second.SegmentLabel] == ["bright", "brightest"]
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lesion"
    assert first.AnatomicRegionSequence[0].CodeMeaning == "Breast"
    expected = np.asarray(Nifti1Image.from_filename(labels).dataobj).T
    found = np.zeros_like(expected)
    for frame, item in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        height = item.PlanePositionSequence[0].ImagePositionPatient[2]
        label = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[round(float(height) / 2.5)][frame > 0] = label
    np.testing.assert_array_equal(found, expected)


def test_dcmqi_takes_a_legend_of_long_names_with_accents(tmp_path):
    scans, legend = write_series(tmp_path / "scans"), tmp_path / "legend"
    legend.mkdir()
    labels = np.zeros((21, 18, 5), np.uint8)
    labels[3:6, 4:8, 1:3] = 1
    labels[3:6, 4:8, 3] = 2
    affine = np.diag([-0.5, -0.8, 2.5, 1.0])
    affine[:2, 3] = 10, 20
    Nifti1Image(labels, affine).to_filename(tmp_path / "labels.nii.gz")
    names = ["Läsion der Brust, die sehr ausführlich und über Gebühr lange benannt ist", "病变"]
    write_legend(legend, names, {}, "Modell für " + "Brust" * 20, "f" * 64)
    path = by_dcmqi(tmp_path / "labels.nii.gz", scans, legend / "labels.json", tmp_path / "seg.dcm")
    first, second = dcmread(path).SegmentSequence
    assert first.SegmentLabel.startswith("Lasion der Brust")
    assert second.SegmentLabel == "??"
    assert first.SegmentAlgorithmName.endswith("sha256:" + "f" * 16)
    assert names[0] in (legend / "labels.txt").read_text("utf-8")


def test_a_legend_that_cannot_be_written_is_named_before_a_scan_is_read(model, tmp_path):
    (tmp_path / "masks" / "labels.json").mkdir(parents=True)
    with pytest.raises(WssegError, match=r"labels\.json.* cannot be written: Is a directory"):
        run(model, tmp_path / "r.csv", write_series(tmp_path / "in"), masks=tmp_path / "masks")


def test_the_table_of_colours_names_every_class(model, tmp_path):
    run(model, tmp_path / "r.csv", write_series(tmp_path / "scans"), masks=tmp_path / "masks")
    lines = (tmp_path / "masks" / "labels.txt").read_text().splitlines()
    assert [line.split('"')[1] for line in lines] == ["Clear Label", "bright", "brightest"]
    legend = json.loads((tmp_path / "masks" / "labels.json").read_text())
    colours = [each["recommendedDisplayRGBValue"] for each in legend["segmentAttributes"][0]]
    assert [line.split()[1:4] for line in lines[1:]] == [list(map(str, rgb)) for rgb in colours]
