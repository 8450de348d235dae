"""Tables, goals and plot of rows whose figures are known."""

from dataclasses import replace

import pytest

from bench.speed.__main__ import SCENARIOS
from bench.speed.goals import GOALS, judged
from bench.speed.plots import served_batches, whole_commands
from bench.speed.report import write_report
from bench.speed.results import Place, Row, replace_rows

EAGER = "resnet50 eager PyTorch fp32"


def row(scenario, what, precision="fp32", size=256, batch=1, **figures):
    given = {"per_second": 1.0, "machine": "2 of 2 x made", "commit": "abc", "rounds": 3}
    return Row(scenario, what, precision, size, batch, **{**given, **figures})


ROWS = (
    row("engines", "resnet50 eager PyTorch", peer=EAGER, ratio=1.0, ratio_low=1.0, ratio_high=1.0),
    row("engines", "resnet50 openvino", "int8", peer=EAGER, ratio=7.9),
    row("engines", "resnet50 openvino", "int8", batch=8, peer=EAGER, ratio=9.0),
    row("engines", "resnet50 onnxruntime", "int8", peer=EAGER, ratio=4.9),
    row("engines", "mobilenet_v2 openvino", "int8", peer="resnet50 openvino int8", ratio=4.5),
    row("whole", "wsseg-infer", "int8", batch=8, peer="its engine alone int8", ratio=0.92),
    row("memory", "10 series", peer="10 series int8", ratio=1.0, peak_mb=900.0),
    row("memory", "1000 series", peer="10 series int8", ratio=1.04, peak_mb=1600.0),
    row("peers", "wsseg-infer", "int8", peer="nnU-Net 2-D fp32", ratio=60.0),
    row("peers", "wsseg-infer", "int8", peer="nnU-Net 2-D without mirroring fp32", ratio=14.0),
    row("peers", "nnU-Net 2-D", size=512, per_second=0.2, peak_mb=2000.0),
    row("peers", "nnU-Net 2-D: its network alone", size=512),
)


def test_each_goal_takes_the_figure_that_it_is_about():
    found = {goal.words: (value, goal.reached(value)) for goal, value in judged(ROWS)}
    assert found == {
        "best engine, one slice: speed over eager PyTorch in fp32": (7.9, True),
        "ONNX Runtime in INT8, one slice: speed over eager PyTorch in fp32": (4.9, False),
        "student, one slice: speed over ResNet-50 in INT8 by the same runtime": (4.5, True),
        "best engine, batches of 8: speed over eager PyTorch in fp32": (9.0, True),
        "whole command, time over its engine's alone": (pytest.approx(1 / 0.92), True),
        "size 256, speed over nnU-Net without mirroring": (14.0, False),
        "size 256, speed over nnU-Net": (60.0, True),
        "memory with most series over that with fewest": (1.04, True),
        "peak memory, MB": (1600.0, False),
    }
    assert judged([]) == []


def test_every_goal_has_words_of_its_own():
    assert len({goal.words for goal in GOALS}) == len(GOALS) == 13


def test_the_plot_shows_served_batches_of_the_smallest_size_and_each_program_once():
    others = [replace(ROWS[2], size=512), replace(ROWS[2], peer="resnet50 openvino int8")]
    assert served_batches([*ROWS, *others]) == [ROWS[2]]
    assert [row.what for row in whole_commands(ROWS)] == ["wsseg-infer", "nnU-Net 2-D"]


def test_the_report_has_goals_tables_and_plot_for_each_machine(tmp_path):
    for one in ROWS:
        kept = [r for r in ROWS if r.scenario == one.scenario]
        replace_rows(tmp_path, Place(one.scenario), kept, one.machine)
    card = replace(ROWS[0], machine="a card", peer="resnet50 at the card's matrix rate fp16")
    replace_rows(tmp_path, Place("engines"), [card], "a card")
    write_report(tmp_path, list(SCENARIOS.values()))
    first, second = (tmp_path / "speed.md").read_text(encoding="utf-8").split("## a card")
    assert "## 2 of 2 x made" in first
    assert "| size 256, speed over nnU-Net | at least 50 | 60 | yes |" in first
    assert "| peak memory, MB | at most 1500 | 1600 | no |" in first
    assert "| resnet50 openvino | int8 | 256 | 1 | 1 |" in first
    assert "### Memory" in first
    assert "### Goals" not in second
    assert (tmp_path / "speed.png").stat().st_size > 0


@pytest.mark.parametrize("scenario", ["start", "engines", "peers"])
def test_a_table_that_stands_alone_is_drawn_too(tmp_path, scenario):
    mine = row(scenario, "resnet50 openvino", batch=8, peer=EAGER, ratio=2.0)
    place = Place(scenario, mine.size, mine.batch) if scenario == "engines" else Place(scenario)
    replace_rows(tmp_path, place, [mine], mine.machine)
    write_report(tmp_path, list(SCENARIOS.values()))
    assert "resnet50 openvino" in (tmp_path / "speed.md").read_text()
    assert (tmp_path / "speed.png").exists() == (scenario != "start")


def test_without_rows_nothing_is_written(tmp_path):
    write_report(tmp_path, list(SCENARIOS.values()))
    assert list(tmp_path.iterdir()) == []
