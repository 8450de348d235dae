"""Cases that are kept aside for intervals: whole groups, never used, and read again."""

import csv
import hashlib

import numpy as np
import pytest
from PIL import Image

from tests.train.conftest import CONFIG, one_thread, picture
from wsseg.imaging import RatioDefinition, WssegError
from wsseg.imaging.tables import TableError, TableOptions
from wsseg.serve.intervals import DEFAULT_COVERAGE, groups_needed
from wsseg.train.cases import (
    FEWEST_GROUPS,
    RECORDED,
    fold_of,
    read_cases,
    read_recorded,
    write_recorded,
)
from wsseg.train.cases.recorded import keep_aside, require_enough
from wsseg.train.trainer import train

READ = TableOptions()


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def rows(tmp_path):
    """Forty pictures of twenty patients."""
    for number in range(40):
        picture(tmp_path / f"{number}.png", 100 + number)
    return [
        {"image": f"{number}.png", "group": f"p{number // 2}", "ratio": 0.1 + number / 1000}
        for number in range(40)
    ]


def test_whole_groups_are_kept_aside_and_the_validation_cases_stay(rows, tmp_path):
    table = read_cases(write(tmp_path / "cases.csv", rows))
    aside = keep_aside(table, 0.6, seed=0)
    kept = {case.group for case in aside.part("calibrate")}
    assert len(kept) == round(0.6 * len({case.group for case in table.part("train")}))
    assert len(aside.part("calibrate")) == 2 * len(kept)
    assert kept.isdisjoint({case.group for case in aside.part("train")})
    assert aside.part("val") == table.part("val")
    assert keep_aside(table, 0.6, seed=0).cases == aside.cases
    assert keep_aside(table, 0.6, seed=1).cases != aside.cases


def test_groups_without_a_ratio_are_left_to_training(rows, tmp_path):
    for row in rows[:8]:
        row |= {"ratio": "", "present": "1"}
    for row in rows[8:]:
        row["present"] = ""
    table = read_cases(write(tmp_path / "cases.csv", rows))
    aside = keep_aside(table, 0.8, seed=0)
    assert all(case.ratios[0] is not None for case in aside.part("calibrate"))


def test_as_many_groups_are_asked_for_as_the_default_coverage_takes():
    assert groups_needed(DEFAULT_COVERAGE) == FEWEST_GROUPS


def test_too_small_a_share_is_refused_with_one_that_is_enough(rows, tmp_path):
    table = read_cases(write(tmp_path / "cases.csv", rows))
    with pytest.raises(WssegError) as error:
        keep_aside(table, 0.15, seed=0)
    assert str(error.value) == (
        "--calibrate 0.15 keeps 3 of the 17 training groups (patients) with a recorded ratio, and "
        "intervals take at least 9: give 0.53 or more"
    )
    assert keep_aside(table, 0.53, seed=0).part("calibrate")


def test_the_column_split_may_keep_cases_aside(rows, tmp_path):
    for number, row in enumerate(rows):
        row["split"] = ("train", "calibrate")[number // 20]
    table = read_cases(write(tmp_path / "cases.csv", rows))
    require_enough(table)
    with pytest.raises(WssegError, match="keeps 20 cases aside for it already"):
        keep_aside(table, 0.5, seed=0)
    for row in rows[24:]:
        row["split"] = "train"
    with pytest.raises(WssegError, match=r"keeps 2 groups .* aside .* take at least 9"):
        require_enough(read_cases(write(tmp_path / "cases.csv", rows)))


def test_cases_that_are_kept_aside_are_in_no_fold(rows, tmp_path):
    aside = keep_aside(read_cases(write(tmp_path / "cases.csv", rows)), 0.6, seed=0)
    for fold in (1, 2):
        assert fold_of(aside, fold, 2, seed=0).part("calibrate") == aside.part("calibrate")


def test_cases_that_are_kept_aside_are_read_again(rows, tmp_path):
    aside = keep_aside(read_cases(write(tmp_path / "cases.csv", rows)), 0.6, seed=0)
    (tmp_path / "run").mkdir()
    write_recorded(aside, tmp_path / "run" / "calibration.csv")
    again = read_recorded(tmp_path / "run" / "calibration.csv", ("roi",), (), READ)
    kept = aside.part("calibrate")
    assert [case.ratios for case in again.cases] == [case.ratios for case in kept]
    assert [case.group for case in again.cases] == [case.group for case in kept]
    for case, other in zip(again.cases, kept, strict=True):
        assert case.image.samefile(other.image)


def test_a_table_that_keeps_nothing_aside_writes_no_file(rows, tmp_path):
    write_recorded(read_cases(write(tmp_path / "cases.csv", rows)), tmp_path / "calibration.csv")
    assert not (tmp_path / "calibration.csv").exists()


def test_percent_and_areas_are_ratios_here_too(rows, tmp_path):
    for row in rows:
        row["ratio_percent"] = 100 * row.pop("ratio")
    found = read_recorded(write(tmp_path / "percent.csv", rows), ("roi",), (), READ)
    assert list(found.cases[0].ratios) == pytest.approx([0.1])
    for row in rows:
        row.pop("ratio_percent")
        row["area_px"] = 8
    found = read_recorded(write(tmp_path / "area.csv", rows), ("roi",), (), READ)
    assert found.cases[0].ratios == (0.1,)


def test_all_faults_of_the_table_are_reported_at_once(rows, tmp_path):
    rows[0]["image"] = "missing.png"
    rows[2]["image"] = "1.png"
    rows[3]["image"] = ""
    rows[4]["ratio"] = 7
    table = write(tmp_path / "cases.csv", rows)
    with pytest.raises(TableError) as error:
        read_recorded(table, ("roi",), (), READ)
    for text in ("no file missing.png", "same image and slice as line 3", "image: empty", "ratio"):
        assert text in str(error.value)


def test_rows_without_a_ratio_are_counted_and_a_table_without_any_is_refused(rows, tmp_path):
    for row in rows[:3]:
        row["ratio"] = ""
    found = read_recorded(write(tmp_path / "cases.csv", rows), ("roi",), (), READ)
    assert (found.without_ratio, len(found.cases)) == (3, 37)
    for row in rows:
        row["ratio"] = ""
    with pytest.raises(TableError, match="no row records a ratio"):
        read_recorded(write(tmp_path / "cases.csv", rows), ("roi",), (), READ)


def test_a_table_without_groups_is_doubted(rows, tmp_path):
    for row in rows:
        row["group"] = ""
    found = read_recorded(write(tmp_path / "cases.csv", rows), ("roi",), (), READ)
    assert any("each file counts as a patient" in doubt for doubt in found.doubts)


def test_a_ratio_to_another_class_may_be_above_one(rows, tmp_path):
    for row in rows:
        row |= {"ratio:fat": 1.5, "ratio:muscle": 0.2}
        del row["ratio"]
    table = write(tmp_path / "cases.csv", rows)
    to_muscle = (RatioDefinition(name="fat", numerator="fat", denominator="muscle"),)
    found = read_recorded(table, ("fat", "muscle"), to_muscle, READ)
    assert found.cases[0].ratios == (1.5, 0.2)
    with pytest.raises(TableError):
        read_recorded(table, ("fat", "muscle"), (), READ)


def test_a_run_learns_nothing_from_cases_that_are_kept_aside(make_blobs, tmp_path, quick):
    cases = make_blobs(tmp_path, 17, 2)
    text = cases.read_text().splitlines()
    head, aside = text[:7], [line.replace(",train,", ",calibrate,") for line in text[7:]]
    cases.write_text("\n".join([*head, *aside]) + "\n")
    config = CONFIG.model_copy(update={"epochs": 1})
    with one_thread():
        train(cases, tmp_path / "one", config)
        for number in range(6, 17):
            path = tmp_path / f"i{number}.png"
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
        train(cases, tmp_path / "two", config)
    for name in ("weights.safetensors", "run.json", "predictions.csv", "samples.npz"):
        first, second = (tmp_path / run / name for run in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()
    with (tmp_path / "two" / RECORDED).open(newline="", encoding="utf-8") as file:
        kept = list(csv.DictReader(file))
    assert [row["image"] for row in kept] == [f"../i{number}.png" for number in range(6, 17)]
    with (tmp_path / "two" / "splits.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            content = (tmp_path / row["image"]).read_bytes()
            assert row["image_sha256"] == hashlib.sha256(content).hexdigest()
