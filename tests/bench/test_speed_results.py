"""Rows of speed.csv: whole, resumed by place and machine, one for each peer."""

from dataclasses import replace

import pytest

from bench.speed.results import Place, Row, is_done, read_rows, replace_rows

ROW = Row(
    scenario="engines",
    what="resnet50 onnxruntime",
    precision="fp32",
    size=256,
    batch=1,
    per_second=2.5,
    peer="resnet50 eager PyTorch fp32",
    ratio=1.75,
    ratio_low=1.5,
    ratio_high=2.0,
    peak_mb=512.0,
    rounds=5,
    machine="A",
    commit="abc",
)
PLACE = Place("engines", 256, 1)


def test_a_row_is_read_back_as_it_was_written(tmp_path):
    bare = replace(ROW, peer="", ratio=None, ratio_low=None, ratio_high=None, peak_mb=None)
    replace_rows(tmp_path, PLACE, [ROW, bare], "A")
    assert read_rows(tmp_path) == [ROW, bare]


def test_measuring_again_replaces_the_rows_of_this_place_and_machine_only(tmp_path):
    others = [replace(ROW, size=512), replace(ROW, batch=8), replace(ROW, scenario="training")]
    for row in [ROW, *others]:
        replace_rows(tmp_path, Place(row.scenario, row.size, row.batch), [row], "A")
    replace_rows(tmp_path, PLACE, [replace(ROW, machine="B")], "B")
    again = replace(ROW, per_second=3.0)
    replace_rows(tmp_path, PLACE, [again], "A")
    assert read_rows(tmp_path) == [*others, replace(ROW, machine="B"), again]


@pytest.mark.parametrize(
    ("place", "machine", "done"),
    [
        (PLACE, "A", True),
        (PLACE, "B", False),
        (Place("engines", 256, 8), "A", False),
        (Place("engines", 512, 1), "A", False),
        (Place("engines"), "A", True),
        (Place("whole"), "A", False),
    ],
)
def test_a_rerun_passes_over_what_this_machine_has_rows_of(place, machine, done):
    assert is_done(place, [ROW], machine) == done


def test_without_a_table_nothing_is_done(tmp_path):
    assert read_rows(tmp_path) == []
