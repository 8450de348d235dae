"""Kills of runs that write DICOM results, and of runs that unpack archives."""

import random
import zipfile
from pathlib import Path

import pytest

from bench.reliability.kills import kill_and_resume
from bench.reliability.scans import write_series

pytestmark = pytest.mark.slow
SERIES = 10


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_series(tmp_path_factory.mktemp("series") / "series", SERIES)


@pytest.fixture(scope="module")
def archives(series: Path) -> Path:
    """Two archives with half of the series each."""
    folder = series.with_name("archives")
    folder.mkdir()
    for half, files in enumerate(_halves(sorted(series.rglob("*.dcm")))):
        with zipfile.ZipFile(folder / f"{half}.zip", "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(series))
    return folder


def _halves(files: list[Path]) -> tuple[list[Path], list[Path]]:
    return files[: len(files) // 2], files[len(files) // 2 :]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_segmentations_of_killed_runs_are_those_of_one_run(
    model: Path, series: Path, tmp_path: Path
):
    seg = tmp_path / "seg"  # of all runs, each of which replaces what is there
    killed = kill_and_resume(
        ("--model", model, "--seg", seg, series),
        tmp_path / "whole",
        tmp_path / "out",
        kills=2,
        draw=random.Random(1),
    )
    assert (killed.kills, killed.lost, killed.unlike) == (2, 0, [])
    assert len(list(seg.iterdir())) == SERIES


def test_archives_of_killed_runs_are_unpacked_again_and_nothing_is_left(
    model: Path, archives: Path, tmp_path: Path, temporary: Path
):
    killed = kill_and_resume(
        ("--model", model, archives),
        tmp_path / "whole",
        tmp_path / "out",
        kills=2,
        draw=random.Random(2),
    )
    assert (killed.kills, killed.lost, killed.unlike) == (2, 0, [])
    assert list(temporary.iterdir()) == []
