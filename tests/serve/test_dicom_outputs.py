"""DICOM results of a run: one that fails costs nothing else, and objects agree with each other."""

import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.serve.conftest import RATIOS, RATIOS_PER_SLICE, failures, rows, run, write_model
from tests.serve.test_dicom_seg import errors_of, program, slice_of, write_series
from wsseg.imaging.dicom import derived

SLICES = 5
CANARY = "Canary^Patient"  # in every header that tests write


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


def contradictions(*folders: Path) -> list[str]:
    """What dicom3tools finds that is not the same in all objects of one patient, study, series or
    frame of reference."""
    paths = [path for folder in folders for path in folder.iterdir()]
    told = subprocess.run(
        [program("dcentvfy"), *paths], capture_output=True, text=True, check=False
    )
    return [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")]


def test_a_segmentation_that_cannot_be_written_costs_no_other_result(model, tmp_path):
    scans = tmp_path / "scans"
    write_series(scans / "a", SeriesInstanceUID="1.2.3.1")
    write_series(scans / "b", SeriesInstanceUID="1.2.3.2")
    (tmp_path / "seg" / "1.2.3.1.seg.dcm").mkdir(parents=True)  # its place is taken
    folders = {name: tmp_path / name for name in ("seg", "sr", "masks")}
    summary = run(model, tmp_path / "ratios.csv", scans, **folders)
    assert summary.exit_code == 8
    (told,) = failures(tmp_path / "ratios.csv")
    assert (told["reason"], told["status"]) == ("not_written", "failed")
    assert "its DICOM segmentations could not be written" in told["message"]
    assert len(rows(tmp_path / "ratios.csv")) == 2 * SLICES * RATIOS_PER_SLICE
    assert (tmp_path / "seg" / "1.2.3.2.seg.dcm").is_file()
    assert {path.name for path in (tmp_path / "sr").iterdir()} == {
        "1.2.3.1.sr.dcm",
        "1.2.3.2.sr.dcm",
    }
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 2


@pytest.mark.parametrize("failing", ["seg_source", "make_segmentation"])
def test_what_a_library_says_of_a_header_is_not_repeated(
    model, tmp_path, monkeypatch, caplog, failing
):
    def fail(*_, **__):
        raise ValueError(f"{CANARY} is no valid value")

    monkeypatch.setattr(f"wsseg.serve.dicom_outputs.{failing}", fail)
    scans = write_series(tmp_path / "scans")
    with caplog.at_level("DEBUG", logger="wsseg"):
        run(model, tmp_path / "ratios.csv", scans, seg=tmp_path / "seg")
    assert len(rows(tmp_path / "ratios.csv")) == SLICES * RATIOS_PER_SLICE
    (told,) = failures(tmp_path / "ratios.csv")
    assert told["reason"] == "not_written"
    assert "ValueError" in told["message"]
    assert CANARY not in told["message"] + caplog.text
    assert "test_dicom_outputs.py" in caplog.text  # where it happened


def test_headers_are_read_once_for_all_results_of_a_scan(model, tmp_path, monkeypatch):
    header, read = derived._header, []

    def counted(file):
        read.append(file.source)
        return header(file)

    monkeypatch.setattr(derived, "_header", counted)
    scans = write_series(tmp_path / "scans")
    run(model, tmp_path / "ratios.csv", scans, seg=tmp_path / "seg", sr=tmp_path / "sr")
    assert len(read) == len(set(read)) == SLICES


def test_parts_of_a_series_with_two_frames_of_reference_have_results_of_their_own(model, tmp_path):
    scans = write_series(tmp_path / "scans")
    changed = dcmread(scans / "2.dcm")
    changed.FrameOfReferenceUID = "1.2.3.99"
    changed.save_as(scans / "2.dcm")
    run(model, tmp_path / "ratios.csv", scans, seg=tmp_path / "seg", sr=tmp_path / "sr")
    assert failures(tmp_path / "ratios.csv") == []
    made = [dcmread(path) for path in (tmp_path / "seg").iterdir()]
    assert sorted(each.NumberOfFrames for each in made) == [1 * 2, 4 * 2]
    assert all(errors_of(path) == [] for path in (tmp_path / "seg").iterdir())
    of_source = [line for line in contradictions(scans) if "FrameOfReferenceUID" in line]
    assert len(of_source) == 1  # one series in two frames of reference, which DICOM forbids
    assert contradictions(scans, tmp_path / "seg", tmp_path / "sr") == of_source


def test_files_that_share_a_uid_have_results_that_do_not(model, tmp_path):
    scans = tmp_path / "scans"
    for name in "ab":
        write_series(scans / name, heights=(0,))
    first, second = dcmread(scans / "a" / "0.dcm"), dcmread(scans / "b" / "0.dcm")
    second.PixelData = slice_of(3).tobytes()
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    second.save_as(scans / "b" / "0.dcm")
    run(model, tmp_path / "ratios.csv", scans, seg=tmp_path / "seg", sr=tmp_path / "sr")
    made = [dcmread(path) for name in ("seg", "sr") for path in (tmp_path / name).iterdir()]
    assert len({each.SOPInstanceUID for each in made}) == len(made) == 4


def test_a_label_map_says_on_how_many_pixels_classes_overlap(model, tmp_path, log):
    log.set_level("INFO", logger="wsseg")
    scans = write_series(tmp_path / "scans")
    run(model, tmp_path / "a.csv", scans, seg=tmp_path / "a", seg_type="labelmap")
    # Class 2 lies within class 1.
    shared = sum(
        int(row["numerator_px"])
        for row in rows(tmp_path / "a.csv")
        if row["ratio_name"] == RATIOS[1].name
    )
    assert f"classes overlap on {shared} pixels" in log.text
    log.clear()
    run(model, tmp_path / "b.csv", scans, seg=tmp_path / "b")
    assert "classes overlap" not in log.text


def test_models_that_name_their_classes_otherwise_make_other_instances(model, tmp_path):
    scans = write_series(tmp_path / "scans")
    ratios = tuple(
        each.model_copy(update={"numerator": "pale", "denominator": "image"}) for each in RATIOS[:1]
    )
    other = write_model(tmp_path / "other", classes=("pale", "palest"), ratios=ratios)
    for name, used in (("a", model), ("b", other)):
        run(used, tmp_path / f"{name}.csv", scans, seg=tmp_path / name)
    made = [dcmread(path) for name in "ab" for path in (tmp_path / name).iterdir()]
    assert len({each.SOPInstanceUID for each in made}) == 2
