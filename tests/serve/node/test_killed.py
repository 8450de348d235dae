"""A node that ends at any moment goes on where it was: nothing is lost, nothing is doubled."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest

from tests.serve.conftest import rows, write_model
from tests.serve.node.conftest import PATIENCE, Archive, node, send, until, write_series
from wsseg.serve.node.measuring import ATTEMPTS, MOST_FAILURES
from wsseg.serve.node.node import Node, Ports
from wsseg.serve.node.options import NodeOptions
from wsseg.serve.options import InferOptions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Whoever starts the tests in the background lets them ignore SIGINT, and all that they start.
COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from wsseg.cli.main import main; main()"
)
SERIES, SLICES = 4, 3


@contextmanager
def listening(model: Path, spool: Path, *options: str) -> Iterator[tuple[Any, int, Path]]:
    """`wsseg listen` as a process of its own: the process, its port, and the file of its log."""
    log = spool.with_name(f"log-{len(list(spool.parent.glob('log-*')))}")
    command = [sys.executable, "-c", COMMAND, "listen", "--model", str(model)]
    command += ["--spool", str(spool), "--port", "0", "--json-log", "--device", "cpu"]
    command += [
        "--settle",
        "0.5",
        "--settle-released",
        "0.2",
        "--retry",
        "0.2",
        "--min-free-gb",
        "0",
        *options,
    ]
    with log.open("wb") as stream, subprocess.Popen(command, stderr=stream) as process:
        try:
            yield process, until(lambda: port_of(log), "the port"), log
        finally:
            process.kill()


def port_of(log: Path) -> int:
    events = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return next((event["port"] for event in events if event.get("event") == "listening"), 0)


def test_whatever_ends_the_node_each_series_is_measured_once_and_all_results_return(
    model: Path, tmp_path: Path
):
    archive = Archive().start()
    spool = tmp_path / "spool"
    series = [write_series(tmp_path / "scans", f"s{index}", SLICES) for index in range(SERIES)]
    files = [file for each in series for file in each]
    options = ("--return", f"PACS@127.0.0.1:{archive.port}")

    acknowledged: list[int] = []

    def until_one_is_measured(port: int) -> None:
        acknowledged.extend(send(port, files))
        until(lambda: list(spool.glob("ready/*/output/**/*.dcm")), "a result")

    def until_one_is_back(_: int) -> None:
        until(lambda: archive.got, "a result in the archive")

    def until_all_are_back(_: int) -> None:
        until(lambda: len(list(spool.glob("done/*"))) == SERIES, "the end")

    ends: list[tuple[int, Callable[[int], None]]] = [
        (signal.SIGKILL, until_one_is_measured),
        (signal.SIGINT, until_one_is_back),
        (signal.SIGTERM, until_all_are_back),
    ]
    codes = []
    for number, work in ends:
        with listening(model, spool, *options) as (process, port, log):
            work(port)
            process.send_signal(number)
            codes.append(process.wait(PATIENCE))
            assert len(list(spool.glob("*/*/instances/*.dcm"))) == len(files)
        assert "Traceback" not in log.read_text()
    archive.stop()
    assert acknowledged == [0] * len(files)
    assert codes == [-signal.SIGKILL, 130, 0]

    tables = [rows(path) for path in spool.glob("results/*/*/ratios.csv")]
    counted = Counter(row["instance_uid"] for table in tables for row in table)
    expected = [pydicom.dcmread(file, specific_tags=["SOPInstanceUID"]) for file in files]
    assert counted == {each.SOPInstanceUID: 3 for each in expected}  # a row for each ratio
    # What was sent twice was one object: its UID comes from what it was made of.
    for one in series:
        results = {(each.Modality, each.SOPInstanceUID) for each in archive.of(one)}
        assert sorted(modality for modality, _ in results) == ["SEG", "SR"]
    assert not list(spool.glob("dead-letter/*"))


def test_a_node_whose_engine_does_not_start_again_ends_and_blames_no_series(tmp_path: Path):
    model, spool = write_model(tmp_path / "model"), tmp_path / "spool"
    files = write_series(tmp_path / "scans", "sound")
    with node(model, spool, settle_released=1e9) as ports:
        send(ports.dicom, files)
    (inbox,) = spool.glob("inbox/*")
    before = {"begun": MOST_FAILURES - 1, "failed": MOST_FAILURES - 1}
    (inbox / ATTEMPTS).write_text(json.dumps(before))
    with listening(model, spool, "--settle", "2") as (process, _, log):
        content = (model / "model.onnx").read_bytes()
        (model / "model.onnx").unlink()
        (engine,) = children(process.pid)
        os.kill(engine, signal.SIGKILL)
        assert process.wait(PATIENCE) == 4
    events = [json.loads(line) for line in log.read_text().splitlines()]
    (error,) = [event for event in events if event["level"] == "error"]
    assert "does not start again" in error["message"]
    (waiting,) = spool.glob("ready/*")
    assert json.loads((waiting / ATTEMPTS).read_text()) == before
    (model / "model.onnx").write_bytes(content)
    with node(model, spool):
        until(lambda: list(spool.glob("results/*/*/ratios.csv")), "its results")
    assert not list(spool.glob("dead-letter/*"))


def children(process: int) -> list[int]:
    """The processes that a process started, of which the engine's is one."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_a_series_half_received_before_a_start_waits_from_when_its_sender_can_connect(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spool, now, stop = tmp_path / "spool", [0.0], threading.Event()
    with node(model, spool, settle_released=1e9) as ports:
        send(ports.dicom, write_series(tmp_path / "scans", "half"))
    monkeypatch.setattr("wsseg.serve.node.arrivals.time", SimpleNamespace(monotonic=lambda: now[0]))

    def opens_slowly() -> Any:
        now[0] += 1000

    complete = []

    def on_ready(_: Ports) -> None:
        complete.append(running.arrivals.complete())
        now[0] += 30
        complete.append(running.arrivals.complete())
        stop.set()

    options = NodeOptions(spool=spool, port=0, settle=30)
    running = Node(options, InferOptions(model=model), opens_slowly)
    running.run(stop, on_ready)
    assert complete == [[], [path.name for path in spool.glob("inbox/*")]]
