"""A run that is killed tells of nobody, in its journal and its log; what it unpacked is removed."""

import signal
import time
from pathlib import Path

import pytest

from bench.reliability.command import infer, start
from bench.reliability.kills import outputs
from tests.cli import canaries
from wsseg.serve.journal import journal_path

pytestmark = pytest.mark.slow


def test_a_killed_run_leaves_no_identity(model: Path, tmp_path: Path):
    marked = canaries.write_marked(tmp_path / "scans")
    assert canaries.marks_below(marked)
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    journal = journal_path(out / "ratios.csv")
    arguments = (*outputs(out), "--seg", out / "seg", "--verbose", "--batch", 1, "--model", model)
    # On a busy machine a run may end before it is killed: then another one is.
    for _ in range(5):
        process = start("--overwrite", *arguments, marked, environment={"TMPDIR": str(temporary)})
        while process.poll() is None and not (journal.exists() and _scans(journal)):
            time.sleep(0.001)
        process.kill()
        told = process.communicate()[1]
        if process.returncode == -signal.SIGKILL and journal.exists():
            break
    assert _scans(journal)
    assert told.count("\n") > 1
    # A DICOM result has what it shares with its study.
    assert {name for name in canaries.marks_below(out) if "seg" not in name} == set()
    assert canaries.marks(told.encode()) == set()
    # Scans of archives are unpacked as they are, under names that say nothing.
    left = [path for path in temporary.rglob("*") if path.is_file()]
    assert all(path.parent.name.startswith("unpacked-") for path in left)
    assert canaries.marks("\n".join(map(str, left)).encode()) == set()
    again = infer("--resume", *arguments, marked, environment={"TMPDIR": str(temporary)})
    assert again.code == 8, again.log  # some of them have no pixels or no segmentation
    assert list(temporary.iterdir()) == []


def _scans(journal: Path) -> int:
    return max(0, journal.read_bytes().count(b"\n") - 1)
