"""Real runs that are killed or stopped go on with --resume, and nothing is lost or doubled."""

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bench.reliability.command import start
from bench.reliability.kills import kill_and_resume, outputs
from bench.reliability.scans import write_volumes
from wsseg.serve.journal import journal_path

pytestmark = pytest.mark.slow
SCANS = 20


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_volumes(tmp_path_factory.mktemp("volumes") / "volumes", SCANS)


def test_a_run_that_is_killed_again_and_again_gives_the_same_files(
    model: Path, volumes: Path, tmp_path: Path
):
    killed = kill_and_resume(
        ("--model", model, volumes),
        tmp_path / "whole",
        tmp_path / "out",
        kills=5,
        draw=random.Random(0),
    )
    assert killed.kills == 5
    assert killed.lost == 0
    assert killed.unlike == []


def stopped(
    process: "subprocess.Popen[str]", journal: Path, number: int, *, beyond: int
) -> tuple[int, str]:
    """Send a signal once the journal is longer than so many bytes; the exit code and the log."""
    while process.poll() is None:
        if journal.exists() and journal.stat().st_size > beyond:
            process.send_signal(number)
            break
        time.sleep(0.001)
    logged = process.communicate(timeout=60)[1]
    return process.returncode, logged


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_run_that_is_stopped_says_how_to_go_on(
    model: Path, volumes: Path, tmp_path: Path, name: str
):
    arguments = (*outputs(tmp_path / "out"), "--model", model, "--batch", "1", volumes)
    journal = journal_path(tmp_path / "out" / "ratios.csv")
    # On a busy machine a run may end before the signal is sent: then another one is stopped.
    for _ in range(5):
        process = start("--overwrite", *arguments)
        code, logged = stopped(process, journal, getattr(signal, name), beyond=5_000)
        if code != 0:
            break
    assert code == 130, logged
    assert "--resume goes on" in logged
    assert not (tmp_path / "out" / "ratios.csv").exists()
    process = start("--resume", *arguments)
    logged = process.communicate(timeout=60)[1]
    assert process.returncode == 0, logged
    told = map(json.loads, logged.splitlines())
    summary = next(line for line in told if line.get("event") == "run_ended")
    assert summary["scans"] == SCANS
    assert summary["resumed"] > 0
