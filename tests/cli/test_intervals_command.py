"""Cases kept aside in training become intervals of the measured ratios, command by command."""

import csv

import pytest

from tests.cli.conftest import call, write_outlined

pytestmark = pytest.mark.slow


def test_cases_kept_aside_in_training_become_intervals_in_the_report(tmp_path):
    outlined = write_outlined(tmp_path, 24)
    call("marks", outlined, "--out", tmp_path / "cases", "--percent", 8)
    cases, run, model = tmp_path / "cases" / "cases.csv", tmp_path / "run", tmp_path / "model"
    learn = (
        "train", cases, "--out", run, "--network", "mobilenet_v2", "--size", 32, "--epochs", 1,
        "--batch", 4, "--accelerator", "cpu", "--precision", "fp32",
    )  # fmt: skip
    call(*learn, "--calibrate", 0.6)
    printed = call("export", run, "--out", model, "--precision", "fp32")
    assert "intervals of roi: 11 cases of 11 groups" in printed
    scan = tmp_path / "image0.png"
    report = tmp_path / "ratios.csv"
    infer = ("infer", scan, "--model", model, "--report", report, "--overwrite")
    call(*infer, "--coverage", 0.8)
    with report.open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["ratio_low"]) <= float(row["ratio"]) <= float(row["ratio_high"])
    call(*infer, "--coverage", 0.99, code=2)
    call(*infer, "--coverage", 90, code=2)
    # All of the table was learnt but for the cases that were kept aside.
    ask = ("export", run, "--out", model, "--precision", "fp32", "--overwrite")
    again = call(*ask, "--calibrate", cases)
    assert "intervals of roi: 11 cases of 11 groups" in again


def test_a_share_that_keeps_too_few_patients_stops_before_training(tmp_path):
    outlined = write_outlined(tmp_path, 8)
    call("marks", outlined, "--out", tmp_path / "cases", "--percent", 8)
    cases, run = tmp_path / "cases" / "cases.csv", tmp_path / "run"
    call("train", cases, "--out", run, "--calibrate", 0.5, code=2)
    assert not (run / "weights.safetensors").exists()


def test_a_model_without_intervals_is_not_asked_for_them(job, tmp_path):
    report = tmp_path / "ratios.csv"
    infer = ("infer", job / "image0.png", "--model", job / "model", "--report", report)
    call(*infer, "--coverage", 0.9, code=2)
    assert not report.exists()
    call(*infer)
    with report.open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["ratio_low"], row["ratio_high"], row["confidence"]) == ("", "", "")
