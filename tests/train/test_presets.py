"""Every preset trains on a table that has its signals, by the front door."""

import csv
import math

import pytest

from tests.train.conftest import curve_of
from wsseg.train.config import PRESETS, SelfTraining, TrainConfig
from wsseg.train.trainer import train

SIGNALS = {
    "wsseg": "ratio,marks",
    "paper": "ratio,marks",
    "paper-size-only": "ratio",
    "paper-mark-only": "marks",
    "size-bounds": "ratio,marks",
    "log-barrier": "ratio,marks",
    "area-l2": "ratio,present",
    "prior-kl": "ratio,marks",
    "source-free": "ratio",
    "tags": "present",
    "boxes": "box",
    "moments": "ratio,centroid,spread",
    "scribbles": "marks",
    "full": "mask",
}

CONFIG = TrainConfig(
    network="mobilenet_v2", size=32, epochs=1, batch=2, precision="fp32", accelerator="cpu"
)


pytestmark = pytest.mark.usefixtures("quick")


def test_every_preset_is_tried():
    assert SIGNALS.keys() == PRESETS.keys()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_trains_on_a_table_with_its_signals(preset, make_blobs, tmp_path, caplog):
    cases = make_blobs(tmp_path, 3, 1, SIGNALS[preset])  # one step
    record = train(cases, tmp_path / "run", CONFIG.model_copy(update={"preset": preset}))
    assert record.preset == preset
    assert "no training case has labels" not in caplog.text
    (row,) = curve_of(tmp_path / "run")
    parts = [row[term.kind] for term in PRESETS[preset]]
    assert all(math.isfinite(part) for part in parts)
    assert sum(parts) == pytest.approx(row["total"], rel=1e-5)
    assert row["total"] != 0


def _tag_absent(cases):
    """The table, with the last case tagged as without the class."""
    with cases.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    rows[-1][rows[0].index("present")] = "0"
    with cases.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def test_one_table_of_every_signal_trains(make_blobs, tmp_path, caplog):
    known = ["mask", "ratio", "marks", "mask", "box", "present", "ratio,marks", "present"]
    cases = make_blobs(tmp_path, 8, 1, "ratio,marks,mask,box,present", known)
    _tag_absent(cases)
    rounds = SelfTraining(rounds=2, start=0.3, end=0.6)
    config = CONFIG.model_copy(update={"preset": "wsseg", "epochs": 3, "self_training": rounds})
    record = train(cases, tmp_path / "run", config)
    assert record.chosen_by == "mask"
    assert math.isfinite(record.metrics["iou"])
    assert "no training case has labels" not in caplog.text
    rows = curve_of(tmp_path / "run")
    assert len(rows) == 3
    for row in rows:
        assert all(math.isfinite(row[term.kind]) for term in PRESETS["wsseg"])
        assert row["target_cross_entropy"] > 0
        assert row["target_dice"] > 0
