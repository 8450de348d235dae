"""A disk that is full costs one line and an exit code, and nothing that was there before."""

import errno
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import call, write_outlined
from tests.serve.conftest import (
    RATIOS_PER_SLICE,
    failures,
    full_disk,
    rows,
    run,
    write_model,
    write_pictures,
)
from wsseg.imaging.disk import NotWrittenError, writing
from wsseg.imaging.files import atomic, atomic_folder

INFER = "from wsseg.cli.main import infer_main; infer_main()"


def test_the_error_names_the_file_the_space_and_the_need(tmp_path: Path):
    path = tmp_path / "weights"
    path.write_bytes(b"before")
    with pytest.raises(NotWrittenError) as told, atomic(path, nbytes=3 << 20):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(told.value).startswith(f"{path} could not be written: No space left on device (")
    assert " free, 3.0 MiB needed); make room" in str(told.value)
    assert told.value.exit_code == 4
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"before"]


def _write(path: Path, size: int) -> None:
    """As a library that writes past Python and forgets why it could not."""
    with atomic(path) as partial:
        partial.write_bytes(bytes(size))
        raise RuntimeError("file write failed")


def test_the_reason_that_a_library_forgets_is_found_by_writing_more(tmp_path: Path):
    path = tmp_path / "checkpoint"
    full = "checkpoint could not be written: File too large"
    with full_disk(1000), pytest.raises(NotWrittenError, match=full):
        _write(path, 1000)
    with pytest.raises(RuntimeError, match="file write failed"):  # for another reason
        _write(path, 1000)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_fit_leaves_the_earlier_one(tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text("before")
    told = pytest.raises(NotWrittenError, match="model could not be written")
    with full_disk(10), told, atomic_folder(model) as folder:
        (folder / "model.json").write_text("after, and longer")
    assert (model / "model.json").read_text() == "before"


def test_an_output_folder_that_is_deleted_meanwhile_is_told(tmp_path: Path):
    path = tmp_path / "out" / "table.csv"
    with pytest.raises(NotWrittenError, match="its folder is gone"), atomic(path):
        shutil.rmtree(path.parent)


def test_marks_that_do_not_fit_end_with_one_line(tmp_path: Path):
    outlined = write_outlined(tmp_path, 4)
    with full_disk(60):
        said = call("marks", outlined, "--out", tmp_path / "cases", code=4)
    assert "could not be written: File too large; make room" in " ".join(said.split())
    assert not (tmp_path / "cases").exists()


def test_masks_that_did_not_fit_are_written_by_resume_after_room_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model, scans = write_model(tmp_path / "model"), write_pictures(tmp_path / "scans", 4)
    whole = tmp_path / "whole"
    run(model, whole / "ratios.csv", scans, masks=whole / "masks")
    out = tmp_path / "out"
    masks, outputs = out / "masks", [path.name for path in (whole / "masks").glob("*.png")]
    with monkeypatch.context() as disk:
        disk.setattr("wsseg.imaging.files.writing", _full_for(outputs[:2]))
        summary = run(model, out / "ratios.csv", scans, masks=masks)
    assert {row["reason"] for row in failures(out / "ratios.csv")} == {"no_space"}
    assert (summary.exit_code, len(rows(out / "ratios.csv"))) == (8, 4 * RATIOS_PER_SLICE)
    summary = run(model, out / "ratios.csv", scans, masks=masks, resume=True)
    assert (summary.exit_code, summary.resumed) == (0, 2)
    for path in whole.rglob("*.*"):
        assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert not (out / ".ratios.csv.journal").exists()


def _full_for(names: list[str]):
    """As `writing` on a disk that has no room for files of these names."""

    @contextmanager
    def full(path: Path, *more, **given):
        with writing(path, *more, **given):
            if path.name in names:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield

    return full


@pytest.mark.slow
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(tmp_path: Path):
    model, scans = write_model(tmp_path / "model"), write_pictures(tmp_path / "scans", 12)
    disk = tmp_path / "disk"
    disk.mkdir()
    run(model, tmp_path / "whole" / "ratios.csv", scans)
    command = [
        *(sys.executable, "-c", INFER, scans, "--model", model, "--report", disk / "ratios.csv"),
        "--resume",
    ]
    script = f"""
        mount -t tmpfs -o size=16k none {disk} || exit 99
        "$@"; echo "code $?" >&2; ls {disk} >&2
        mount -o remount,size=1m {disk}
        "$@" && cp {disk}/* {tmp_path / "out"}
    """
    (tmp_path / "out").mkdir()
    alone = ["unshare", "--map-root-user", "--mount", "bash", "-c", script, "bash"]
    done = subprocess.run([*alone, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, _, rest = done.stderr.partition("code 4\n")
    assert f"error: {disk / 'ratios.csv'} could not be written: No space left" in first
    assert "Traceback" not in done.stderr
    assert not rest.startswith("ratios.csv")  # no table under its name
    for table in (tmp_path / "whole").glob("*.csv"):
        assert (tmp_path / "out" / table.name).read_bytes() == table.read_bytes()
