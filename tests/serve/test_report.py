"""The report's three tables: the agreed columns, and all of them or none."""

from pathlib import Path

import pytest

from tests.serve.conftest import full_disk
from wsseg.imaging import AllFailedError, Failure
from wsseg.serve.report import SliceRow, columns, open_report, report_paths

CONTRACT = (
    *("source", "modality", "study_uid", "series_uid", "instance_uid", "frame", "slice", "plane"),
    *("ratio_name", "numerator", "denominator", "numerator_px", "denominator_px"),
    *("numerator_mm2", "denominator_mm2", "ratio", "ratio_low", "ratio_high", "confidence"),
    *("flags", "status", "model", "model_sha256", "engine", "precision", "wsseg_version"),
)


def test_columns_are_those_of_the_contract_in_their_order():
    assert tuple(columns(SliceRow)) == CONTRACT


def test_tables_lie_beside_each_other_in_one_format():
    names = [path.name for path in report_paths(Path("out/my.ratios.jsonl"))]
    assert names == ["my.ratios.jsonl", "my.ratios.series.jsonl", "my.ratios.failures.jsonl"]


def test_failures_are_written_with_status_and_reason(tmp_path: Path):
    with open_report(tmp_path / "new" / "ratios.csv") as report:
        report.fail(Failure("a.dcm", "truncated", "ends early"))
        report.fail(Failure("b.txt", "not_an_image", "is text", status="skipped"))
    assert (tmp_path / "new" / "ratios.failures.csv").read_text().splitlines() == [
        "source,status,reason,message",
        "a.dcm,failed,truncated,ends early",
        "b.txt,skipped,not_an_image,is text",
    ]


@pytest.mark.parametrize("cause", [KeyboardInterrupt, OSError, ValueError])
def test_a_run_that_ends_early_leaves_the_old_tables_and_nothing_else(tmp_path: Path, cause):
    path = tmp_path / "ratios.csv"
    for old in report_paths(path):
        old.write_text("an earlier run")
    with pytest.raises(cause):
        write_and_raise(path, cause)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "ratios.csv",
        "ratios.failures.csv",
        "ratios.series.csv",
    ]
    assert {file.read_text() for file in tmp_path.iterdir()} == {"an earlier run"}


def write_and_raise(path: Path, cause: type[BaseException]) -> None:
    with open_report(path) as report:
        report.fail(Failure("a", "b", "c"))
        raise cause


def test_nothing_appears_before_the_end(tmp_path: Path):
    path = tmp_path / "ratios.csv"
    with open_report(path):
        assert not any(file.exists() for file in report_paths(path))
    assert all(file.exists() for file in report_paths(path))


def test_a_report_that_cannot_take_its_place_is_told(tmp_path: Path):
    (tmp_path / "ratios.csv").mkdir()
    with (
        pytest.raises(AllFailedError, match=r"ratios\.csv could not be written"),
        open_report(tmp_path / "ratios.csv"),
    ):
        pass


def test_a_disk_that_fills_up_between_rows_is_told_and_leaves_nothing(tmp_path: Path):
    path = tmp_path / "ratios.csv"
    told = pytest.raises(AllFailedError, match=r"ratios\.csv could not be written")
    with full_disk(20_000), told:
        write_many(path)
    assert not list(tmp_path.iterdir())


def write_many(path: Path) -> None:
    with open_report(path) as report:
        for number in range(10_000):
            report.fail(Failure(f"{number}.dcm", "broken_header", "is damaged"))


def lock(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """A file that a spreadsheet has open can be neither replaced nor moved."""
    replace = Path.replace

    def unless_locked(source: Path, target: Path) -> Path:
        if path in (source, target):
            raise PermissionError(13, "in use")
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", unless_locked)


def test_tables_whose_place_is_taken_are_kept_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "ratios.csv"
    path.write_text("open in a spreadsheet")
    (tmp_path / "ratios.kept1.csv").write_text("of an earlier run")
    lock(monkeypatch, path)
    with (
        pytest.raises(AllFailedError, match=r"kept beside it as ratios\.kept2\.csv, ratios\.ser"),
        open_report(path) as report,
    ):
        report.fail(Failure("a", "b", "c"))
    assert path.read_text() == "open in a spreadsheet"
    assert (tmp_path / "ratios.kept2.csv").read_text().startswith("source,")
    assert (tmp_path / "ratios.failures.kept1.csv").read_text().endswith("a,failed,b,c\n")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "ratios.csv",
        "ratios.failures.kept1.csv",
        "ratios.kept1.csv",
        "ratios.kept2.csv",
        "ratios.series.kept1.csv",
    ]


@pytest.mark.parametrize("locked", [0, 1, 2])
def test_a_locked_table_leaves_all_old_ones_in_their_places_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: int
):
    targets = report_paths(tmp_path / "ratios.csv")
    for old in targets:
        old.write_text(f"the earlier {old.name}")
    lock(monkeypatch, targets[locked])
    with (
        pytest.raises(AllFailedError, match=rf"{targets[locked].name} could not be written"),
        open_report(targets[0]) as report,
    ):
        report.fail(Failure("a", "b", "c"))
    assert [old.read_text() for old in targets] == [f"the earlier {old.name}" for old in targets]
    kept = [tmp_path / f"{old.stem}.kept1.csv" for old in targets]
    assert [file.read_text().startswith(("source,", "series,")) for file in kept] == [True] * 3
    assert kept[2].read_text().endswith("a,failed,b,c\n")
    assert sorted(tmp_path.iterdir()) == sorted([*targets, *kept])


def test_a_table_without_an_earlier_one_is_taken_back_when_a_later_one_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, series, _ = report_paths(tmp_path / "ratios.csv")
    series.write_text("open in a spreadsheet")
    lock(monkeypatch, series)
    with pytest.raises(AllFailedError, match="could not be written"), open_report(path):
        pass
    assert not path.exists()
    assert series.read_text() == "open in a spreadsheet"
