"""Which runs go, what a finished one leaves, and how a rerun goes on."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.accuracy import __main__ as command
from bench.accuracy.arms import ARMS
from bench.accuracy.datasets import DATASETS
from bench.accuracy.examples import draw_examples
from bench.accuracy.jobs import SCALES, Choice, Job, jobs
from bench.accuracy.results import (
    ImageScore,
    add_row,
    key_of,
    read_images,
    read_rows,
    write_images,
)
from bench.accuracy.run_one import run, settings
from bench.accuracy.task import Task
from wsseg.imaging import WssegError
from wsseg.train.config import TrainConfig

JOB = Job("busi", "full", "mobilenet_v2", 32, 0, 0, 1)


def row_of(job: Job, iou: float = 0.5) -> dict[str, object]:
    return {
        **job.__dict__,
        "marks": "",
        "percent": "",
        "images": 2,
        "iou_mean": iou,
        "iou_pooled": iou,
        "dice_mean": iou,
        "ratio_mae": 0.01,
        "minutes": 1,
        "commit": "abc",
        "machine": "none",
        "weights": "none",
    }


def finish(out: Path, job: Job) -> None:
    scores = [ImageScore(n, n, 1, 0.1, 0.1, 0.4 + 0.2 * n) for n in range(2)]
    write_images(out, job, scores)
    add_row(out, row_of(job))


def test_every_arm_runs_on_the_same_network_budget_and_folds():
    found = jobs(SCALES["full"], Choice(datasets=("busi",)))
    assert {job.arm for job in found} == set(ARMS) - {"wsseg-scribble", "wsseg-8-student"}
    for arm in {job.arm for job in found}:
        own = {replace(job, arm="") for job in found if job.arm == arm}
        assert own == {replace(job, arm="") for job in found if job.arm == "full"}


def test_a_student_runs_on_another_network_than_its_teacher():
    wanted = Choice(datasets=("busi",), arms=("wsseg-8-student",))
    assert [job.network for job in jobs(SCALES["small"], wanted)] == ["mobilenet_v2"]
    assert jobs(SCALES["full"], wanted) == []


def test_a_student_takes_the_run_of_its_teacher_on_the_same_images(tmp_path: Path):
    (job,) = jobs(SCALES["small"], Choice(datasets=("busi",), arms=("wsseg-8-student",)))
    task = Task(job, "small", "data", "none", str(tmp_path), "out")
    with pytest.raises(WssegError, match="run the arm wsseg-8 with --size full first"):
        settings(task, DATASETS["busi"], ARMS[job.arm])
    for fold in (0, 1):
        run = tmp_path / f"busi_wsseg-8_resnet50_256_fold{fold}_seed0_48ep" / "run"
        run.mkdir(parents=True)
        (run / "run.json").touch()
    assert settings(task, DATASETS["busi"], ARMS[job.arm]).distill == (
        tmp_path / "busi_wsseg-8_resnet50_256_fold0_seed0_48ep" / "run"
    )


def test_drawn_scribbles_are_used_where_there_are_some():
    found = jobs(SCALES["small"], Choice())
    assert {job.dataset for job in found if job.arm == "wsseg-scribble"} == {"cardiac"}


@pytest.mark.parametrize(
    "choice", [Choice(datasets=("lungs",)), Choice(arms=("best",)), Choice(folds=(5,))]
)
def test_an_unknown_name_is_told_with_those_that_exist(choice):
    with pytest.raises(WssegError, match=r"there is no (data set|arm|fold)"):
        jobs(SCALES["small"], choice)


def test_the_row_of_a_rerun_replaces_the_first(tmp_path):
    add_row(tmp_path, row_of(JOB))
    add_row(tmp_path, row_of(replace(JOB, seed=1)))
    add_row(tmp_path, row_of(JOB, iou=0.7))
    rows = read_rows(tmp_path)
    assert [(key_of(row).seed, row["iou_mean"]) for row in rows] == [(1, "0.5"), (0, "0.7")]


def test_single_images_come_back_as_they_were_written(tmp_path):
    scores = [ImageScore(3, 1, 2, 0.25, 0.125, 0.5), ImageScore(4, 1, 2, 0.0, 0.0, 1.0)]
    write_images(tmp_path, JOB, scores)
    assert read_images(tmp_path, JOB) == scores


@pytest.fixture
def started(monkeypatch):
    """Names of the runs that the command starts, instead of starting them."""
    names: list[str] = []

    def note(job: Job, asked: object) -> bool:
        names.append(job.name)
        finish(Path(asked.out), job)  # type: ignore[attr-defined]
        return True

    monkeypatch.setattr(command, "_run", note)
    return names


def call(data: Path, out: Path, *more: str, weights: str = "none") -> None:
    asked = ["--data", str(data), "--out", str(out), "--datasets", "busi", "--epochs", "1"]
    command.main([*asked, "--weights", weights, "--arms", "full,wsseg-8", *more])


def test_a_rerun_goes_on_where_the_first_stopped(data, tmp_path, started):
    finish(tmp_path, Job("busi", "full", "mobilenet_v2", 128, 0, 0, 1))
    call(data, tmp_path)
    assert started == ["busi_wsseg-8_mobilenet_v2_128_fold0_seed0_1ep"]
    call(data, tmp_path)
    assert len(started) == 1
    call(data, tmp_path, "--redo")
    assert len(started) == 3


def test_a_row_of_other_starting_weights_does_not_stand_for_a_run(data, tmp_path, started):
    finish(tmp_path, Job("busi", "full", "mobilenet_v2", 128, 0, 0, 1))
    call(data, tmp_path, weights="imagenet")
    assert len(started) == 2
    assert len(read_rows(tmp_path)) == 2


def test_a_dry_run_starts_and_writes_nothing(data, tmp_path, started, capsys):
    call(data, tmp_path, "--dry-run")
    assert "busi_full_mobilenet_v2_128_fold0_seed0_1ep" in capsys.readouterr().out
    assert not started
    assert not list(tmp_path.iterdir())


def test_a_failed_run_is_named_and_the_others_go_on(data, tmp_path, monkeypatch, capsys):
    def fail_once(job: Job, asked: object) -> bool:
        if job.arm != "full":
            finish(tmp_path, job)
        return job.arm != "full"

    monkeypatch.setattr(command, "_run", fail_once)
    with pytest.raises(SystemExit) as ended:
        call(data, tmp_path)
    assert ended.value.code == 8
    assert "busi_full" in capsys.readouterr().err
    assert [key_of(row).arm for row in read_rows(tmp_path)] == ["wsseg-8"]
    assert (tmp_path / "accuracy.md").exists()


@pytest.mark.slow
def test_a_real_run_leaves_its_row_its_single_images_and_a_network_to_show(data, tmp_path):
    task = Task(JOB, "small", str(data), "none", str(tmp_path / "work"), str(tmp_path / "out"))
    run(Task.from_json(task.to_json()))
    (row,) = read_rows(tmp_path / "out")
    assert key_of(row) == JOB
    assert row["marks"] == "full masks"
    scores = read_images(tmp_path / "out", JOB)
    assert len(scores) == int(row["images"]) > 0
    mean = sum(score.iou for score in scores) / len(scores)
    assert float(row["iou_mean"]) == pytest.approx(mean, abs=1e-4)
    error = sum(abs(score.ratio - score.predicted) for score in scores) / len(scores)
    assert float(row["ratio_mae"]) == pytest.approx(error, abs=1e-4)
    settings = tmp_path / "work" / JOB.name / "run" / "config.json"
    config = TrainConfig.model_validate_json(settings.read_text(encoding="utf-8"))
    assert (config.select, config.preset, config.epochs) == ("last", "full", 1)
    draw_examples([JOB.name], data, tmp_path / "work", tmp_path / "out")
    assert (tmp_path / "out" / "accuracy-examples.png").stat().st_size > 0


def test_images_that_may_not_be_published_are_not_shown(data, tmp_path):
    job = replace(JOB, dataset="cardiac")
    finish(tmp_path, job)
    with pytest.raises(WssegError, match="may not be published"):
        draw_examples([job.name], data, tmp_path, tmp_path)
