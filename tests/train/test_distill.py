"""A small network that learns from a finished run: its maps, its record, its faults."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train.conftest import (
    curve_of,
    one_thread,
    quick_runs,
    train_in_float64,
)
from wsseg.imaging import WssegError
from wsseg.train.cases import read_cases
from wsseg.train.config import SelfTraining, TrainConfig
from wsseg.train.distillation import compare, find_teacher, teach
from wsseg.train.fabric import Fabric
from wsseg.train.losses import Distillation, TargetCrossEntropy
from wsseg.train.progress import EpochReport
from wsseg.train.run_folder import RunRecord, load_run
from wsseg.train.trainer import choose_facts, prepare_data, train
from wsseg.train.validation import Data

TEACHER = TrainConfig(
    network="mobilenet_v2",
    size=48,
    channels=3,
    epochs=1,
    batch=4,
    learning_rate=3e-3,
    precision="fp32",
    accelerator="cpu",
    self_training=SelfTraining(rounds=0),
    seed=1,
)
STUDENT = TEACHER.model_copy(
    update={"size": 32, "channels": 1, "seed": 3, "epochs": 2, "learning_rate": 1e-3}
)
TERMS = {"target_cross_entropy", "target_dice", "size_kl", "distillation", "total"}


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@dataclass(frozen=True)
class Taught:
    """A table some of whose cases have no label, the same with all labels, on which a teacher was
    trained, and a run that it taught."""

    cases: Path
    whole: Path
    teacher: Path
    out: Path
    config: TrainConfig
    record: RunRecord


@pytest.fixture(scope="module")
def taught(make_blobs: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Taught:
    folder = tmp_path_factory.mktemp("distil")
    known = ["ratio,mask"] * 3 + ["ratio,marks"] * 4 + [""] * 6
    whole, teacher, out = folder / "whole", folder / "teacher", folder / "student"
    whole.mkdir()
    cases, labelled = make_blobs(folder, 13, 3, known=known), make_blobs(whole, 13, 3)
    with one_thread(), quick_runs():
        train(labelled, teacher, TEACHER)
        config = STUDENT.model_copy(update={"distill": teacher})
        record = train(cases, out, config)
    return Taught(cases, labelled, teacher, out, config, record)


def _data(taught: Taught) -> Data:
    table = read_cases(taught.cases, unlabelled=True)
    return prepare_data(table, STUDENT, choose_facts(table, STUDENT))


def test_the_record_names_the_teacher_and_sets_the_student_beside_it(taught):
    weights = (taught.teacher / "weights.safetensors").read_bytes()
    beside = taught.record.teacher
    assert (beside.run, beside.network) == ("teacher", "mobilenet_v2")
    assert beside.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert beside.comparison.cases == 3
    assert {"iou", "ratio_error"} <= beside.comparison.student.keys()
    assert beside.comparison.student["iou"] == pytest.approx(taught.record.metrics["iou"])
    assert beside.comparison.teacher["iou"] == pytest.approx(
        load_run(taught.teacher).record.metrics["iou"]
    )
    runs = load_run(taught.out), load_run(taught.teacher)
    student, teacher = (run.predictor for run in runs)
    data, own = _data(taught), (runs[0].record.thresholds, runs[1].record.thresholds)
    again = compare(student, teacher, data.val, range(len(data.val)), own)
    assert again.student == beside.comparison.student
    assert again.agreement == beside.comparison.agreement
    assert beside.comparison.relative_time > 0
    assert load_run(taught.out).record == taught.record
    assert taught.record.preset == "wsseg"


def test_every_step_costs_distillation_too(taught):
    assert all(row["distillation"] > 0 for row in curve_of(taught.out))


@pytest.mark.slow
def test_a_student_agrees_with_its_teacher_more_than_one_without(taught, tmp_path):
    # A teacher that no label could teach: it takes all of every picture.
    teacher = tmp_path / "teacher"
    shutil.copytree(taught.teacher, teacher)
    weights = load_file(teacher / "weights.safetensors")
    weights["classifier.head.1.bias"] += 20
    save_file(weights, teacher / "weights.safetensors")
    config = STUDENT.model_copy(update={"epochs": 4, "learning_rate": 3e-3})
    alone = train(taught.whole, tmp_path / "alone", config)
    terms = (*config.loss_terms, Distillation(weight=5))
    student = config.model_copy(update={"distill": teacher, "terms": terms})
    record = train(taught.whole, tmp_path / "taught", student)
    assert (alone.teacher, record.preset) == (None, "wsseg")
    shares = [_mean_probability(taught, tmp_path / name) for name in ("alone", "taught")]
    assert shares[0] < shares[1] < 1


def _mean_probability(taught: Taught, run: Path) -> float:
    data = _data(taught)
    predictor = load_run(run).predictor
    with torch.no_grad():
        maps = [predictor(data.val.native(at).image[None]).mean() for at in range(len(data.val))]
    return float(torch.stack(maps).mean())


@pytest.mark.slow
def test_a_run_that_was_interrupted_goes_on_to_the_same_weights(taught, tmp_path):
    def interrupt(report: EpochReport) -> None:
        if report.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(taught.cases, tmp_path, taught.config, on_epoch=interrupt)
    train(taught.cases, tmp_path, taught.config, resume=True)
    assert curve_of(tmp_path) == curve_of(taught.out)
    one, other = (load_file(run / "weights.safetensors") for run in (tmp_path, taught.out))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_take_the_steps_of_one_in_float64(two_processes, taught, tmp_path):
    alone = train_in_float64(taught.cases, tmp_path / "one", taught.config)
    found = two_processes.train_in_float64(taught.cases, tmp_path / "two", taught.config)
    assert len(alone.totals) == 4
    assert found.totals == pytest.approx(alone.totals, rel=1e-6)  # reported in float32
    for state, expected in zip(found.states, alone.states, strict=True):
        torch.testing.assert_close(state["network"], expected["network"], rtol=1e-6, atol=1e-8)
    for one, other in zip(*(curve_of(tmp_path / run) for run in ("one", "two")), strict=True):
        # Rounded to float32, of which a cost near zero keeps fewer figures.
        assert other == pytest.approx(one, rel=1e-6, abs=1e-7)


def test_two_processes_begin_a_float32_run_with_the_first_step_of_one(
    two_processes, taught, tmp_path
):
    # An epoch is one step. Dropout of the same values, or the first costs would be apart.
    config = taught.config.model_copy(update={"batch": 10, "epochs": 1})
    train(taught.cases, tmp_path / "one", config)
    two_processes.train(taught.cases, tmp_path / "two", config)
    alone, found = (
        {name: cost for name, cost in curve_of(tmp_path / run)[0].items() if name in TERMS}
        for run in ("one", "two")
    )
    assert alone.keys() == TERMS
    assert found == pytest.approx(alone, rel=1e-4)


def test_a_teacher_that_has_changed_stops_a_run_that_goes_on(taught, tmp_path):
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    shutil.copytree(taught.teacher, teacher)
    config = taught.config.model_copy(update={"distill": teacher})

    def interrupt(report: EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(taught.cases, out, config, on_epoch=interrupt)
    weights = load_file(teacher / "weights.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, teacher / "weights.safetensors")
    with pytest.raises(WssegError, match="weights of the teacher teacher have changed"):
        train(taught.cases, out, config, resume=True)


def test_maps_are_the_mean_of_the_picture_and_its_mirror_image_on_the_students_grid(taught):
    data, fabric = _data(taught), Fabric(accelerator="cpu", devices=1)
    teacher = find_teacher(taught.config, data.train.classes, fabric.device)
    assert teacher is not None
    teach(fabric, teacher, data.train, STUDENT)
    assert data.train.item(0).soft.shape == (1, 32, 32)
    raw = data.train.native(0).image.expand(3, -1, -1)[None]
    preprocess, network = teacher.predictor.front, teacher.predictor.network
    with torch.no_grad():
        both = [
            torch.nn.functional.interpolate(
                network.coarse_logits(preprocess(raw.flip(axes))), (32, 32), mode="bilinear"
            )
            .sigmoid()
            .flip(axes)
            for axes in ((), (3,))
        ]
    expected = (both[0] + both[1])[0] / 2
    torch.testing.assert_close(data.train.item(0).soft, expected, atol=0.5 / 255 + 1e-6, rtol=0)


def test_pictures_alone_are_enough_to_learn_from(taught, make_blobs, tmp_path):
    (tmp_path / "bare").mkdir()
    bare = make_blobs(tmp_path / "bare", 6, 2, known=["ratio,mask"] * 2 + [""] * 4)
    with pytest.raises(WssegError, match="nothing to learn from"):
        train(bare, tmp_path / "alone", STUDENT)
    config = taught.config.model_copy(update={"epochs": 1})
    assert train(bare, tmp_path / "taught", config).teacher is not None


def test_classes_other_than_the_teachers_are_both_named(taught, tmp_path):
    text = taught.cases.read_text(encoding="utf-8").replace("ratio", "ratio:lesion", 1)
    other = taught.cases.with_name("lesions.csv")
    other.write_text(text, encoding="utf-8")
    with pytest.raises(WssegError, match=r"knows the classes roi, the cases have lesion"):
        train(other, tmp_path / "run", taught.config)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_teacher_whose_weights_are_not_finite_is_refused(taught, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(taught.teacher, broken)
    weights = load_file(broken / "weights.safetensors")
    weights["classifier.head.1.weight"][0, 0] = float("nan")
    save_file(weights, broken / "weights.safetensors")
    config = taught.config.model_copy(update={"distill": broken})
    with pytest.raises(WssegError, match="not finite, such as classifier"):
        train(taught.cases, tmp_path / "run", config)


def test_a_teacher_that_is_no_finished_run_is_named_with_what_to_do(taught, tmp_path):
    def config(teacher):
        return taught.config.model_copy(update={"distill": teacher})

    with pytest.raises(WssegError, match=r"there is no run folder .*nowhere"):
        train(taught.cases, tmp_path / "run", config(tmp_path / "nowhere"))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(taught.teacher, unfinished)
    (unfinished / "run.json").unlink()
    with pytest.raises(WssegError, match=r"unfinished has no run\.json.*--resume"):
        train(taught.cases, tmp_path / "run", config(unfinished))


def test_the_term_comes_with_the_teacher_once_and_never_without(tmp_path):
    assert TrainConfig().loss_terms == TrainConfig(distill=None).loss_terms
    assert TrainConfig(distill=tmp_path).loss_terms[-1] == Distillation()
    own = (TargetCrossEntropy(), Distillation(weight=2, temperature=3))
    assert TrainConfig(distill=tmp_path, terms=own).loss_terms == own
    with pytest.raises(ValueError, match="needs distill"):
        TrainConfig(terms=own)
