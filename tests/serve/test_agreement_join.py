"""Which recorded ratio belongs to which image, and that no row is lost silently."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.serve.agreement import known, write_report
from wsseg.serve.agreement.compare import compare
from wsseg.serve.agreement.result import Agreement
from wsseg.serve.agreement.tables import AgreeOptions


def joined(folder: Path, table: str, report: Path, **options: object) -> Agreement:
    recorded = folder / "recorded.csv"
    recorded.write_text(table)
    return compare(report, recorded, AgreeOptions.model_validate(options))


def lines(found: Agreement) -> list[tuple[int, ...]]:
    """The lines of the recorded table in each pair."""
    return [pair.lines for pair in found.pairs]


@pytest.mark.parametrize("name", ["a/p1.png", "a\\p1.png", "p1.png", "p1"])
def test_a_source_may_lack_its_folder_and_with_it_its_ending(name, tmp_path):
    sources = ["a/p1.png", "a/p2.png", "b/p2.png"]
    report = write_report(tmp_path / "r.csv", {"lesion": [0.1, 0.2, 0.3]}, source=sources)
    found = joined(tmp_path, f"source,ratio\n{name},0.5\n", report)
    assert [pair.ratio for pair in found.pairs] == [0.1]


def test_a_path_may_have_more_folders_than_the_report_knows_unless_two_could_be_meant(tmp_path):
    report = write_report(tmp_path / "r.csv", {"roi": [0.1, 0.2]}, source=["p1.png", "b/p2.png"])
    table = "image,ratio:roi\n/data/p1.png,0.5\nC:\\data\\b\\p2.png,0.6\n/data/c/p2.png,0.7\n"
    found = joined(tmp_path, table, report)
    assert [(pair.ratio, *pair.readings) for pair in found.pairs] == [(0.1, 0.5), (0.2, 0.6)]
    found = joined(tmp_path, table + "/other/p1.png,0.8\n", report)
    assert [pair.readings for pair in found.pairs] == [(0.6,)]
    assert [row.line for row in found.unmatched if row.table == "recorded"] == [2, 4, 5]


def test_every_row_without_a_partner_is_listed_with_its_reason(tmp_path):
    report = write_report(
        tmp_path / "r.csv",
        {"lesion": [0.1, 0.2, 0.3, None, 0.5]},
        source=["a/p1.png", "a/p2.png", "b/p2.png", "p4.png", "p5.png"],
    )
    table = "source,ratio\np1.png,0.1\np2.png,0.2\ngone.png,0.3\np4.png,0.4\np5.png,\n,0.6\n"
    found = joined(tmp_path, table, report)
    assert lines(found) == [(2,)]
    listed = {(row.table, row.line): row.reason for row in found.unmatched}
    assert listed == {
        ("recorded", 3): "several_images",
        ("recorded", 4): "no_image",
        ("recorded", 5): "not_measured",
        ("recorded", 6): "no_ratio",
        ("recorded", 7): "no_key",
        ("measured", 3): "not_recorded",
        ("measured", 4): "not_recorded",
        ("measured", 5): "not_recorded",
        ("measured", 6): "not_recorded",
    }
    assert found.counts == Counter(listed.values())
    assert "1 recorded (several_images)" in found.text


def test_uids_find_an_image_before_its_source_and_a_slice_is_found_within_its_series(tmp_path):
    report = write_report(
        tmp_path / "r.csv",
        {"lesion": [0.1, 0.2, 0.3]},
        source=["a.dcm", "b.dcm", "c.dcm"],
        series_uid=["1.2", "1.2", "1.3"],
        instance_uid=["1.2.1", "1.2.2", "1.3.1"],
        slice=[0, 1, 0],
    )
    table = (
        "source,series_uid,instance_uid,slice,ratio\n"
        "moved.dcm,,1.3.1,,0.3\n,1.2,,1,0.2\na.dcm,,,,0.1\n"
    )
    found = joined(tmp_path, table, report)
    assert [(pair.ratio, *pair.readings) for pair in found.pairs] == [
        (0.1, 0.1),
        (0.2, 0.2),
        (0.3, 0.3),
    ]


def test_a_key_is_compared_with_the_named_column_of_the_report(tmp_path):
    report = write_report(
        tmp_path / "r.csv", {"lesion": [0.1, 0.2]}, study_uid=["1.5", "1.6"], modality=["US", "US"]
    )
    found = joined(tmp_path, "exam,ratio\n1.6,0.3\n", report, key="Exam=study_uid")
    assert [pair.ratio for pair in found.pairs] == [0.2]


def test_ratios_are_paired_by_their_names_in_columns_or_rows(tmp_path):
    measured = {"fat": [0.1, 0.2], "muscle": [0.3, 0.4]}
    report = write_report(tmp_path / "r.csv", measured)
    wide = joined(tmp_path, "source,ratio:muscle,ratio:fat\np00,0.3,0.1\np01,0.5,\n", report)
    long = joined(
        tmp_path,
        "source,ratio_name,ratio\np00,fat,0.1\np00,muscle,0.3\np01,muscle,0.5\np01,bone,0.5\n",
        report,
    )
    for found in (wide, long):
        pairs = [(pair.measured.ratio_name, pair.ratio, *pair.readings) for pair in found.pairs]
        assert pairs == [("fat", 0.1, 0.1), ("muscle", 0.3, 0.3), ("muscle", 0.4, 0.5)]
        assert [group.ratio_name for group in found.groups] == ["fat", "muscle"]
    assert long.counts == {"no_such_ratio": 1, "not_recorded": 1}


def test_several_rows_of_an_image_are_readings_and_give_their_repeatability(tmp_path):
    report = write_report(tmp_path / "r.csv", {"lesion": [0.1, 0.2, 0.3]})
    table = "source,ratio\np00,0.09\np01,0.2\np00,0.11\np02,0.3\np02,0.32\np01,0.21\n"
    found = joined(tmp_path, table, report)
    assert lines(found) == [(2, 4), (3, 7), (5, 6)]
    squares = np.square([0.02, 0.01, 0.02]) / 2
    expected = 1.959964 * np.sqrt(2 * squares.mean())
    value, low, high = known(found.figures()["repeatability_recorded"])
    assert value == pytest.approx(expected)
    assert low < value < high
    assert "3 images have several recorded readings" in found.text


def test_repeated_scans_give_the_repeatability_of_both(tmp_path):
    report = write_report(tmp_path / "r.csv", {"lesion": [0.1, 0.12, 0.3, 0.3, 0.5]})
    table = "source,phantom,ratio\np00,A,0.1\np01,A,0.1\np02,B,0.3\np03,B,0.33\np04,,0.5\n"
    found = joined(tmp_path, table, report, repeats="phantom").figures()
    assert known(found["repeatability_measured"])[0] == pytest.approx(
        1.96 * 0.02 / np.sqrt(2), 1e-3
    )
    assert known(found["repeatability_recorded"])[0] == pytest.approx(
        1.96 * 0.03 / np.sqrt(2), 1e-3
    )


def test_images_of_a_patient_or_else_of_a_study_are_not_independent(tmp_path):
    report = write_report(
        tmp_path / "r.csv",
        {"lesion": np.linspace(0.1, 0.2, 12).tolist()},
        study_uid=[f"1.{at // 3}" for at in range(12)],
        instance_uid=[f"1.2.{at}" for at in range(12)],
    )
    rows = [f"1.2.{at},P{at // 2},{0.1 + 0.01 * (at % 5):.3f}\n" for at in range(12)]
    named = joined(tmp_path, "instance_uid,patient,ratio\n" + "".join(rows), report)
    assert named.groups[0].pairs.patients == 6
    assert "told apart by the column patient" in named.text
    without = [row.replace(",P", ",note") for row in rows]
    unnamed = joined(tmp_path, "instance_uid,note,ratio\n" + "".join(without), report)
    assert unnamed.groups[0].pairs.patients == 4
    assert "No column names patients" in unnamed.text


def test_the_figures_of_a_group_are_those_of_a_table_with_this_group_alone(tmp_path):
    random = np.random.default_rng(1)
    report = write_report(tmp_path / "r.csv", {"lesion": random.uniform(0, 0.4, 30).tolist()})
    rows = [f"p{at:02},{'AB'[at % 2]},{random.uniform(0, 0.4)}\n" for at in range(30)]
    head = "source,Site,ratio\n"
    found = joined(tmp_path, head + "".join(rows), report, by=["site"])
    assert [(each.by, each.group, each.images) for each in found.groups] == [
        ("", "", 30),
        ("site", "A", 15),
        ("site", "B", 15),
    ]
    alone = joined(tmp_path, head + "".join(rows[1::2]), report)
    assert found.groups[2].figures == alone.groups[0].figures
