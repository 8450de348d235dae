"""The commands with a real Orthanc as DICOMweb server."""

import sys
from pathlib import Path

import pytest

from tests.serve.conftest import write_model
from tests.serve.dicomweb import by_uids
from tests.serve.orthanc import PASSWORD, USER, Orthanc
from tests.serve.test_dicom_seg import write_series

INFER = "from wsseg.cli.main import infer_main; infer_main()"


@pytest.fixture(autouse=True)
def empty(orthanc: Orthanc) -> None:
    orthanc.clear()


def infer(
    orthanc: Orthanc, folder: Path, *arguments: object, password: str = PASSWORD, code: int = 0
):
    """Run wsseg-infer in Orthanc's network, with nothing of its user but a temporary folder."""
    (folder / "temporary").mkdir(parents=True)
    known = {f"WSSEG_{role}_USER": USER for role in ("DICOMWEB", "STORE")}
    known |= {f"WSSEG_{role}_PASSWORD": password for role in ("DICOMWEB", "STORE")}
    return orthanc.run(
        sys.executable, "-c", INFER, *arguments, "--report", folder / "ratios.csv",
        "--engine", "onnxruntime", "--verbose",
        code=code, TMPDIR=str(folder / "temporary"), **known,
    )  # fmt: skip


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


def test_orthancs_series_have_the_rows_of_their_files_and_get_their_results(orthanc, tmp_path):
    model = write_model(tmp_path / "model")
    folder = tmp_path / "scans"
    for study in "12":
        uids = {"StudyInstanceUID": f"1.2.{study}", "SeriesInstanceUID": f"1.2.{study}.1"}
        own = {"RescaleIntercept": int(study), "Modality": "CT", "PatientName": "Canary^Patient"}
        by_uids(folder, write_series(tmp_path / study, **uids, **own))
    orthanc.add(*folder.rglob("*.dcm"))
    server, out, files = f"dicomweb:{orthanc.url}", tmp_path / "server", tmp_path / "files"
    done = infer(
        orthanc, out, server, "--query", "StudyDate=20240101-20240131&Modality=CT",
        "--model", model, "--seg", out / "seg", "--sr", out / "sr", "--store", server,
    )  # fmt: skip
    infer(orthanc, files, folder, "--model", model)
    assert tables(out) == tables(files)
    assert list((out / "temporary").iterdir()) == []
    for word in ("Canary", PASSWORD):
        assert word not in done.stdout + done.stderr
    for study in "12":
        for modality in ("SEG", "SR"):
            (made,) = orthanc.ask(f"/dicom-web/studies/1.2.{study}/series?Modality={modality}")
            series = made["0020000E"]["Value"][0]
            (instance,) = orthanc.ask(f"/dicom-web/studies/1.2.{study}/series/{series}/instances")
            (name,) = orthanc.ask(
                "/tools/lookup", "POST", instance["00080018"]["Value"][0].encode(), "text/plain"
            )
            kept = orthanc.ask(f"/instances/{name['ID']}/simplified-tags")
            assert kept["StudyInstanceUID"] == f"1.2.{study}"


def test_orthanc_without_its_password_is_told_in_one_line(orthanc, tmp_path):
    model = write_model(tmp_path / "model")
    done = infer(
        orthanc, tmp_path, f"dicomweb:{orthanc.url}", "--query", "Modality=CT", "--model", model,
        password="another", code=2,
    )  # fmt: skip
    (line,) = done.stderr.strip().splitlines()
    assert "refused access (HTTP status 401): check the credentials" in line
