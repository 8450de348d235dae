"""Which files under watched folders are complete."""

from pathlib import Path

import numpy as np
import pytest

from wsseg.imaging import FileRef, dicom, discovery
from wsseg.imaging.discovery import find
from wsseg.imaging.scan import ScanRef
from wsseg.imaging.watched import Watched

SETTLE = 10.0


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def watched(folder: Path, clock: Clock) -> Watched:
    return Watched((folder,), SETTLE, clock)


def found(watched: Watched, scratch: Path) -> list[list[str]]:
    """The names of the files of each scan, and of each failure by itself."""
    items = find(watched.folders, scratch=scratch, watched=watched)
    return [
        [file.path.name for file in item.files] if isinstance(item, ScanRef) else [item.source]
        for item in items
    ]


def test_a_file_is_complete_when_it_has_not_changed_for_a_while(folder, clock, watched):
    (folder / "notes.txt").write_text("one")
    assert watched.look() == SETTLE
    clock.now += SETTLE - 1
    assert watched.look() == pytest.approx(1)
    (folder / "notes.txt").write_text("one and more")
    assert watched.look() == SETTLE
    clock.now += SETTLE
    assert watched.look() is None


def test_files_that_are_measured_are_no_news_until_they_change_or_go(folder, clock, watched):
    file = folder / "notes.txt"
    for change in (lambda: file.write_text("new"), lambda: file.write_text("other"), file.unlink):
        change()
        watched.look()
        clock.now += SETTLE
        watched.look()
        assert watched.has_news
        watched.take()
        watched.look()
        assert not watched.has_news


def test_a_file_that_comes_and_goes_before_it_is_complete_is_no_news(folder, clock, watched):
    watched.look()
    watched.take()
    (folder / "half.dcm").write_text("half")
    watched.look()
    (folder / "half.dcm").unlink()
    clock.now += SETTLE
    assert watched.look() is None
    assert not watched.has_news


def test_a_changed_file_is_left_out_even_if_it_was_complete(folder, clock, watched, tmp_path):
    (folder / "notes.txt").write_text("one")
    watched.look()
    clock.now += SETTLE
    watched.look()
    watched.take()
    assert found(watched, tmp_path) == [["notes.txt"]]
    (folder / "notes.txt").write_text("other")  # after the look, while the round goes on
    assert found(watched, tmp_path) == []


def test_a_series_of_which_one_file_may_still_be_written_is_left_out(
    folder, clock, watched, tmp_path, write_dicom
):
    def write(series: int, *slices: int) -> None:
        for at in slices:
            write_dicom(
                folder / f"{series}-{at}.dcm",
                np.full((16, 16), at, np.int16),
                SeriesInstanceUID=f"1.2.{series}",
                SOPInstanceUID=f"1.2.{series}.{at}",
                ImagePositionPatient=[0.0, 0.0, 2.0 * at],
            )

    write(1, 0, 1)
    write(2, 0, 1)
    watched.look()
    clock.now += SETTLE
    write(2, 2)
    watched.look()
    watched.take()
    assert found(watched, tmp_path) == [["1-0.dcm", "1-1.dcm"]]
    clock.now += SETTLE
    watched.look()
    watched.take()
    assert found(watched, tmp_path) == [
        ["1-0.dcm", "1-1.dcm"],
        ["2-0.dcm", "2-1.dcm", "2-2.dcm"],
    ]


def test_headers_are_read_once_and_give_the_same_scans(
    folder, clock, watched, tmp_path, write_dicom, monkeypatch
):
    for at in range(3):
        write_dicom(
            folder / f"{at}.dcm",
            SOPInstanceUID=f"1.2.{at}",
            ImagePositionPatient=[0.0, 0.0, 2.0 * at],
        )
    (folder / "report.dcm").write_bytes((folder / "0.dcm").read_bytes()[:400])
    watched.look()
    clock.now += SETTLE
    watched.look()
    watched.take()
    read: list[str] = []
    read_headers = dicom.read_headers

    def counted(file: FileRef, *more):
        read.append(file.source)
        return read_headers(file, *more)

    monkeypatch.setattr(discovery, "read_headers", counted)
    first, again, plain = (
        list(find([folder], scratch=tmp_path, watched=each)) for each in (watched, watched, None)
    )
    assert first == again == plain
    assert sorted(read) == sorted(2 * ["0.dcm", "1.dcm", "2.dcm", "report.dcm"])


def test_folders_within_each_other_are_watched_once(folder, clock, tmp_path):
    (folder / "notes.txt").write_text("one")
    watched = Watched((tmp_path, folder), SETTLE, clock)
    watched.look()
    clock.now += SETTLE
    assert watched.look() is None
