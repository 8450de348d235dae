"""A key table says whose a scan is without saying who it is; nothing else does."""

import json
import logging
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydicom import dcmread

from tests.imaging.conftest import _write_dicom
from tests.serve.conftest import full_disk, rows, run, write_model, write_pictures
from wsseg.imaging.errors import WssegError
from wsseg.serve.identity import load_salt, patient_key, study_date

CANARIES = {
    "PatientName": "Canaryname^Patient",
    "PatientID": "CANARYID1",
    "OtherPatientIDs": "CANARYID2",
    "PatientBirthDate": "19010203",
    "PatientComments": "Canarycomment",
    "StudyDate": "19990807",
    "StudyTime": "112233",
    "AcquisitionDate": "19990806",
    "AccessionNumber": "CANARYACC",
    "InstitutionName": "Canary Clinic",
    "InstitutionAddress": "Canary Street",
    "ReferringPhysicianName": "Canarydoctor^D",
    "OperatorsName": "Canaryoperator",
    "StationName": "CANARYSTATION",
    "StudyDescription": "Canarystudy",
    "SeriesDescription": "Canaryseries",
    "ProtocolName": "Canaryprotocol",
}
PRIVATE = "Canaryprivate"
SECRETS = [value.split("^")[0].encode() for value in CANARIES.values()] + [PRIVATE.encode()]


def bright() -> np.ndarray:
    pixels = np.zeros((16, 16), np.int16)
    pixels[4:9, 5:11] = 150
    return pixels


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def write_scans(folder: Path) -> Path:
    """A series and a picture, with identity wherever their formats have room for it."""
    for number in range(3):
        path = _write_dicom(
            folder / f"{number}.dcm",
            bright(),
            ImagePositionPatient=[0.0, 0.0, 2.0 * number],
            **CANARIES,  # type: ignore[arg-type]
        )
        changed = dcmread(path)
        changed.private_block(0x0011, "CANARY", create=True).add_new(1, "LO", PRIVATE)
        changed.save_as(path)
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", CANARIES["PatientName"])
    Image.fromarray(bright().astype(np.uint8)).save(folder / "p.png", pnginfo=info)
    return folder


def leaks(folder: Path) -> set[bytes]:
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    names = "".join(str(path) for path in folder.rglob("*")).encode()
    return {secret for secret in SECRETS if secret in content or secret in names}


def test_no_output_and_no_log_line_holds_an_identity(model, tmp_path, caplog):
    scans = write_scans(tmp_path / "in")
    (scans / "broken.dcm").write_bytes((scans / "0.dcm").read_bytes()[:700])
    out = tmp_path / "out"
    with caplog.at_level(logging.DEBUG):
        run(model, out / "ratios.csv", scans, masks=out / "masks", overlays=out / "overlays")
    assert leaks(out) == set()
    told = "\n".join(f"{line.getMessage()} {vars(line)}" for line in caplog.records).encode()
    assert not [secret for secret in SECRETS if secret in told]


def test_a_key_table_has_hashed_keys_and_dates_and_no_name(model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    salt = tmp_path / "salt"
    keys = out / "keys.csv"
    run(model, out / "ratios.csv", write_scans(tmp_path / "in"), identify=keys, salt=salt)
    scan, picture = sorted(rows(keys), key=lambda row: row["source"])
    assert scan["patient_key"] == patient_key(load_salt(salt), CANARIES["PatientID"])
    assert scan["study_date"] == "1999-08-07"
    assert (picture["patient_key"], picture["study_date"]) == ("", "")
    assert leaks(out) == set()
    if os.name == "posix":
        assert stat.S_IMODE(keys.stat().st_mode) == 0o600
        assert stat.S_IMODE(salt.stat().st_mode) == 0o600


def test_real_identifiers_are_written_into_the_key_table_alone_and_only_on_demand(model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    options = {"identify": tmp_path / "keys.csv", "salt": tmp_path / "salt"}
    scans = write_scans(tmp_path / "in")
    run(model, out / "ratios.csv", scans, real_identifiers=True, **options)
    found = {row["patient_id"] for row in rows(tmp_path / "keys.csv")}
    assert found == {CANARIES["PatientID"], ""}
    assert leaks(out) == set()


def test_equal_patients_have_equal_keys_under_one_salt_alone():
    one, other = b"a" * 32, b"b" * 32
    assert patient_key(one, "P1") == patient_key(one, " P1 ")
    assert patient_key(one, "P1") != patient_key(other, "P1")
    assert patient_key(one, "P1") != patient_key(one, "P2")
    # Two hospitals may have given the same number to two people.
    assert patient_key(one, "P1", "North") != patient_key(one, "P1", "South")
    assert patient_key(one, "1", "A") != patient_key(one, "A1", "")


def test_a_patient_without_an_identifier_has_no_key():
    assert patient_key(b"a" * 32, "  ") == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [("20240229", "2024-02-29"), ("2024.02.29", "2024-02-29"), ("", ""), ("20230229", "")],
)
def test_study_dates_are_iso_dates(value, expected):
    assert study_date(value) == expected


def test_a_salt_is_made_once_and_refused_where_others_can_read_it(tmp_path):
    path = tmp_path / "salt"
    assert load_salt(path) == load_salt(path)
    assert len(load_salt(path)) == 32
    path.chmod(0o644)
    with pytest.raises(WssegError, match=r"can be read by others.*chmod 600"):
        load_salt(path)


def test_a_salt_that_does_not_fit_on_the_disk_leaves_no_file_behind(tmp_path):
    path = tmp_path / "salt"
    with full_disk(10), pytest.raises(WssegError, match=r"salt .* cannot be made: File too large"):
        load_salt(path)
    assert not path.exists()


def test_a_file_that_is_no_salt_is_refused_and_stays(tmp_path):
    path = tmp_path / "salt"
    path.write_text("my secret")
    path.chmod(0o600)
    with pytest.raises(WssegError, match="holds no salt"):
        load_salt(path)
    assert path.read_text() == "my secret"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"identify": Path("keys.csv")}, "needs --salt"),
        ({"salt": Path("salt")}, "belong to --identify"),
        ({"real_identifiers": True}, "belong to --identify"),
    ],
)
def test_options_that_do_not_fit_together_are_told_before_a_scan_is_read(
    model, tmp_path, options, told
):
    with pytest.raises(WssegError, match=told):
        run(model, tmp_path / "ratios.csv", tmp_path, **options)


@pytest.mark.parametrize(
    "taken",
    ["ratios.csv", "ratios.series.csv", "ratios.agreement.pairs.csv", "salt", "earlier.csv"],
)
def test_a_key_table_replaces_nothing_that_the_run_reads_or_writes(model, tmp_path, taken):
    for name in ("salt", "earlier.csv"):
        (tmp_path / name).write_text("kept")
    earlier = tmp_path / "earlier.csv"
    with pytest.raises(WssegError, match=rf"{taken} would replace .* place for --identify"):
        run(
            model,
            tmp_path / "ratios.csv",
            write_pictures(tmp_path / "scans", 1),
            identify=tmp_path / taken,
            salt=tmp_path / "salt",
            reference=earlier,
            previous=(earlier,),
            keys=(earlier,),
            overwrite=True,
        )
    assert {path.read_text() for path in (tmp_path / "salt", earlier)} == {"kept"}
    assert not (tmp_path / "ratios.csv").exists()


def test_json_lines_hold_the_same_keys(model, tmp_path):
    options = {"identify": tmp_path / "keys.jsonl", "salt": tmp_path / "salt"}
    run(model, tmp_path / "ratios.csv", write_scans(tmp_path / "in"), **options)
    lines = (tmp_path / "keys.jsonl").read_text().splitlines()
    expected = patient_key(load_salt(tmp_path / "salt"), CANARIES["PatientID"])
    assert {json.loads(line)["patient_key"] for line in lines} == {expected, ""}
