"""Files and folders appear whole or not at all."""

from pathlib import Path

import pytest

from wsseg.imaging import atomic, atomic_folder


class StopError(Exception):
    """Something that goes wrong half way."""


def fill(opened):
    with opened as partial:
        (partial / "new" if partial.is_dir() else partial).write_text("half")


def stop_half_way(opened):
    with opened as partial:
        (partial / "new" if partial.is_dir() else partial).write_text("half")
        raise StopError


def test_a_file_appears_when_it_is_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "new" / "a.nii.gz"
    for content in ("first", "second"):
        with atomic(path) as partial:
            assert partial.name == path.name
            before = path.exists() and path.read_text()
            partial.write_text(content)
            assert (path.exists() and path.read_text()) == before
        assert path.read_text() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(StopError):
        stop_half_way(atomic(path))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_and_replaces_all_of_the_old_one(tmp_path):
    path = tmp_path / "model"
    for name in ("first", "second"):
        with atomic_folder(path) as partial:
            (partial / name).write_text(name)
        assert [file.name for file in path.iterdir()] == [name]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_folder_as_it_was(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(StopError):
        stop_half_way(atomic_folder(path))
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_take_its_place_puts_the_old_one_back(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("old")
    replace = Path.replace

    def refuse_new(self, target):
        if (self / "new").exists():
            raise PermissionError(13, "in use")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse_new)
    with pytest.raises(OSError, match="could not be written"):
        fill(atomic_folder(path))
    assert [file.name for file in path.iterdir()] == ["old"]
