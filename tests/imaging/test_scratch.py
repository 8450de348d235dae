"""What a killed process left is removed, and what another one is using is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsseg.imaging import scratch
from wsseg.imaging.scratch import OLD_SECONDS, Scratch, scratch_folder, sweep

HOLDER = """
import sys
from pathlib import Path
from wsseg.imaging.scratch import Scratch
parent = Path(sys.argv[1]) if len(sys.argv) > 1 else None
held = Scratch(parent)
(held.path / "unpacked").mkdir()
(held.path / "unpacked" / "scan.dcm").write_text("pixels")
print(held.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has swept nothing yet."""
    monkeypatch.setattr(scratch, "_swept", set())


@pytest.fixture
def start():
    """Start another process with a scratch folder, in a folder or among temporary files."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object, **environment: str) -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        started.append(process)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_folder_beside_outputs_goes_with_the_next_run_if_its_process_was_killed(start, tmp_path):
    killed, left = start(tmp_path)
    _, used = start(tmp_path)
    kill(killed)
    sweep(tmp_path)
    assert (left.exists(), (used / "unpacked" / "scan.dcm").exists()) == (False, True)


def test_unpacked_scans_go_with_the_next_run_if_their_process_was_killed(
    start, tmp_path, monkeypatch
):
    killed, left = start(TMPDIR=str(tmp_path))
    _, used = start(TMPDIR=str(tmp_path))
    kill(killed)
    assert {left.parent, used.parent} == {tmp_path}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder() as own:
        assert sorted(tmp_path.iterdir()) == sorted([used, own])


def test_a_process_that_ends_well_leaves_nothing(start, tmp_path):
    process, _ = start(tmp_path)
    process.communicate()
    assert not list(tmp_path.iterdir())


def test_where_locks_may_be_of_one_machine_only_what_is_old_goes(start, tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "_file_system", lambda _: "nfs4")
    killed, left = start(tmp_path)
    kill(killed)
    ages = {"young": OLD_SECONDS - 3600, "old": OLD_SECONDS + 3600}
    for name, age in ages.items():
        monkeypatch.setattr(scratch, "_swept", set())
        at = time.time() - age
        for path in (*left.rglob("*"), left):
            os.utime(path, (at, at))
        sweep(tmp_path)
        assert left.exists() == (name == "young"), name


def test_an_old_folder_that_is_used_stays(tmp_path):
    held = Scratch(tmp_path)
    os.utime(held.path, (0, 0))
    sweep(tmp_path / ".")
    scratch._swept.clear()
    sweep(tmp_path)
    assert held.path.exists()
    held.close()
    assert not held.path.exists()


@pytest.mark.parametrize("name", ["wsseg-data", ".tmp-other", "wsseg-scratch.txt"])
def test_what_others_named_alike_stays(tmp_path, name):
    (tmp_path / name).mkdir()
    os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path)
    assert (tmp_path / name).exists()


def test_a_link_of_such_a_name_is_not_followed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "scan.dcm").write_text("pixels")
    (tmp_path / f"{scratch.BESIDE}abc").symlink_to(tmp_path / "data")
    sweep(tmp_path)
    assert (tmp_path / "data" / "scan.dcm").exists()
