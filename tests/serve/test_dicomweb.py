"""A DICOMweb server as input and for results: the rows of files, whatever the server does."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serve.conftest import (
    RATIOS_PER_SLICE,
    ThresholdEngine,
    failures,
    rows,
    write_model,
)
from tests.serve.dicomweb import Handler, by_uids, own_certificate, serving, times
from tests.serve.test_dicom_seg import write_series
from wsseg.imaging import WssegError
from wsseg.serve.dicomweb import session
from wsseg.serve.dicomweb.server import Server, parse_query
from wsseg.serve.infer import Summary, infer
from wsseg.serve.journal import journal_path
from wsseg.serve.options import InferOptions

SERIES, SLICES = 4, 5
QUERY = "Modality=CT"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of two series each, with their UIDs as names."""
    written = tmp_path_factory.mktemp("written")
    for study in "12":
        for series in "12":
            uids = {
                "StudyInstanceUID": f"1.2.{study}",
                "SeriesInstanceUID": f"1.2.{study}.{series}",
            }
            # Slices that are equal to earlier ones would not be computed.
            own = {"RescaleIntercept": int(study + series)}
            write_series(written / study / series, **uids, **own)
    return by_uids(tmp_path_factory.mktemp("archive"), written)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FIRST_WAIT_SECONDS", 0.0)


def measure(
    model: Path, report: Path, source: Path, *, on_progress: Callable[..., None] | None = None,
    **options,
) -> Summary:  # fmt: skip
    given = {"batch": 1, "readers": 1, "read_ahead": 1} | options
    if str(source).startswith("dicomweb:"):
        given.setdefault("query", QUERY)
    settings = InferOptions(model=model, report=report, **given)
    return infer([source], settings, engine=ThresholdEngine, on_progress=on_progress)


@pytest.fixture(scope="module")
def of_files(
    model: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The tables of a run on the files."""
    out = tmp_path_factory.mktemp("files")
    measure(model, out / "ratios.csv", folder)
    return tables(out)


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.csv"))}


def test_a_servers_series_have_the_rows_of_their_files(model, folder, of_files, tmp_path):
    with serving(folder) as archive:
        summary = measure(model, tmp_path / "out" / "ratios.csv", archive.input)
    assert (summary.scans, summary.exit_code) == (SERIES, 0)
    assert tables(tmp_path / "out") == of_files
    assert len(archive.retrieved) == len(set(archive.retrieved)) == SERIES * SLICES
    assert "Modality=CT" in archive.asked[0]


def _unavailable(handler: Handler) -> None:
    handler.answer(503, b"come back later", "text/plain")


def _closed(handler: Handler) -> None:
    handler.close_connection = True


def _cut(handler: Handler) -> None:
    """Less than was announced."""
    handler.send_response(200)
    handler.send_header("Content-Type", handler.kind)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b"--a-boundary\r\n\r\nDICM")
    handler.close_connection = True


def _without_end(handler: Handler) -> None:
    """As long as announced, but without the boundary behind the part."""
    handler.answer(200, b"--a-boundary\r\n\r\n" + b"\0" * 200, handler.kind)


FAULTS = [_unavailable, _closed, _cut, _without_end]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_server_does_once_costs_nothing(model, folder, of_files, tmp_path, fault):
    with serving(folder, times(3, r"1\.2\.1\.2/instances/", fault)) as archive:
        summary = measure(model, tmp_path / "out" / "ratios.csv", archive.input)
    assert summary.exit_code == 0
    assert tables(tmp_path / "out") == of_files
    assert len(archive.retrieved) == SERIES * SLICES + 3


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_server_does_always_costs_that_series_alone(model, folder, tmp_path, fault):
    with serving(folder, times(10**6, r"1\.2\.1\.2/instances/", fault)) as archive:
        summary = measure(model, tmp_path / "ratios.csv", archive.input)
    assert (summary.scans, summary.failed, summary.exit_code) == (SERIES - 1, 1, 8)
    (told,) = failures(tmp_path / "ratios.csv")
    assert (told["source"], told["status"]) == ("1.2.1/1.2.1.2", "failed")
    assert told["reason"] in ("server_status", "server_connection")
    found = rows(tmp_path / "ratios.csv")
    assert len(found) == (SERIES - 1) * SLICES * RATIOS_PER_SLICE
    assert "1.2.1.2" not in {row["series_uid"] for row in found}


@pytest.mark.slow
def test_a_series_above_the_limit_is_a_failure_and_no_more_of_it_is_fetched(
    model, folder, tmp_path
):
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", handler.kind)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        sent = 0
        handler.wfile.write(b"--a-boundary\r\n\r\n")
        try:
            while sent < 1 << 30:
                sent += handler.wfile.write(bytes(1 << 16))
        except OSError:
            most.append(sent)

    most: list[int] = []
    with serving(folder, times(1, r"1\.2\.1\.2/instances/", endless)) as archive:
        summary = measure(model, tmp_path / "ratios.csv", archive.input, series_mb=1)
    assert summary.exit_code == 8
    assert [row["reason"] for row in failures(tmp_path / "ratios.csv")] == ["too_large"]
    assert most[0] < 100 << 20


@pytest.mark.slow
def test_files_of_a_series_are_removed_when_it_is_measured(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    seen = []

    def count(*_: object) -> None:
        held = list((tmp_path / "temporary").glob("wsseg-*/dicomweb/*"))
        seen.append({path.name for path in held})

    more = tmp_path / "more"
    for number in range(12):
        uids = {"StudyInstanceUID": "1.3", "SeriesInstanceUID": f"1.3.{number}"}
        write_series(tmp_path / "written" / str(number), **uids, RescaleIntercept=number)
    by_uids(more, tmp_path / "written")
    with serving(more) as archive:
        measure(model, tmp_path / "out" / "ratios.csv", archive.input, on_progress=count)
    assert set.union(*seen) == {str(number) for number in range(12)}
    # Two that are fetched, and those that are read, computed and told.
    assert max(map(len, seen)) <= 8
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
def test_a_resumed_run_fetches_only_what_was_not_measured(model, folder, of_files, tmp_path):
    report = tmp_path / "out" / "ratios.csv"

    def stop(done: int, *_: float) -> None:
        if done >= 3 * SLICES + 1:
            raise KeyboardInterrupt

    with serving(folder) as archive:
        with pytest.raises(KeyboardInterrupt):
            measure(model, report, archive.input, on_progress=stop)
        assert journal_path(report).exists()
        archive.asked.clear()
        summary = measure(model, report, archive.input, resume=True)
    assert summary.resumed >= 2
    assert tables(report.parent) == of_files
    assert not any("series/1.2.1.1/" in path for path in archive.retrieved)
    assert any("series/1.2.2.2/" in path for path in archive.retrieved)


@pytest.mark.slow
def test_a_series_that_has_another_instance_is_measured_again(model, folder, tmp_path):
    own = by_uids(tmp_path / "own", write_series(tmp_path / "a", SeriesInstanceUID="1.2.3.1"))
    by_uids(own, write_series(tmp_path / "b", SeriesInstanceUID="1.2.3.2"))
    report = tmp_path / "out" / "ratios.csv"

    def stop(done: int, *_: float) -> None:
        if done > SLICES:
            raise KeyboardInterrupt

    with serving(own) as archive:
        with pytest.raises(KeyboardInterrupt):
            measure(model, report, archive.input, on_progress=stop)
        by_uids(own, write_series(tmp_path / "c", (12.5,), SeriesInstanceUID="1.2.3.1"))
        summary = measure(model, report, archive.input, resume=True)
    assert summary.resumed == 0
    assert summary.slices == 2 * SLICES + 1


@pytest.mark.slow
def test_a_scan_that_failed_is_fetched_again_by_a_resumed_run(model, tmp_path):
    own = by_uids(tmp_path / "own", write_series(tmp_path / "a", SeriesInstanceUID="1.2.3.1"))
    by_uids(own, write_series(tmp_path / "b", SeriesInstanceUID="1.2.3.2"))
    report = tmp_path / "out" / "ratios.csv"

    def stop(done: int, *_: float) -> None:
        if done > SLICES:
            raise KeyboardInterrupt

    (tmp_path / "seg" / "1.2.3.1.seg.dcm").mkdir(parents=True)  # its place is taken
    with serving(own) as archive:
        with pytest.raises(KeyboardInterrupt):
            measure(model, report, archive.input, on_progress=stop, seg=tmp_path / "seg")
        (tmp_path / "seg" / "1.2.3.1.seg.dcm").rmdir()
        summary = measure(model, report, archive.input, resume=True, seg=tmp_path / "seg")
    assert (summary.resumed, summary.exit_code) == (0, 0)
    assert (tmp_path / "seg" / "1.2.3.1.seg.dcm").is_file()


@pytest.mark.slow
def test_results_are_stored_as_the_files_that_were_written(model, folder, tmp_path):
    with serving(folder) as archive:
        summary = measure(
            model, tmp_path / "ratios.csv", folder, seg=tmp_path / "seg", sr=tmp_path / "sr",
            store=f"dicomweb:{archive.url}",
        )  # fmt: skip
    assert summary.exit_code == 0
    written = [p for name in ("seg", "sr") for p in (tmp_path / name).iterdir()]
    assert len(written) == len(archive.stored) == 2 * SERIES
    for path in written:
        content = path.read_bytes()[128:]  # behind the preamble
        assert sum(content in sent for sent in archive.stored) == 1, path


@pytest.mark.parametrize("attempts", [1, 10**6])
def test_an_unavailable_server_for_results_is_asked_again_and_costs_no_measurement(
    model, folder, of_files, tmp_path, attempts
):
    report = tmp_path / "out" / "ratios.csv"
    with serving(folder, times(attempts, "/studies", _unavailable)) as archive:
        store = f"dicomweb:{archive.url}"
        summary = measure(model, report, folder, sr=tmp_path / "sr", store=store)
    assert summary.scans == SERIES
    assert report.read_bytes() == of_files["ratios.csv"]
    lost = attempts > 1
    assert summary.exit_code == (8 if lost else 0)
    assert [row["reason"] for row in failures(report)] == ["not_written"] * SERIES * lost
    assert len(archive.stored) == SERIES * (not lost)


@pytest.mark.parametrize(("reason", "failed"), [(0x0110, True), (0x0111, False)])
def test_an_object_that_a_server_refuses_is_a_failure_unless_it_has_it_already(
    model, folder, tmp_path, reason, failed
):
    def refuse(handler: Handler) -> None:
        failed = {
            "00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}
        }
        kind = "application/dicom+json; charset=utf-8"
        handler.answer(202, json.dumps(failed).encode(), kind)

    with serving(folder, times(10**6, "/studies", refuse)) as archive:
        store = f"dicomweb:{archive.url}"
        summary = measure(model, tmp_path / "ratios.csv", folder, sr=tmp_path / "sr", store=store)
    assert (summary.scans, summary.exit_code) == (SERIES, 8 if failed else 0)
    assert len(archive.asked) == SERIES  # once each
    told = [row["message"] for row in failures(tmp_path / "ratios.csv")]
    assert ["0110H" in message for message in told] == [True] * SERIES * failed


def test_a_redirect_to_another_server_is_not_followed(model, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WSSEG_DICOMWEB_TOKEN", "a secret")
    with serving(folder) as other:

        def redirect(handler: Handler) -> None:
            handler.answer(307, Location=f"{other.url}{handler.path.removeprefix('/dicom-web')}")

        with serving(folder, times(10**6, "instances/", redirect)) as archive:
            summary = measure(model, tmp_path / "ratios.csv", archive.input)
    assert summary.exit_code == 4
    assert {row["reason"] for row in failures(tmp_path / "ratios.csv")} == {"server_redirect"}
    assert set(archive.credentials) == {"Bearer a secret"}
    assert other.asked == []


def test_neither_patients_nor_secrets_are_told(model, folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WSSEG_DICOMWEB_USER", "a-user")
    monkeypatch.setenv("WSSEG_DICOMWEB_PASSWORD", "a-secret-word")
    caplog.set_level("DEBUG")

    def say(handler: Handler) -> None:
        handler.answer(400, b"no patient Canary^Patient", "text/plain", Warning="Canary^Patient")

    with serving(folder, times(2, "series", say)) as archive:
        with pytest.raises(WssegError, match="HTTP status 400") as told:
            measure(model, tmp_path / "r.csv", archive.input, query="PatientName=Canary^Patient")
        assert "Canary%5EPatient" in archive.asked[0]
        archive.faults[:] = [times(10**6, "instances/", say)]
        measure(model, tmp_path / "r.csv", archive.input, query="PatientName=Canary^Patient")
    written = "".join(path.read_text() for path in tmp_path.glob("r*.csv"))
    for word in ("Canary", "a-user", "a-secret-word"):
        assert word not in f"{told.value}{caplog.text}{written}"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("dicomweb:ftp://host/", "names no DICOMweb server"),
        ("dicomweb:https://user:pass@host/dicom-web", "_USER and WSSEG_DICOMWEB_PASSWORD"),
        ("dicomweb:https://host:port/dicom-web", "cannot be used"),
        ("dicomweb:https://host/dicom-web?x=1", "cannot be used"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(named, message):
    with pytest.raises(WssegError, match=message) as told:
        Server.named(named)
    assert "user:pass" not in str(told.value)


@pytest.mark.parametrize("text", ["", "CT", "Modality=", "limit=3", "Modality=CT&Modality=MR"])
def test_a_query_that_names_no_series_is_refused(text):
    with pytest.raises(WssegError, match=r"expected ATTRIBUTE=VALUE"):
        parse_query(text)


def test_options_of_servers_are_refused_where_they_would_do_nothing(model, folder, tmp_path):
    report = tmp_path / "ratios.csv"
    with pytest.raises(WssegError, match="--query belongs to a server"):
        measure(model, report, folder, query=QUERY)
    with pytest.raises(WssegError, match="--query is missing"):
        measure(model, report, Path("dicomweb:http://127.0.0.1:1/"), query=None)
    with pytest.raises(WssegError, match="--store needs --seg DIR or --sr DIR"):
        measure(model, report, folder, store="dicomweb:http://127.0.0.1:1/")


@pytest.mark.slow
def test_a_server_whose_certificate_nobody_vouches_for_is_not_asked(
    model, folder, of_files, tmp_path, monkeypatch
):
    certificate = own_certificate(tmp_path / "server.pem")
    with serving(folder, certificate=certificate) as archive:
        with pytest.raises(WssegError, match="certificate is not trusted"):
            measure(model, tmp_path / "out" / "ratios.csv", archive.input)
        assert archive.asked == []
        monkeypatch.setenv("WSSEG_DICOMWEB_CA", str(certificate))
        measure(model, tmp_path / "out" / "ratios.csv", archive.input)
    assert tables(tmp_path / "out") == of_files


def test_what_is_missing_is_named(model, folder, tmp_path, monkeypatch):
    for name in ("wsseg.serve.dicomweb.source", "wsseg.serve.dicomweb.session"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "dicomweb_client", None)
    with pytest.raises(WssegError, match=r"pip install 'wsseg\[dicomweb\]'"):
        measure(model, tmp_path / "ratios.csv", Path("dicomweb:http://127.0.0.1:1/dicom-web"))


def test_a_server_that_cannot_be_asked_is_told_before_anything_is_written(model, tmp_path):
    with pytest.raises(WssegError, match="cannot be reached"):
        measure(model, tmp_path / "ratios.csv", Path("dicomweb:http://127.0.0.1:1/dicom-web"))
    assert list(tmp_path.iterdir()) == []
