"""Shards measure every scan once, and their joined tables are those of one run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.conftest import call
from tests.imaging.conftest import _write_dicom
from tests.serve.conftest import (
    BROKEN_VALUE,
    ThresholdEngine,
    picture,
    write_model,
    write_pictures,
    write_volume,
)
from wsseg.imaging import Failure, FileRef, ScanRef, WssegError, lock_output
from wsseg.serve import merge as merging
from wsseg.serve import report as reporting
from wsseg.serve.infer import Summary, infer
from wsseg.serve.journal import journal_path
from wsseg.serve.merge import merge
from wsseg.serve.options import InferOptions
from wsseg.serve.report import recovered_paths, report_paths
from wsseg.serve.shards import Division, shard_path


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Pictures, volumes, two DICOM series, and what fails or is skipped."""
    folder = tmp_path / "inputs"
    write_pictures(folder, 7)
    broken = np.stack([picture(15), picture(16)]).astype(np.float32)
    broken[0, 0, 0] = BROKEN_VALUE
    write_volume(folder / "003-broken.nii.gz", broken)
    times = np.stack([picture(seed).T for seed in range(4)], -1)[:, :, None]
    nib.save(nib.Nifti1Image(times, np.eye(4)), folder / "004-times.nii")
    nib.save(nib.Nifti1Image(times, np.eye(4)), folder / "cut.nii")
    whole = (folder / "cut.nii").read_bytes()
    (folder / "cut.nii").write_bytes(whole[:-10])
    (folder / "notes.txt").write_text("no image")
    for series in range(3):
        for index in range(2):
            _write_dicom(
                folder / f"dicom{index}" / f"{series}.dcm",
                picture(2 * series + index).astype(np.int16),
                SeriesInstanceUID=f"1.2.3.{series + 1}",
                SOPInstanceUID=f"1.2.3.{series + 1}.{index + 1}",
                ImagePositionPatient=[0.0, 0.0, 2.0 * index],
            )
    return folder


def measured(model: Path, report: Path, *inputs: Path, **options: Any) -> Summary:
    settings = InferOptions(model=model, report=report, **options)
    return infer(inputs, settings, engine=ThresholdEngine)


def measured_in(count: int, model: Path, folder: Path, inputs: Path, **options: Any) -> list[Path]:
    """The reports of all shards."""
    suffix = options.pop("suffix", ".csv")
    reports = [folder / f"{index}{suffix}" for index in range(1, count + 1)]
    for index, report in enumerate(reports, 1):
        measured(model, report, inputs, shard=f"{index}/{count}", **options)
    return reports


def content(report: Path) -> list[bytes]:
    return [table.read_bytes() for table in report_paths(report)]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("count", [1, 3, 30])
def test_joined_shards_are_byte_by_byte_the_report_of_one_run(
    model: Path,
    inputs: Path,
    tmp_path: Path,
    suffix: str,
    count: int,
    monkeypatch: pytest.MonkeyPatch,
):
    for module in (merging, reporting):
        monkeypatch.setattr(module, "PARQUET_ROWS", 5)
    whole = tmp_path / f"whole{suffix}"
    summary = measured(model, whole, inputs, masks=tmp_path / "whole")
    assert (summary.scans, summary.failed, summary.skipped) == (14, 2, 1)
    reports = measured_in(
        count, model, tmp_path / "shards", inputs, suffix=suffix, masks=tmp_path / "masks"
    )
    out = tmp_path / f"joined{suffix}"
    merge(reports[::-1], out)
    assert content(out) == content(whole)
    for folder in (tmp_path / "whole", tmp_path / "masks"):
        assert len(list(folder.iterdir())) == 16
    for mask in (tmp_path / "whole").iterdir():
        assert (tmp_path / "masks" / mask.name).read_bytes() == mask.read_bytes()


def items() -> st.SearchStrategy[list[ScanRef | Failure]]:
    """What may be found: scans of files that they may share, and files that are none."""
    files = st.integers(0, 12).map(lambda n: FileRef(Path(str(n)), f"{n}.dcm", ("1", str(n))))
    scans = st.builds(
        ScanRef,
        kind=st.just("dicom"),
        files=st.lists(files, min_size=1, max_size=3).map(tuple),
        decoded_bytes=st.integers(0, 1 << 40),
    )
    return st.lists(scans | files.map(lambda f: Failure(f.source, "not_image", "")), max_size=20)


@given(items(), st.integers(1, 7))
def test_a_division_has_everything_once_in_order_and_no_file_twice(
    found: list[ScanRef | Failure], count: int
):
    parts = [Division.of(found, (index, count)) for index in range(1, count + 1)]
    assert [item for part in parts for item in part.mine] == found
    assert len({part.inputs for part in parts}) == 1
    owners: dict[str, int] = {}
    for number, part in enumerate(parts):
        for item in part.mine:
            names = [item.source] if isinstance(item, Failure) else [f.source for f in item.files]
            assert {owners.setdefault(name, number) for name in names} == {number}


def test_shards_have_about_equal_work():
    sizes = [5, 1, 3, 2, 8, 1, 1, 7, 4, 4, 2, 6, 3, 1, 5, 2] * 10
    found = [
        ScanRef("dicom", (FileRef(Path(str(n)), str(n)),), decoded_bytes=size << 20)
        for n, size in enumerate(sizes)
    ]
    for index in range(1, 9):
        mine = Division.of(found, (index, 8)).mine
        size = sum(item.decoded_bytes for item in mine if isinstance(item, ScanRef))
        assert abs(size / (sum(sizes) << 20) - 1 / 8) < 0.01


def _leave_out(reports: list[Path], model: Path, inputs: Path) -> None:
    reports.pop()


def _double(reports: list[Path], model: Path, inputs: Path) -> None:
    for path in (*report_paths(reports[0]), shard_path(reports[0])):
        (path.parent / "copy").mkdir(exist_ok=True)
        (path.parent / "copy" / path.name).write_bytes(path.read_bytes())
    reports.append(reports[0].parent / "copy" / reports[0].name)


def _name_twice(reports: list[Path], model: Path, inputs: Path) -> None:
    reports.append(reports[0])


def _leave_unfinished(reports: list[Path], model: Path, inputs: Path) -> None:
    journal_path(reports[1]).write_bytes(b"")


def _other_division(reports: list[Path], model: Path, inputs: Path) -> None:
    measured(model, reports[1], inputs, shard=(2, 4), overwrite=True)


def _other_settings(reports: list[Path], model: Path, inputs: Path) -> None:
    measured(model, reports[1], inputs, shard=(2, 3), overwrite=True, skip=False)


def _other_inputs(reports: list[Path], model: Path, inputs: Path) -> None:
    write_pictures(inputs / "more", 1)
    measured(model, reports[1], inputs, shard=(2, 3), overwrite=True)


def _edited(reports: list[Path], model: Path, inputs: Path) -> None:
    table = report_paths(reports[1])[1]
    table.write_bytes(table.read_bytes().replace(b"bright", b"BRIGHT", 1))


def _whole_run(reports: list[Path], model: Path, inputs: Path) -> None:
    measured(model, reports[1], inputs, overwrite=True)


def _torn_record(reports: list[Path], model: Path, inputs: Path) -> None:
    shard_path(reports[1]).write_bytes(shard_path(reports[1]).read_bytes()[:-20])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_leave_out, "of 3 shards, these are missing: 3"),
        (_double, "both shard 1 of 3"),
        (_name_twice, "named twice"),
        (_leave_unfinished, "did not end.*--resume"),
        (_other_division, "one of 3 shards, and .* one of 4"),
        (_other_settings, r"different settings \(skip\)"),
        (_other_inputs, r"different inputs \(\d+ and \d+"),
        (_edited, r"2\.series\.csv was changed after.*shard 2/3 again"),
        (_whole_run, "is of a shard, and .* is not"),
        (_torn_record, "no record of a shard"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(
    spoil: Callable[..., None], said: str, model: Path, tmp_path: Path
):
    inputs = write_pictures(tmp_path / "inputs", 5)
    reports = measured_in(3, model, tmp_path / "shards", inputs)
    spoil(reports, model, inputs)
    with pytest.raises(WssegError, match=said) as caught:
        merge(reports, tmp_path / "joined.csv")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("joined*"))


def test_a_copy_of_the_inputs_elsewhere_is_the_same_inputs(model: Path, tmp_path: Path):
    first, second = (write_pictures(tmp_path / name / "scans", 4) for name in "ab")
    for path in second.iterdir():
        path.touch()
    reports = [tmp_path / "1.csv", tmp_path / "2.csv"]
    for index, inputs in enumerate((first, second), 1):
        measured(model, reports[index - 1], inputs, shard=(index, 2))
    merge(reports, tmp_path / "joined.csv")
    measured(model, tmp_path / "whole.csv", first)
    assert content(tmp_path / "joined.csv") == content(tmp_path / "whole.csv")


def test_a_shard_that_was_interrupted_goes_on_and_is_joined(model: Path, tmp_path: Path):
    inputs = write_pictures(tmp_path / "inputs", 8)

    def stop(done: int, *_: float) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    settings = InferOptions(
        model=model, report=tmp_path / "2.csv", shard=(2, 2), batch=1, read_ahead=1, readers=1
    )
    with pytest.raises(KeyboardInterrupt):
        infer([inputs], settings, engine=ThresholdEngine, on_progress=stop)
    measured(model, tmp_path / "1.csv", inputs, shard=(1, 2), batch=1)
    again = settings.model_copy(update={"resume": True})
    assert infer([inputs], again, engine=ThresholdEngine).resumed
    merge([tmp_path / "1.csv", tmp_path / "2.csv"], tmp_path / "joined.csv")
    measured(model, tmp_path / "whole.csv", inputs, batch=1)
    assert content(tmp_path / "joined.csv") == content(tmp_path / "whole.csv")


def test_shards_write_one_folder_at_once_and_a_whole_run_does_not(model: Path, tmp_path: Path):
    inputs, masks = write_pictures(tmp_path / "inputs", 4), tmp_path / "masks"
    with lock_output(masks, "busy", shared=True):
        measured(model, tmp_path / "1.csv", inputs, shard=(1, 2), masks=masks)
        with pytest.raises(WssegError, match="another run is writing"):
            measured(model, tmp_path / "whole.csv", inputs, masks=masks)
    assert not list(tmp_path.glob(".lock-*"))
    with lock_output(masks, "busy"), pytest.raises(WssegError, match="another run is writing"):
        measured(model, tmp_path / "2.csv", inputs, shard=(2, 2), masks=masks)


@pytest.mark.parametrize("name", ["known_ratios", "reference", "previous"])
def test_what_needs_all_scans_is_refused_with_a_shard(model: Path, tmp_path: Path, name: str):
    inputs = write_pictures(tmp_path / "inputs", 2)
    table = tmp_path / "table.csv"
    given: Any = (table,) if name == "previous" else table
    with pytest.raises(WssegError, match=f"--{name.replace('_', '-')} needs all scans"):
        measured(model, tmp_path / "1.csv", inputs, shard=(1, 2), **{name: given})


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_reports_of_different_inputs_are_joined_in_the_order_given(
    model: Path, tmp_path: Path, suffix: str
):
    reports = []
    for name, count in (("b", 2), ("a", 3)):
        inputs = tmp_path / f"site-{name}"
        write_pictures(inputs / name, count)
        (inputs / name / "notes.txt").write_text("no image")
        reports.append(tmp_path / name / f"ratios{suffix}")
        measured(model, reports[-1], inputs)
    out = tmp_path / f"all{suffix}"
    merge(reports, out)
    rows = [list(merging._ROWS[suffix](table)) for table in report_paths(out)]
    parts = [[list(merging._ROWS[suffix](t)) for t in report_paths(r)] for r in reports]
    assert rows == [first + second for first, second in zip(*parts, strict=True)]
    assert [row["source"][0] for row in rows[1][::3]] == ["b", "b", "a", "a", "a"]
    with pytest.raises(WssegError, match="is there already"):
        merge(reports, out)
    merge(reports[:1], out, overwrite=True)
    assert len(list(merging._ROWS[suffix](out))) == len(parts[0][0])


def test_recovered_masks_are_joined_too(model: Path, tmp_path: Path):
    reports = []
    for name in "ab":
        inputs = tmp_path / name
        write_pictures(inputs / name, 2)
        known = tmp_path / f"{name}.csv"
        known.write_text(f"source,ratio,ratio_name\n{name}/001.png,0.1,bright\n")
        reports.append(tmp_path / "reports" / f"{name}.csv")
        measured(model, reports[-1], inputs, known_ratios=known)
    merge(reports, tmp_path / "all.csv")
    lines = [recovered_paths(report)[0].read_bytes().splitlines() for report in reports]
    joined = recovered_paths(tmp_path / "all.csv")[0].read_bytes().splitlines()
    assert joined == lines[0] + lines[1][1:]
    recovered_paths(reports[1])[0].unlink()
    with pytest.raises(WssegError, match="table of recovered masks"):
        merge(reports, tmp_path / "other.csv")


def test_a_series_in_two_reports_is_refused_wherever_its_files_lie(model: Path, tmp_path: Path):
    reports = []
    for name in "ab":
        _write_dicom(tmp_path / name / f"{name}.dcm", picture(1).astype(np.int16))
        reports.append(tmp_path / f"{name}.csv")
        measured(model, reports[-1], tmp_path / name)
    with pytest.raises(WssegError, match=r"a\.csv and .*b\.csv both have the scan b\.dcm"):
        merge(reports, tmp_path / "all.csv")


def test_reports_of_different_models_are_refused(model: Path, tmp_path: Path):
    other = write_model(tmp_path / "other", name="another")
    reports = []
    for name, used in (("a", model), ("b", other)):
        write_pictures(tmp_path / "inputs" / name, 1).joinpath("000.png").rename(
            tmp_path / "inputs" / name / f"{name}.png"
        )
        reports.append(tmp_path / f"{name}.csv")
        measured(used, reports[-1], tmp_path / "inputs" / name)
    with pytest.raises(WssegError, match=r"different models \(threshold, .* and another"):
        merge(reports, tmp_path / "all.csv")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_is_no_report_is_told_in_one_line(model: Path, tmp_path: Path, suffix: str):
    report = tmp_path / f"a{suffix}"
    measured(model, report, write_pictures(tmp_path / "inputs", 1))
    with pytest.raises(WssegError, match="is missing"):
        merge([tmp_path / f"none{suffix}"], tmp_path / f"all{suffix}")
    for table in report_paths(report):
        before = table.read_bytes()
        table.write_bytes(b"\xff\0\n" + before[9:40])
        with pytest.raises(WssegError, match=r"cannot be read|different columns"):
            merge([report], tmp_path / f"all{suffix}")
        table.write_bytes(before)


def test_a_whole_run_over_a_shards_report_is_no_shard(model: Path, tmp_path: Path):
    inputs, report = write_pictures(tmp_path / "inputs", 2), tmp_path / "ratios.csv"
    measured(model, report, inputs, shard=(1, 2))
    assert json.loads(shard_path(report).read_text())["shard"] == 1
    measured(model, report, inputs, overwrite=True)
    assert not shard_path(report).exists()


def test_the_commands_measure_shards_and_join_them(model: Path, tmp_path: Path):
    inputs = write_pictures(tmp_path / "inputs", 3)
    for index in (1, 2):
        call(
            "infer", inputs, "--model", model, "--report", tmp_path / f"{index}.csv",
            "--shard", f"{index}/2",
        )  # fmt: skip
    said = call("merge", tmp_path / "1.csv", tmp_path / "2.csv", "--out", tmp_path / "all.csv")
    assert "joined 2 shards" in said
    for wrong in ("3/2", "0/2", "1", "x/y"):
        said = call(
            "infer", inputs, "--model", model, "--report", tmp_path / "3.csv", "--shard", wrong,
            code=2,
        )  # fmt: skip
        assert said.startswith("error: options: shard")
