"""`--sr`, read by programs that are not ours: dciodvfy, dcmqi, dcmtk and highdicom."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from tests.imaging.conftest import SERIES, STUDY, _write_dicom
from tests.serve.conftest import (
    RATIOS,
    failures,
    full_disk,
    picture,
    rows,
    run,
    write_model,
    write_pictures,
)
from wsseg.imaging import WssegError
from wsseg.imaging.dicom.codes import ClassCodes, parse_code
from wsseg.imaging.dicom.sr_flags import MEANINGS
from wsseg.serve.intervals import FLOOR, calibrated
from wsseg.serve.manifest import Calibration

CODES = {
    "bright": ClassCodes(
        type=parse_code("SCT:52988006"), anatomy=parse_code("SCT:76752008:Mamma, männlich")
    )
}
PATIENT = {
    "PatientName": "Müller^Änne",
    "PatientID": "MADE-UP-7",
    "PatientBirthDate": "19700101",
    "PatientSex": "F",
    "StudyID": "S1",
    "AccessionNumber": "A1",
    "StudyDate": "20240229",
    "StudyTime": "101112",
    "SpecificCharacterSet": "ISO_IR 100",
}


def program(name: str) -> str:
    """A program that pip installed beside Python, or one of the system."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} is missing: `make test` installs it"
    return found


def said(name: str, *arguments: object) -> str:
    result = subprocess.run(
        [program(name), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return result.stdout + result.stderr


def slices(count: int) -> list[NDArray[np.uint8]]:
    """Pictures of which the first shows nothing."""
    return [np.zeros((24, 40), np.uint8), *(picture(seed) for seed in range(1, count))]


def write_series(folder: Path, count: int = 4, **elements: Any) -> Path:
    for index, pixels in enumerate(slices(count)):
        _write_dicom(
            folder / f"{index}.dcm",
            pixels.astype(np.int16),
            Rows=24,
            Columns=40,
            Modality="MR",
            SOPClassUID=pydicom.uid.MRImageStorage,
            ImagePositionPatient=[0.0, 0.0, 3.0 * index],
            InstanceNumber=index + 1,
            **(PATIENT | elements),
        )
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the series, its ratios.csv, and its report in sr/."""
    folder = tmp_path_factory.mktemp("sr")
    model = write_model(folder / "model", codes=CODES)
    summary = run(
        model, folder / "ratios.csv", write_series(folder / "scans"), sr=folder / "sr", skip=False
    )
    assert summary.exit_code == 0
    return folder


@pytest.fixture(scope="module")
def report(measured: Path) -> Path:
    (path,) = (measured / "sr").iterdir()
    assert path.name == f"{SERIES}.sr.dcm"
    return path


def test_dciodvfy_finds_no_error(report: Path):
    lines = said("dciodvfy", report).splitlines()
    assert "ComprehensiveSR" in lines
    assert not [line for line in lines if line.startswith("Error")]


def test_dcmqi_reads_the_numbers_of_ratios_csv(measured: Path, report: Path, tmp_path: Path):
    said("tid1500reader", "--inputDICOM", report, "--outputMetadata", tmp_path / "sr.json")
    found = json.loads((tmp_path / "sr.json").read_text(encoding="utf-8"))["Measurements"]
    read = {
        (group["TrackingIdentifier"], item["quantity"]["CodeMeaning"]): float(item["value"])
        for group in found
        for item in group["measurementItems"]
    }
    compared = 0
    for row in rows(measured / "ratios.csv"):
        region = f"{row['numerator']}, slice {row['slice']}"
        quantity = f"Area ratio {row['numerator']} / {row['denominator']}"
        if row["numerator_px"] == "0":
            assert (region, "Area") not in read
            continue
        assert read[region, "Area"] == pytest.approx(float(row["numerator_mm2"]), rel=1e-12)
        assert read[region, quantity] == pytest.approx(float(row["ratio"]), rel=1e-12)
        compared += 1
    assert compared == 9  # three ratios on the three slices that show anything
    for row in rows(measured / "ratios.series.csv"):
        name, ratio = row["numerator"], f"{row['numerator']} / {row['denominator']}"
        assert read[name, "Volume"] == pytest.approx(float(row["numerator_mm3"]), rel=1e-12)
        assert read[name, f"Volume ratio {ratio}"] == pytest.approx(float(row["volume_ratio"]))
        assert read[name, f"Area ratio {ratio}"] == pytest.approx(float(row["mean_ratio"]))
        assert read[name, "Slices measured"] == 4
        assert read[name, "Slices that show the region"] == 3
    by_name = {group["TrackingIdentifier"]: group for group in found}
    assert by_name["bright"]["Finding"]["CodeValue"] == "52988006"
    assert by_name["bright"]["FindingSite"]["CodeMeaning"] == "Mamma, männlich"
    assert by_name["brightest"]["Finding"]["CodeMeaning"] == "brightest"


def test_highdicom_reads_the_ratios_exactly(measured: Path, report: Path):
    document = highdicom.sr.srread(report)
    groups = {
        group.tracking_identifier: group
        for group in document.content.get_image_measurement_groups()
    }
    for row in rows(measured / "ratios.csv"):
        if row["numerator_px"] != "0":
            numbers = groups[f"{row['numerator']}, slice {row['slice']}"].get_measurements()
            wanted = f"Area ratio {row['numerator']} / {row['denominator']}"
            (ratio,) = (number for number in numbers if number.name.meaning == wanted)
            assert ratio.value == float(row["ratio"])


def test_dsrdump_prints_numerator_denominator_and_flags(report: Path):
    printed = said("dsrdump", report)
    assert '"Area ratio brightest / bright")="' in printed
    assert '"Numerator")=(C-' in printed
    assert '"Denominator")=(52988006,SCT,"Lesion")' in printed
    assert '"Denominator")=(FOREGROUND,99WSSEG,"Pixels of any class")' in printed
    assert "W: " not in printed.replace("W: The VR checker does not support this", "")


def test_all_source_images_are_evidence_and_the_study_is_that_of_the_source(report: Path):
    document = pydicom.dcmread(report)
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (STUDY, SERIES)
    assert len(series.ReferencedSOPSequence) == 4
    assert document.StudyInstanceUID == STUDY
    assert document.SeriesInstanceUID != SERIES
    stated = {keyword: str(document.get(keyword)) for keyword in PATIENT}
    assert stated == PATIENT | {"SpecificCharacterSet": "ISO_IR 192"}


def test_a_rerun_gives_the_same_bytes_and_another_threshold_another_object(
    measured: Path, report: Path, tmp_path: Path
):
    again = tmp_path / "again"
    run(measured / "model", tmp_path / "ratios.csv", measured / "scans", sr=again, skip=False)
    (same,) = again.iterdir()
    assert same.read_bytes() == report.read_bytes()
    model = write_model(tmp_path / "model", codes=CODES, thresholds=(0.4, 0.5))
    run(model, tmp_path / "o.csv", measured / "scans", sr=tmp_path / "other", skip=False)
    (other,) = (tmp_path / "other").iterdir()
    assert pydicom.dcmread(other).SOPInstanceUID != pydicom.dcmread(report).SOPInstanceUID


def test_another_calibration_of_the_same_device_gives_another_report(measured: Path, report: Path):
    ratio = RATIOS[0].name
    errors = np.linspace(0.01, 0.4, 20)
    one = calibrated(ratio, errors, np.full(20, 0.1), np.full(20, 0.3), list(map(str, range(20))))
    whole = Calibration(cases_sha256="", left_out=0, engine_sha256="", floor=FLOOR, ratios=(one,))
    model = write_model(measured / "calibrated", codes=CODES, calibration=whole)
    ratios, folder = measured / "calibrated.csv", measured / "calibrated-sr"
    run(model, ratios, measured / "scans", sr=folder, skip=False)
    other = pydicom.dcmread(folder / report.name)
    plain = pydicom.dcmread(report)
    assert other.SOPInstanceUID != plain.SOPInstanceUID
    devices = [
        item.UID
        for document in (plain, other)
        for item in document.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "121012"
    ]
    assert len(devices) == 2
    assert devices[0] == devices[1]


def test_missing_and_unreadable_attributes_are_left_empty(model: Path, tmp_path: Path):
    scans = write_series(
        tmp_path / "scans", PatientSex=None, PatientName=None, PatientID=None, StudyDate=None
    )
    run(model, tmp_path / "ratios.csv", scans, sr=tmp_path / "sr")
    (path,) = (tmp_path / "sr").iterdir()
    document = pydicom.dcmread(path)
    assert [document[word].value for word in ("PatientSex", "PatientID", "StudyDate")] == [""] * 3
    assert not [line for line in said("dciodvfy", path).splitlines() if line.startswith("Error")]


def test_one_slice_without_the_class_is_a_report_of_zero(model: Path, tmp_path: Path):
    scans = write_series(tmp_path / "scans", 1)
    run(model, tmp_path / "ratios.csv", scans, sr=tmp_path / "sr", skip=False)
    (path,) = (tmp_path / "sr").iterdir()
    document = highdicom.sr.srread(path)
    bright, brightest = document.content.get_image_measurement_groups()
    assert [number.value for number in bright.get_measurements()] == [0.0, 0.0]
    flags = [item.value.value for item in brightest.get_qualitative_evaluations()]
    assert {"EMPTY", "EMPTY_DENOMINATOR"} <= set(flags)


def test_a_picture_has_no_report_and_says_why(model: Path, tmp_path: Path):
    scans = write_pictures(tmp_path / "scans", 1)
    summary = run(model, tmp_path / "ratios.csv", scans, sr=tmp_path / "sr")
    assert summary.exit_code == 0
    (failure,) = failures(tmp_path / "ratios.csv")
    assert (failure["status"], failure["reason"]) == ("skipped", "no_dicom")
    assert not list((tmp_path / "sr").iterdir())


def test_without_highdicom_the_run_ends_before_any_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("wsseg.imaging.dicom.derived.find_spec", lambda _: None)
    with pytest.raises(WssegError, match=r"--sr needs highdicom: pip install 'wsseg\[dicom\]'"):
        run(model, tmp_path / "ratios.csv", write_series(tmp_path / "scans"), sr=tmp_path / "sr")
    assert not (tmp_path / "sr").exists()


def test_every_flag_of_the_documentation_has_a_meaning():
    documented = set()
    page = Path("docs", "clinical.md").read_text(encoding="utf-8")
    for line in page.partition("\n## Flags\n")[2].partition("\n## ")[0].splitlines():
        if line.startswith("| `"):
            documented |= {word for word in line.split("|")[1].split("`") if word.isupper()}
    assert {"GAP", "EMPTY", "MANY_PARTS", "WIDE_INTERVAL"} <= documented
    assert documented <= MEANINGS.keys(), "add each to imaging/dicom/sr_flags.py"
    assert all(len(meaning) <= 64 for meaning in MEANINGS.values())


def test_with_segmentations_each_group_refers_to_the_frame_that_shows_its_slice(
    measured: Path, tmp_path: Path
):
    outputs = {"seg": tmp_path / "seg", "sr": tmp_path / "sr"}
    run(measured / "model", tmp_path / "ratios.csv", measured / "scans", skip=False, **outputs)
    (seg,) = map(pydicom.dcmread, outputs["seg"].iterdir())
    (path,) = outputs["sr"].iterdir()
    assert not [line for line in said("dciodvfy", path).splitlines() if line.startswith("Error")]
    document = highdicom.sr.srread(path)
    numbers = {each.SegmentLabel: each.SegmentNumber for each in seg.SegmentSequence}
    frames = [
        (
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
            group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID,
        )
        for group in seg.PerFrameFunctionalGroupsSequence
    ]
    planar = document.content.get_planar_roi_measurement_groups()
    assert len(planar) == 6  # two classes on three slices
    for group in planar:
        items = {item.name.meaning: item for item in group[0].ContentSequence}
        reference = items["Referenced Segmentation Frame"].ReferencedSOPSequence[0]
        source = items["Source image for segmentation"].ReferencedSOPSequence[0]
        segment, instance = frames[reference.ReferencedFrameNumber - 1]
        name, _, index = group.tracking_identifier.partition(", slice ")
        assert segment == numbers[name]
        assert instance == source.ReferencedSOPInstanceUID
        written = pydicom.dcmread(measured / "scans" / f"{index}.dcm")
        assert instance == written.SOPInstanceUID
    whole = {
        g.tracking_identifier: g for g in document.content.get_volumetric_roi_measurement_groups()
    }
    tracked = {each.SegmentLabel: each.TrackingUID for each in seg.SegmentSequence}
    assert {name: group.tracking_uid for name, group in whole.items()} == tracked
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    evidence = {
        one.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert seg.SOPInstanceUID in evidence
    assert len(evidence) == 5


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # it warns while the files are written
def test_what_a_source_states_oddly_does_not_cost_its_report(model: Path, tmp_path: Path):
    equipment = pydicom.Dataset()
    equipment.Manufacturer = "made up"  # without the time of its contribution
    scans = write_series(
        tmp_path / "scans",
        ContributingEquipmentSequence=[equipment],
        SpecificCharacterSet="ISO-IR 100",
        StudyDate="2024.02.29",
    )
    summary = run(model, tmp_path / "ratios.csv", scans, sr=tmp_path / "sr")
    assert summary.exit_code == 0
    (path,) = (tmp_path / "sr").iterdir()
    assert not [line for line in said("dciodvfy", path).splitlines() if line.startswith("Error")]


def test_a_model_may_have_any_name(tmp_path: Path):
    model = write_model(tmp_path / "model", name="lungs\\2024 " + 60 * "x")
    scans = write_series(tmp_path / "scans")
    assert run(model, tmp_path / "ratios.csv", scans, sr=tmp_path / "sr").exit_code == 0
    (path,) = (tmp_path / "sr").iterdir()
    assert pydicom.dcmread(path).ManufacturerModelName.startswith("lungs_2024 xxx")
    assert not [line for line in said("dciodvfy", path).splitlines() if line.startswith("Error")]


def test_a_full_disk_is_told_in_one_line(model: Path, tmp_path: Path):
    scans = write_series(tmp_path / "scans")
    with full_disk(8_000):
        run(model, tmp_path / "ratios.csv", scans, sr=tmp_path / "sr")
    (told,) = failures(tmp_path / "ratios.csv")
    reason = "structured reports could not be written: File too large"
    assert told["message"] == f"measured, but its {reason}"
    assert not list((tmp_path / "sr").iterdir())
