"""Several files take their places together, and none has its name before it is on the disk."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from wsseg.imaging import atomic, atomic_files, atomic_folder, lock_output, scratch
from wsseg.imaging.files import noting, recover
from wsseg.imaging.publishing import sync_files

TABLES = ("ratios.csv", "ratios.series.csv", "ratios.failures.csv")
MOMENTS = 9
"""More than the steps in which three tables take their places."""

# Each child is killed before one of the steps; of three tables, or of a folder.
KILLED = """
import os, signal, sys
from pathlib import Path
from wsseg.imaging.files import atomic_files, atomic_folder
root, moments, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
replace = Path.replace
for moment in range(moments):
    if not (child := os.fork()):
        left = moment
        def counted(self, target):
            global left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return replace(self, target)
        Path.replace = counted
        if names:
            with atomic_files([root / str(moment) / name for name in names]) as files:
                for file in files:
                    file.write_text("new")
        else:
            with atomic_folder(root / str(moment) / "model") as folder:
                (folder / "model.json").write_text("new")
        os._exit(0)
    os.waitpid(child, 0)
"""


def publish_and_kill(root: Path, *names: str) -> None:
    subprocess.run([sys.executable, "-c", KILLED, root, str(MOMENTS), *names], check=True)


def contents(files: Iterable[Path]) -> list[str]:
    return [file.read_text() if file.exists() else "missing" for file in files]


@pytest.mark.parametrize("before", ["old", "missing"])
def test_tables_are_all_old_or_all_new_after_a_kill_at_any_moment(tmp_path, before, monkeypatch):
    targets = [[tmp_path / str(m) / name for name in TABLES] for m in range(MOMENTS)]
    for table in (table for tables in targets for table in tables):
        table.parent.mkdir(exist_ok=True)
        if before == "old":
            table.write_text(before)
    publish_and_kill(tmp_path, *TABLES)
    found = [contents(tables) for tables in targets]
    assert found[0] == [before] * 3
    assert found[-1] == ["new"] * 3
    assert any(len(set(each)) > 1 for each in found)  # what is to be completed
    for tables in targets:
        recover(tables[0])
        monkeypatch.setattr(scratch, "_swept", set())
        scratch.sweep(tables[0].parent)
    completed = [contents(tables) for tables in targets]
    assert all(each in ([before] * 3, ["new"] * 3) for each in completed)
    # What was to be seen of the new tables is not taken back.
    assert all(
        after == ["new"] * 3 for was, after in zip(found, completed, strict=True) if "new" in was
    )
    left = {path for tables in targets for path in tables[0].parent.iterdir()}
    assert left <= {table for tables in targets for table in tables}


def test_a_folder_is_old_or_new_after_a_kill_at_any_moment(tmp_path, monkeypatch):
    models = [tmp_path / str(moment) / "model" for moment in range(MOMENTS)]
    for model in models:
        model.mkdir(parents=True)
        (model / "model.json").write_text("old")
    publish_and_kill(tmp_path)
    assert "missing" in contents(model / "model.json" for model in models)
    for model in models:
        with lock_output(model, "busy"):
            pass
        monkeypatch.setattr(scratch, "_swept", set())
        scratch.sweep(model.parent)
        assert list(model.parent.iterdir()) == [model]
        assert list(model.iterdir()) == [model / "model.json"]
    assert set(contents(model / "model.json" for model in models)) == {"old", "new"}


def test_what_took_the_place_since_a_process_was_killed_stays(tmp_path):
    models = [tmp_path / str(moment) / "model" for moment in range(MOMENTS)]
    for model in models:
        model.mkdir(parents=True)
        (model / "model.json").write_text("old")
    publish_and_kill(tmp_path)
    for model in models:
        if not model.exists():
            model.mkdir()
            (model / "model.json").write_text("copied by hand")
        recover(model)
    assert "copied by hand" in contents(model / "model.json" for model in models)


def test_files_that_another_process_is_putting_in_place_are_left_to_it(tmp_path):
    paths = [tmp_path / name for name in TABLES]
    with atomic_files(paths) as files:
        for file in files:
            file.write_text("new")
        (files[0].parent.parent / scratch.COMMITTED).write_text('["ratios.csv"]')
        recover(paths[0])
        assert contents(paths) == ["missing"] * 3
    assert contents(paths) == ["new"] * 3


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The names of all that is synchronised with the disk, and of all that is renamed, in order."""
    found: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        found.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        found.append(("rename", target.name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    return found


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_follows(tmp_path, steps):
    with atomic(tmp_path / "a.csv") as partial:
        partial.write_text("content")
    assert steps == [("sync", "a.csv"), ("rename", "a.csv"), ("sync", tmp_path.name)]


def test_a_new_folder_is_on_the_disk_too(tmp_path, steps):
    with atomic(tmp_path / "b" / "c" / "a.csv") as partial:
        partial.write_text("content")
    assert steps[:2] == [("sync", "b"), ("sync", tmp_path.name)]


def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, steps):
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "engines").mkdir()
        (folder / "engines" / "a.onnx").write_text("weights")
        (folder / "model.json").write_text("{}")
    named = steps.index(("rename", "model"))
    synced = {name for kind, name in steps[:named] if kind == "sync"}
    assert {"a.onnx", "engines", "model.json", "model"} <= synced
    assert ("rename", scratch.COMMITTED) in steps[:named]
    assert ("sync", tmp_path.name) in steps[named:]


def test_noted_files_are_left_to_whoever_notes_them(tmp_path, steps):
    with noting() as paths:
        for name in ("a.png", "b.png"):
            with atomic(tmp_path / name) as partial:
                partial.write_text("content")
    assert [kind for kind, _ in steps] == ["rename", "rename"]
    (tmp_path / "b.png").unlink()
    steps.clear()
    sync_files(paths)
    assert steps == [("sync", "a.png"), ("sync", tmp_path.name)]


def test_a_disk_that_fails_when_it_is_asked_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), atomic(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
