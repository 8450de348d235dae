"""`wsseg listen`: what is sent is stored, measured and returned."""

import logging
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pydicom
import pytest

from tests.serve.conftest import rows
from tests.serve.node.conftest import PATIENT, Archive, node, send, until, write_series
from wsseg.serve.node.node import Ports

pytestmark = [
    pytest.mark.slow,
    # pynetdicom leaves a socket that the peer closed to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Running(NamedTuple):
    ports: Ports
    spool: Path
    archive: Archive


@pytest.fixture(scope="module")
def running(
    model: Path, archive: Archive, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    spool = tmp_path_factory.mktemp("node") / "spool"
    with node(model, spool, returns=(f"PACS@127.0.0.1:{archive.port}",), http_port=0) as ports:
        yield Running(ports, spool, archive)


def table_of(spool: Path, files: list[Path]) -> list[dict[str, str]]:
    """The rows of a series in the results; none if it has no results, an error if it has two."""
    series = pydicom.dcmread(files[0], specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID
    found = [rows(path) for path in spool.glob("results/*/*/ratios.csv")]
    of_series = [table for table in found if table[0]["series_uid"] == series]
    assert len(of_series) < 2
    return of_series[0] if of_series else []


def results(running: Running, files: list[Path], count: int = 2) -> list[pydicom.Dataset]:
    """SEG and SR of a series, once they are back."""
    archive = running.archive
    until(lambda: len(archive.of(files)) >= count, f"{count} results")
    return archive.of(files)


def metric(running: Running, name: str) -> float:
    url = f"http://127.0.0.1:{running.ports.http}/metrics"
    with urllib.request.urlopen(url) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_a_series_is_measured_and_its_results_return(running: Running, tmp_path: Path):
    files = write_series(tmp_path, "returned")
    assert send(running.ports.dicom, files) == [0, 0, 0]
    segmentation, report = results(running, files)
    assert (segmentation.Modality, report.Modality) == ("SEG", "SR")
    referred = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    objects = [item for each in referred for item in each.ReferencedSOPSequence]
    assert segmentation.SOPInstanceUID in [item.ReferencedSOPInstanceUID for item in objects]
    assert len(table_of(running.spool, files)) == 9


@pytest.mark.parametrize(
    "command",
    [("storescu", "-aec", "WSSEG"), ("dcmsend", "-aec", "WSSEG", "+sd")],
    ids=["storescu", "dcmsend"],
)
def test_dcmtk_sends(running: Running, tmp_path: Path, command: tuple[str, ...]):
    files = write_series(tmp_path, command[0])
    name, *options = command
    target = ["127.0.0.1", str(running.ports.dicom)]
    given = map(str, [tmp_path] if name == "dcmsend" else files)
    subprocess.run([name, *options, *target, *given], check=True, capture_output=True)
    assert len(results(running, files)) == 2


def test_dcmtk_hears_an_echo_under_the_right_title_only(running: Running):
    target = ["127.0.0.1", str(running.ports.dicom)]
    subprocess.run(["echoscu", "-aec", "WSSEG", *target], check=True, capture_output=True)
    other = subprocess.run(["echoscu", "-aec", "OTHER", *target], capture_output=True, check=False)
    assert other.returncode


def test_an_instance_that_is_sent_twice_is_measured_once(running: Running, tmp_path: Path):
    files = write_series(tmp_path, "twice")
    known = metric(running, 'wsseg_node_instances_total{result="known"}')
    assert send(running.ports.dicom, [*files, *files[:2]]) == [0] * 5
    results(running, files)
    assert len(table_of(running.spool, files)) == 9
    measured = metric(running, 'wsseg_node_series_total{result="measured"}')
    assert send(running.ports.dicom, files) == [0] * 3
    assert metric(running, 'wsseg_node_instances_total{result="known"}') == known + 5
    other = write_series(tmp_path, "after")  # measured later than a repetition would be
    send(running.ports.dicom, other)
    results(running, other)
    assert metric(running, 'wsseg_node_series_total{result="measured"}') == measured + 1


def test_a_late_instance_has_its_series_measured_again_as_a_whole(running: Running, tmp_path: Path):
    files = write_series(tmp_path, "late", 4)
    send(running.ports.dicom, files[:3])
    first = results(running, files)
    send(running.ports.dicom, files[3:])
    assert len(results(running, files, 4)) == 4
    assert len(table_of(running.spool, files)) == 12  # and none of its rows is there twice
    uids = [each.SOPInstanceUID for each in running.archive.of(files)]
    assert not {each.SOPInstanceUID for each in first} & set(uids[2:])


def test_a_series_that_cannot_be_measured_is_a_dead_letter_and_holds_up_nobody(
    running: Running, tmp_path: Path
):
    broken = write_series(tmp_path, "broken", 2, PixelData=b"\0\0")
    files = write_series(tmp_path, "sound")
    assert send(running.ports.dicom, broken) == [0, 0]
    send(running.ports.dicom, files)
    results(running, files)
    reason = until(lambda: list(running.spool.glob("dead-letter/unmeasured-*/reason.json")), "it")
    assert "pixels" in reason[0].read_text()
    assert len(list(reason[0].parent.glob("instances/*.dcm"))) == 2


def test_an_instance_without_a_series_is_not_understood(running: Running, tmp_path: Path):
    nowhere = write_series(tmp_path, "nowhere", 1, SeriesInstanceUID=None)
    sound = write_series(tmp_path, "understood", 1)
    assert send(running.ports.dicom, [*nowhere, *sound]) == [0xC000, 0]


def test_no_name_of_a_patient_is_logged_or_named(
    running: Running, tmp_path: Path, log: pytest.LogCaptureFixture
):
    log.set_level(logging.DEBUG)
    files = write_series(tmp_path, "private")
    nowhere = write_series(tmp_path, "private-2", 1, SeriesInstanceUID=None)
    send(running.ports.dicom, [*nowhere, *files])
    results(running, files)
    # Nothing may move while the spool is searched.
    moving = ("inbox", "ready", "measured", "returning", "partial")
    until(lambda: not any(list(running.spool.glob(f"{each}/*")) for each in moving), "rest")
    assert "refused" in log.text
    assert "Canary" not in log.text
    assert all("Canary" not in str(path) for path in running.spool.rglob("*"))
    tables = running.spool.glob("results/*/*/*.*")
    assert all("Canary" not in path.read_text() for path in tables)
    assert any(PATIENT.encode() in path.read_bytes() for path in running.spool.rglob("*.dcm"))


def test_health_is_told_on_a_port_of_its_own(running: Running):
    base = f"http://127.0.0.1:{running.ports.http}"
    for path in ("healthz", "readyz"):
        with urllib.request.urlopen(f"{base}/{path}") as answer:
            assert (answer.status, answer.read()) == (200, b"ok\n")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{base}/etc/passwd")


def test_without_a_destination_the_results_stay_in_the_spool(model: Path, tmp_path: Path):
    files = write_series(tmp_path / "scans", "staying")
    spool = tmp_path / "spool"
    with node(model, spool, keep_hours=0) as ports:
        send(ports.dicom, files)
        until(lambda: list(spool.glob("results/*/*/sr/*.dcm")), "a report")
        assert len(list(spool.glob("results/*/*/seg/*.dcm"))) == 1
        # Its instances go at once; one that comes now could not be measured with the others.
        until(lambda: not list(spool.glob("*/*/instances/*.dcm")), "removal")
        send(ports.dicom, write_series(tmp_path / "more", "staying", 4)[3:])
        (reason,) = until(lambda: list(spool.glob("dead-letter/late-*/reason.json")), "it")
        assert "send the whole series again" in reason.read_text()
        assert len(table_of(spool, files)) == 9
        send(ports.dicom, write_series(tmp_path / "more", "staying", 4))
        until(lambda: len(table_of(spool, files)) == 12, "the whole series")
