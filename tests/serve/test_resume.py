"""A run that ends early goes on with --resume, to the tables of a run that nothing disturbed."""

import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.imaging.conftest import _write_dicom
from tests.serve.conftest import (
    BROKEN_VALUE,
    ThresholdEngine,
    label_maps,
    picture,
    threshold_graph,
    write_model,
    write_pictures,
    write_volume,
)
from wsseg.imaging import WssegError, lock_output
from wsseg.serve.infer import Summary, infer
from wsseg.serve.journal import Journal, journal_path
from wsseg.serve.options import InferOptions

SCANS = 10
"""Scans of the folder `inputs` that can be measured, of one slice each but the last."""


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Nine pictures, a volume, a volume that breaks the engine, and a text file."""
    folder = tmp_path / "inputs"
    write_pictures(folder, SCANS - 1)
    broken = np.stack([picture(15), picture(16)]).astype(np.float32)
    broken[0, 0, 0] = BROKEN_VALUE
    write_volume(folder / "005-broken.nii.gz", broken)
    write_volume(folder / "volume.nii.gz", np.stack([picture(index) for index in range(10, 14)]))
    (folder / "notes.txt").write_text("no image")
    return folder


def measured(
    model: Path, report: Path, inputs: Path, *, stop_after: int | None = None, **options
) -> tuple[Summary | None, int]:
    """The summary of a run, and how many slices the engine saw; stop_after: as Ctrl-C does."""
    engine = ThresholdEngine()

    def progress(done: int, *_: float) -> None:
        if stop_after is not None and done >= stop_after:
            raise KeyboardInterrupt

    settings = InferOptions(
        model=model, report=report, **({"batch": 1, "read_ahead": 1, "readers": 1} | options)
    )
    try:
        summary = infer([inputs], settings, engine=lambda: engine, on_progress=progress)
    except KeyboardInterrupt:
        summary = None
    return summary, sum(shape[0] for shape in engine.shapes)


def tables(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder, hidden ones among them."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_an_interrupted_run_goes_on_to_the_same_tables(model: Path, inputs: Path, tmp_path: Path):
    _, all_slices = measured(model, tmp_path / "whole" / "ratios.csv", inputs)
    report = tmp_path / "out" / "ratios.csv"
    assert measured(model, report, inputs, stop_after=6)[0] is None
    assert tables(report.parent).keys() == {".ratios.csv.journal"}
    done = len(journal_path(report).read_bytes().splitlines()) - 1
    summary, slices = measured(model, report, inputs, resume=True)
    assert summary
    assert (summary.scans, summary.resumed, summary.failed) == (SCANS, done, 1)
    assert done >= 4
    assert slices == all_slices - done  # each of them has one slice
    assert tables(report.parent) == tables(tmp_path / "whole")  # and no journal is left


def test_resume_without_an_unfinished_run_begins_one(model: Path, inputs: Path, tmp_path: Path):
    report = tmp_path / "ratios.csv"
    summary, _ = measured(model, report, inputs, resume=True)
    assert summary
    assert (summary.scans, summary.resumed) == (SCANS, 0)
    with pytest.raises(WssegError, match="is there already"):
        measured(model, report, inputs, resume=True)


def test_an_unfinished_run_is_told_and_only_overwrite_begins_anew(
    model: Path, inputs: Path, tmp_path: Path
):
    report = tmp_path / "ratios.csv"
    measured(model, report, inputs, stop_after=6)
    before = journal_path(report).read_bytes()
    with pytest.raises(WssegError, match=r"did not end.*--resume.*--overwrite"):
        measured(model, report, inputs)
    assert journal_path(report).read_bytes() == before
    summary, _ = measured(model, report, inputs, overwrite=True)
    assert summary
    assert summary.resumed == 0
    assert not journal_path(report).exists()


def test_a_run_that_was_killed_before_its_first_scan_is_in_nobodys_way(
    model: Path, inputs: Path, tmp_path: Path
):
    report = tmp_path / "ratios.csv"
    measured(model, report, inputs, stop_after=6)
    settings = journal_path(report).read_bytes().splitlines(keepends=True)[0]
    journal_path(report).write_bytes(settings)
    summary, _ = measured(model, report, inputs)
    assert summary
    assert summary.resumed == 0
    assert not journal_path(report).exists()


def test_only_the_scan_that_changed_is_measured_again(model: Path, inputs: Path, tmp_path: Path):
    report = tmp_path / "out" / "ratios.csv"
    measured(model, report, inputs, stop_after=6)
    done = len(journal_path(report).read_bytes().splitlines()) - 1
    other = write_pictures(tmp_path / "other", 9) / "008.png"
    (inputs / "001.png").write_bytes(other.read_bytes())
    summary, _ = measured(model, report, inputs, resume=True)
    assert summary
    assert summary.resumed == done - 1
    measured(model, tmp_path / "whole" / "ratios.csv", inputs)
    assert tables(report.parent) == tables(tmp_path / "whole")


def test_a_change_that_keeps_size_and_time_is_seen_in_the_first_bytes(
    model: Path, inputs: Path, tmp_path: Path
):
    report = tmp_path / "ratios.csv"
    measured(model, report, inputs, stop_after=6)
    done = len(journal_path(report).read_bytes().splitlines()) - 1
    file = inputs / "000.png"
    content, times = bytearray(file.read_bytes()), file.stat()
    content[-5] ^= 1  # of the checksum of the last chunk
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    summary, _ = measured(model, report, inputs, resume=True)
    assert summary
    assert summary.resumed == done - 1


@pytest.mark.parametrize(
    ("options", "named"),
    [({"skip": False}, "skip"), ({"batch": 2}, "batch"), ({"pixel_mm": (2.0, 2.0)}, "pixel_mm")],
)
def test_another_option_has_all_scans_measured_again(
    model: Path, inputs: Path, tmp_path: Path, options, named, log: pytest.LogCaptureFixture
):
    report = tmp_path / "out" / "ratios.csv"
    measured(model, report, inputs, stop_after=6)
    summary, _ = measured(model, report, inputs, resume=True, **options)
    assert summary
    assert summary.resumed == 0
    assert f"changed since the run began ({named})" in log.text
    measured(model, tmp_path / "whole" / "ratios.csv", inputs, **options)
    assert tables(report.parent) == tables(tmp_path / "whole")


def test_another_model_has_all_scans_measured_again(model: Path, inputs: Path, tmp_path: Path):
    report = tmp_path / "out" / "ratios.csv"
    measured(model, report, inputs, stop_after=6)
    other = write_model(tmp_path / "model", threshold_graph(variance=False))
    summary, _ = measured(other, report, inputs, resume=True)
    assert summary
    assert summary.resumed == 0
    measured(other, tmp_path / "whole" / "ratios.csv", inputs)
    assert tables(report.parent) == tables(tmp_path / "whole")


def test_a_journal_that_was_cut_or_damaged_anywhere_costs_only_its_own_scans(
    model: Path, inputs: Path, tmp_path: Path
):
    measured(model, tmp_path / "whole" / "ratios.csv", inputs)
    report = tmp_path / "out" / "ratios.csv"
    measured(model, report, inputs, stop_after=9)
    journal = journal_path(report).read_bytes()
    ends = [at for at, byte in enumerate(journal) if byte == ord("\n")]
    chosen = random.Random(0).sample(range(len(journal)), 8)
    for cut in [0, ends[0], ends[0] + 1, ends[2], *chosen]:
        journal_path(report).write_bytes(journal[:cut])
        summary, _ = measured(model, report, inputs, resume=True)
        assert summary
        assert summary.resumed == max(0, sum(end < cut for end in ends) - 1)
        assert tables(report.parent) == tables(tmp_path / "whole"), cut
    for at in (at for at in chosen if at > ends[0] + 1 and at not in ends):
        damaged = bytearray(journal)
        damaged[at] ^= 0x04
        journal_path(report).write_bytes(damaged)
        summary, _ = measured(model, report, inputs, resume=True)
        assert summary
        assert summary.resumed >= len(ends) - 3  # a new line break damages two
        assert tables(report.parent) == tables(tmp_path / "whole"), at


def test_an_output_that_is_missing_or_damaged_has_its_scan_measured_again(
    model: Path, inputs: Path, tmp_path: Path
):
    whole, out = tmp_path / "whole", tmp_path / "out"
    measured(model, whole / "ratios.csv", inputs, masks=whole / "masks")
    report = out / "ratios.csv"
    measured(model, report, inputs, masks=out / "masks", stop_after=10)
    done = len(journal_path(report).read_bytes().splitlines()) - 1
    missing, empty, cut, changed, kept, *_ = label_maps(out / "masks")
    missing.unlink()
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:-1])
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    written = kept.stat().st_mtime_ns
    summary, _ = measured(model, report, inputs, masks=out / "masks", resume=True)
    assert summary
    assert summary.resumed == done - 4
    assert kept.stat().st_mtime_ns == written
    assert tables(out) == tables(whole)


def test_recovered_masks_known_rows_and_key_tables_survive(
    model: Path, inputs: Path, tmp_path: Path
):
    lines = [f"{n:03d}.png,{0.01 * n},bright" for n in range(9)]
    lines += ["none.png,0.1,bright", "volume.nii.gz,0.2,bright", "005-broken.nii.gz,0.1,bright"]
    known = tmp_path / "known.csv"
    known.write_text("\n".join(["source,ratio,ratio_name", *lines]))
    salt = tmp_path / "salt"

    def go(folder: Path, **options) -> Summary | None:
        report = folder / "ratios.csv"
        keys = folder / "keys.csv"
        more = {"known_ratios": known, "identify": keys, "salt": salt} | options
        return measured(model, report, inputs, **more)[0]

    go(tmp_path / "whole")
    go(tmp_path / "out", stop_after=7)
    summary = go(tmp_path / "out", resume=True)
    assert summary
    assert summary.resumed >= 4
    assert summary.recovered == 9
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")
    known.write_text(known.read_text() + "\n")
    go(tmp_path / "again", stop_after=7)
    known.write_text(known.read_text().replace("0.02", "0.2"))
    summary = go(tmp_path / "again", resume=True)
    assert summary
    assert summary.resumed == 0


@pytest.mark.slow
def test_dicom_results_and_keys_survive_and_no_identity_is_in_the_journal(
    model: Path, tmp_path: Path
):
    inputs = tmp_path / "inputs"
    for series in range(6):
        for index in range(2):
            _write_dicom(
                inputs / f"{series}-{index}.dcm",
                picture(2 * series + index).astype(np.int16),
                SeriesInstanceUID=f"1.2.3.{series + 1}",
                SOPInstanceUID=f"1.2.3.{series + 1}.{index + 1}",
                ImagePositionPatient=[0.0, 0.0, 2.0 * index],
                PatientID=f"CANARY{series}",
            )
    salt = tmp_path / "salt"

    def go(folder: Path, **options) -> Summary | None:
        more: dict[str, Any] = {"seg": folder / "seg", "sr": folder / "sr"}
        more |= {"identify": folder / "keys.csv", "salt": salt, "real_identifiers": True} | options
        return measured(model, folder / "ratios.csv", inputs, **more)[0]

    go(tmp_path / "whole")
    go(tmp_path / "out", stop_after=9)
    journal = journal_path(tmp_path / "out" / "ratios.csv").read_bytes()
    assert b"1.2.3.1" in journal
    assert b"CANARY" not in journal
    summary = go(tmp_path / "out", resume=True)
    assert summary
    assert summary.resumed >= 2
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")
    assert b"CANARY0" in (tmp_path / "out" / "keys.csv").read_bytes()


def test_scans_in_an_archive_are_known_again(model: Path, inputs: Path, tmp_path: Path):
    folder = tmp_path / "archives"
    folder.mkdir()
    with zipfile.ZipFile(folder / "scans.zip", "w") as archive:
        for file in sorted(inputs.glob("*.png")):
            archive.write(file, file.name)
    report = tmp_path / "out" / "ratios.csv"
    measured(model, report, folder, stop_after=6)
    done = len(journal_path(report).read_bytes().splitlines()) - 1
    summary, _ = measured(model, report, folder, resume=True)
    assert summary
    assert summary.resumed == done >= 4
    measured(model, tmp_path / "whole" / "ratios.csv", folder)
    assert tables(report.parent) == tables(tmp_path / "whole")


def test_a_scan_that_failed_is_tried_again(
    model: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    report = tmp_path / "ratios.csv"
    measured(model, report, inputs, stop_after=9)
    monkeypatch.setattr("tests.serve.conftest.BROKEN_VALUE", -5.0)
    summary, _ = measured(model, report, inputs, resume=True)
    assert summary
    assert (summary.failed, summary.scans) == (0, SCANS + 1)


def test_a_journal_that_cannot_be_written_costs_no_measurement(
    model: Path,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log: pytest.LogCaptureFixture,
):
    measured(model, tmp_path / "whole" / "ratios.csv", inputs)
    append = Journal._append

    def full(self: Journal, key: str, value: object) -> None:
        if key != "run":
            raise OSError(28, "No space left on device")
        append(self, key, value)

    monkeypatch.setattr(Journal, "_append", full)
    measured(model, tmp_path / "out" / "ratios.csv", inputs)
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")
    assert log.text.count("No space left on device") == 1


def test_a_second_run_on_the_same_report_is_refused(model: Path, inputs: Path, tmp_path: Path):
    report = tmp_path / "ratios.csv"
    measured(model, report, inputs, stop_after=6)
    before = journal_path(report).read_bytes()
    for options in ({"resume": True}, {"overwrite": True}, {}):
        with lock_output(report, ""), pytest.raises(WssegError, match="another run is writing"):
            measured(model, report, inputs, **options)
    assert journal_path(report).read_bytes() == before
