"""metrics.csv and TensorBoard events."""

import csv
import re

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wsseg.train.progress import Events, write_metrics

HISTORY = [
    {"epoch": 1, "learning_rate": 0.1, "seconds": 2.0, "size": 0.5, "total": 0.5},
    {
        "epoch": 2,
        "learning_rate": 0.05,
        "seconds": 2.0,
        "size": 0.25,
        "total": 0.25,
        "val_iou": 1.0,
    },
]


def test_the_table_has_a_row_an_epoch_and_leaves_unknown_figures_empty(tmp_path):
    write_metrics(HISTORY, tmp_path / "metrics.csv")
    with (tmp_path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "learning_rate", "size", "total", "val_iou", "seconds"]
    assert [row["val_iou"] for row in rows] == ["", "1.0"]
    assert [row["epoch"] for row in rows] == ["1", "2"]


def test_events_hold_each_figure_under_its_tag(tmp_path):
    events = Events(tmp_path, first=1)
    for row in HISTORY:
        events.add(row)
    events.close()
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"events\.out\.tfevents\.\d{20}", file.name)  # no machine's name
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(point.step, point.value) for point in read.Scalars("train/size")] == [
        (1, 0.5),
        (2, 0.25),
    ]
    assert [point.step for point in read.Scalars("val/iou")] == [2]
    assert len(read.Scalars("run/learning_rate")) == 2


def test_a_resumed_run_hides_the_points_it_writes_again(tmp_path):
    for first in (1, 2):
        events = Events(tmp_path, first=first)
        for row in HISTORY[first - 1 :]:
            events.add(row)
        events.close()
    points = EventAccumulator(str(tmp_path)).Reload().Scalars("train/size")
    assert [point.step for point in points] == [1, 2]
