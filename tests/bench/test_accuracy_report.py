"""The tables and plots of runs whose figures are known."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.accuracy.analysis import Figures, Section, figures, sections
from bench.accuracy.goals import judged
from bench.accuracy.jobs import Job
from bench.accuracy.report import write_report
from bench.accuracy.results import ImageScore, add_row, read_rows, write_images
from tests.bench.test_accuracy_runs import row_of
from wsseg.imaging import WssegError

JOB = Job("busi", "full", "mobilenet_v2", 128, 0, 0, 30)


def finish(out: Path, job: Job, ious: list[float], *, shown: bool = True) -> None:
    """A run whose images, of one group each, have these IoU."""
    scores = [ImageScore(n, n, 1, 0.1 if shown else 0.0, 0.1, iou) for n, iou in enumerate(ious)]
    write_images(out, job, scores)
    add_row(out, row_of(job, iou=sum(ious) / len(ious)))


def measured(out: Path) -> dict[str, Figures]:
    ((_, runs),) = sections(read_rows(out)).items()
    return {arm.arm: arm for arm in figures(out, runs)}


def test_an_arm_is_measured_against_full_supervision_on_the_same_images(tmp_path):
    finish(tmp_path, JOB, [0.8, 0.6, 0.4])
    finish(tmp_path, replace(JOB, arm="wsseg-8"), [0.4, 0.3, 0.2])
    arm = measured(tmp_path)["wsseg-8"]
    assert arm.iou == pytest.approx(0.3)
    assert arm.of_full == pytest.approx(0.5)
    # Every image is at half, so the share is sure although the IoU is not.
    assert arm.of_full_interval == pytest.approx((0.5, 0.5))
    assert arm.interval[0] < 0.25 < 0.35 < arm.interval[1]


def test_seeds_are_averaged_and_their_deviation_told(tmp_path):
    finish(tmp_path, JOB, [0.8, 0.6])
    finish(tmp_path, replace(JOB, seed=1), [0.6, 0.4])
    arm = measured(tmp_path)["full"]
    assert arm.runs == 2
    assert arm.iou == pytest.approx(0.6)
    assert arm.deviation == pytest.approx(0.2 / 2**0.5)


def test_the_share_of_full_supervision_takes_the_folds_that_both_have(tmp_path):
    finish(tmp_path, JOB, [0.5, 0.5])
    finish(tmp_path, replace(JOB, arm="wsseg-8"), [0.5, 0.5])
    finish(tmp_path, replace(JOB, arm="wsseg-8", fold=1), [0.1, 0.1])
    arm = measured(tmp_path)["wsseg-8"]
    assert arm.iou == pytest.approx(0.3)
    assert arm.of_full == pytest.approx(1.0)


def test_images_without_the_class_do_not_count_as_well_outlined(tmp_path):
    scores = [ImageScore(0, 0, 1, 0.1, 0.1, 0.4), ImageScore(1, 0, 1, 0.0, 0.0, 1.0)]
    write_images(tmp_path, JOB, scores)
    add_row(tmp_path, row_of(JOB))
    assert measured(tmp_path)["full"].iou == pytest.approx(0.4)


def test_runs_of_another_budget_are_another_table(tmp_path):
    finish(tmp_path, JOB, [0.5])
    finish(tmp_path, replace(JOB, epochs=60), [0.6])
    assert [section.epochs for section in sections(read_rows(tmp_path))] == [30, 60]


def test_a_goal_is_met_from_its_bound_on(tmp_path):
    finish(tmp_path, JOB, [0.5, 0.5])
    finish(tmp_path, replace(JOB, arm="wsseg-8"), [0.5, 0.5])
    finish(tmp_path, replace(JOB, arm="wsseg-4"), [0.4, 0.4])
    section = Section("busi", "mobilenet_v2", 128, 30)
    found = {
        (goal.arm, goal.measure.__name__): goal.reached(value)
        for goal, value in judged(section, list(measured(tmp_path).values()))
    }
    assert found == {
        ("wsseg-8", "of_full"): True,
        ("wsseg-4", "of_full"): False,
        ("wsseg-8", "ratio_error_of_full"): True,
    }


def test_the_report_has_a_row_for_every_arm_and_both_plots(tmp_path):
    finish(tmp_path, JOB, [0.5, 0.7])
    for arm in ("wsseg-8", "wsseg-share-10", "wsseg-share-0"):
        finish(tmp_path, replace(JOB, arm=arm), [0.4, 0.6])
    write_report(tmp_path)
    text = (tmp_path / "accuracy.md").read_text(encoding="utf-8")
    assert "## busi, mobilenet_v2, 128 px, 30 epochs" in text
    assert "| wsseg-share-10 | eroded on 10 % of the images | 8 | 1 | 0.500 |" in text
    for name in ("accuracy-bars.png", "accuracy-budget.png"):
        assert f"({name})" in text
        assert (tmp_path / name).stat().st_size > 0


def test_without_a_curve_there_is_no_budget_plot(tmp_path):
    finish(tmp_path, JOB, [0.5, 0.7])
    write_report(tmp_path)
    assert "budget" not in (tmp_path / "accuracy.md").read_text(encoding="utf-8")
    assert not (tmp_path / "accuracy-budget.png").exists()


def test_missing_single_images_are_told(tmp_path):
    add_row(tmp_path, row_of(JOB))
    with pytest.raises(WssegError, match="--redo"):
        write_report(tmp_path)
