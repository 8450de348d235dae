"""The node between real programs: series from Orthanc and dcmtk, results back to Orthanc."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest

from tests.serve.orthanc import AET, DICOM_PORT, NODE_AET, NODE_PORT, Orthanc
from tests.serve.test_dicom_seg import write_series
from wsseg.serve.node.spool import DEAD, STATES

LISTEN = "from wsseg.cli.main import main; main()"
HTTP_PORT = 9100
READY = f"""
import sys, urllib.request
sys.exit(urllib.request.urlopen("http://127.0.0.1:{HTTP_PORT}/readyz", timeout=5).status != 200)
"""
PATIENCE_SECONDS = 120.0
RESULTS = {"SEG": 1, "SR": 1}
"""What each series gets, by modality."""


@pytest.fixture(autouse=True)
def empty(orthanc: Orthanc) -> None:
    orthanc.clear()


@contextmanager
def listening(
    orthanc: Orthanc, model: Path, spool: Path, *, settle: float = 1, settle_released: float = 0.5
) -> Iterator[subprocess.Popen[bytes]]:
    """A node in Orthanc's network, which returns its results to Orthanc; killed at the end."""
    command = orthanc.command(
        sys.executable, "-c", LISTEN, "listen", "--model", model, "--spool", spool,
        "--aet", NODE_AET, "--port", NODE_PORT, "--return", f"{AET}@127.0.0.1:{DICOM_PORT}",
        "--http-port", HTTP_PORT, "--settle", settle, "--settle-released", settle_released,
        "--retry", 0.2, "--min-free-gb", 0, "--device", "cpu", "--engine", "onnxruntime",
    )  # fmt: skip
    log = spool.with_name("log")
    with (
        log.open("ab") as stream,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stream) as process,
    ):
        try:
            probe = orthanc.command(sys.executable, "-I", "-S", "-c", READY)
            while subprocess.run(probe, capture_output=True, check=False).returncode:
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def series_of(study: int, folder: Path, slices: int = 5) -> Path:
    """A CT series of a study of its own."""
    heights = tuple(range(slices))
    own = {"StudyInstanceUID": f"1.2.{study}", "SeriesInstanceUID": f"1.2.{study}.1"}
    return write_series(folder / str(study), heights, **own, RescaleIntercept=study, Modality="CT")


def found(orthanc: Orthanc, study: int) -> dict[str, int]:
    """The numbers of instances of a study in Orthanc, by modality, of all but the CT."""
    counts: dict[str, int] = {}
    for series in orthanc.ask(f"/dicom-web/studies/1.2.{study}/series"):
        (modality,) = series["00080060"]["Value"]
        uid = series["0020000E"]["Value"][0]
        instances = orthanc.ask(f"/dicom-web/studies/1.2.{study}/series/{uid}/instances")
        counts[modality] = counts.get(modality, 0) + len(instances)
    counts.pop("CT", None)
    return counts


def wait_for(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, what()
        time.sleep(0.1)


def send_from_orthanc(orthanc: Orthanc, folder: Path) -> None:
    """Let Orthanc send the files of a folder, which it has, to the node."""
    ids = orthanc.add(*sorted(folder.iterdir()))
    orthanc.ask(f"/modalities/{NODE_AET}/store", "POST", json.dumps(ids).encode())


def storescu(folder: Path) -> tuple[object, ...]:
    return ("storescu", "-aec", NODE_AET, "+sd", "127.0.0.1", NODE_PORT, folder)


def test_series_from_orthanc_and_dcmtk_come_back_as_segmentation_and_report(
    orthanc, model, tmp_path
):
    with listening(orthanc, model, tmp_path / "spool"):
        send_from_orthanc(orthanc, series_of(1, tmp_path))
        orthanc.run(*storescu(series_of(2, tmp_path)))
        wait_for(
            lambda: all(found(orthanc, study) == RESULTS for study in (1, 2)),
            (tmp_path / "log").read_text,
        )
    (series,) = orthanc.ask("/dicom-web/studies/1.2.1/series?Modality=SEG")
    uid = series["0020000E"]["Value"][0]
    (instance,) = orthanc.ask(f"/dicom-web/studies/1.2.1/series/{uid}/instances")
    made = instance["00080018"]["Value"][0]
    (name,) = orthanc.ask("/tools/lookup", "POST", made.encode(), "text/plain")
    content = orthanc.answer(f"/instances/{name['ID']}/file")
    returned = pydicom.dcmread(io.BytesIO(content))
    source = {pydicom.dcmread(each).SOPInstanceUID for each in (tmp_path / "1").iterdir()}
    referred = returned.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {each.ReferencedSOPInstanceUID for each in referred} == source


def test_a_node_that_is_killed_again_and_again_loses_and_doubles_nothing(orthanc, model, tmp_path):
    spool, studies = tmp_path / "spool", range(1, 7)
    folders = [series_of(study, tmp_path, slices=12) for study in studies]
    # Killed while it receives. What is sent only in part must not count as complete.
    with listening(orthanc, model, spool, settle=1000):
        sending = subprocess.Popen(
            orthanc.command(*storescu(folders[0])), stderr=subprocess.DEVNULL
        )
        wait_for(lambda: any((spool / "inbox").glob("*/*/*")), lambda: "nothing came")
    sending.wait()
    # Killed when all that it received is acknowledged, and the first result came back.
    with listening(orthanc, model, spool, settle=1000):
        for folder in folders:
            orthanc.run(*storescu(folder))
        wait_for(lambda: bool(orthanc.ask("/studies")), (tmp_path / "log").read_text)
    with listening(orthanc, model, spool):
        wait_for(
            lambda: len(list((spool / "done").iterdir())) == len(studies),
            (tmp_path / "log").read_text,
        )
    assert [found(orthanc, study) for study in studies] == [RESULTS] * len(studies)
    left = [state for state in (*STATES, DEAD) if any((spool / state).iterdir())]
    assert left == ["done"]
