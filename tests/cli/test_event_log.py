"""The log of runs: that each has its lines, and that they tell nothing of patients."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import call
from tests.serve.conftest import write_model, write_pictures
from wsseg.serve.event_log import recorded


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def test_a_run_has_a_line_at_its_begin_and_one_at_its_end_and_they_name_no_file(tmp_path: Path):
    log, scans = tmp_path / "runs.jsonl", write_pictures(tmp_path / "canary-scans", 2)
    (scans / "canary-broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    model = write_model(tmp_path / "canary-model", name="approved")
    report = tmp_path / "canary.csv"
    call("infer", scans, "--model", model, "--report", report, "--event-log", log, code=8)
    begin, end = lines(log)
    assert (begin["event"], end["event"]) == ("run_started", "run_ended")
    assert begin["run"] == end["run"]
    assert end["model"] == "approved"
    counts = {name: end[name] for name in ("scans", "slices", "failed", "exit_code")}
    assert counts == {"scans": 2, "slices": 2, "failed": 1, "exit_code": 8}
    assert "canary" not in log.read_text("utf-8")


def test_a_model_that_cannot_be_used_is_a_run_that_ended(tmp_path: Path):
    log = tmp_path / "runs.jsonl"
    for _ in range(2):
        call("infer", tmp_path, "--model", tmp_path / "none", "--event-log", log, code=2)
    ends = [line for line in lines(log) if line["event"] == "run_ended"]
    assert [(end["exit_code"], end["error"]) for end in ends] == [(2, "WssegError")] * 2
    assert len({line["run"] for line in lines(log)}) == 2


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (ValueError("canary"), 1), (SystemExit(3), 130)]
)
def test_a_run_that_is_stopped_or_crashes_has_its_end(
    tmp_path: Path, error: BaseException, code: int
):
    log = tmp_path / "runs.jsonl"
    with pytest.raises(type(error)), recorded(log):
        raise error
    assert lines(log)[1]["exit_code"] == code
    assert "canary" not in log.read_text("utf-8")


def test_a_file_that_is_no_log_is_not_appended_to(tmp_path: Path):
    scan = next(write_pictures(tmp_path / "scans", 1).iterdir())
    before = scan.read_bytes()
    said = call("infer", scan, "--model", tmp_path, "--event-log", scan, code=2)
    assert "is no event log" in said
    assert scan.read_bytes() == before


def test_a_log_that_cannot_be_written_stops_the_run_before_it_begins(tmp_path: Path):
    log = tmp_path / "missing" / "runs.jsonl"
    said = call("infer", tmp_path, "--model", tmp_path, "--event-log", log, code=2)
    assert "cannot be written" in said
