"""Batch-norm statistics: the averages of a short run give way to those of its final weights."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.train.conftest import CONFIG, one_thread, prepared, quick_runs
from wsseg.imaging import Window
from wsseg.train import report as outputs
from wsseg.train.calibration import choose_normalisation, with_statistics_anew
from wsseg.train.cases import read_cases
from wsseg.train.config import PRESETS
from wsseg.train.data.dataset import CaseDataset
from wsseg.train.metrics import summarise
from wsseg.train.progress import TrainingState
from wsseg.train.report import finish
from wsseg.train.run_folder import WEIGHTS, RunFacts, load_run, save_weights
from wsseg.train.trainer import train
from wsseg.train.validation import Choice, evaluate

pytestmark = pytest.mark.usefixtures("quick")

SHORT = CONFIG.model_copy(update={"terms": PRESETS["full"], "learning_rate": 0.05, "epochs": 3})


@pytest.fixture(scope="module")
def blobs(make_blobs, tmp_path_factory):
    return make_blobs(tmp_path_factory.mktemp("blobs"), 22, 6)


@pytest.fixture(scope="module")
def short(blobs, tmp_path_factory):
    """A run of 12 steps, and its record."""
    out = tmp_path_factory.mktemp("short") / "run"
    with one_thread(), quick_runs():
        return out, train(blobs, out, SHORT)


def iou_of(run, table):
    """Of the published network on the validation cases, at a threshold of 0.5."""
    trained = load_run(run)
    data, _ = prepared(read_cases(table), SHORT)
    places = range(len(data.val))
    counts = evaluate(trained.predictor, data.val, places, data.denominators, torch.device("cpu"))
    return summarise(counts)["iou"]


def test_a_short_run_publishes_statistics_of_its_final_weights_where_they_are_better(short, blobs):
    out, record = short
    kept = record.normalisation
    assert (kept.kept, kept.split, kept.cases) == ("anew", "val", 6)
    assert kept.anew_score > kept.averaged_score + 0.1
    assert record.chosen_epoch == kept.epoch
    assert iou_of(out, blobs) == pytest.approx(kept.anew_score)


@pytest.mark.slow
def test_a_run_killed_at_its_very_end_comes_to_the_same_record_and_weights(
    short, blobs, tmp_path, monkeypatch
):
    """Killed after the weights took their place, before the record did."""

    def killed(*_):
        raise KeyboardInterrupt

    out, record = short
    with one_thread(), monkeypatch.context() as patch:
        patch.setattr(outputs, "keep_record", killed)
        with pytest.raises(KeyboardInterrupt):
            train(blobs, tmp_path / "run", SHORT)
    assert (tmp_path / "run" / "averaged.safetensors").exists()
    with one_thread():
        assert train(blobs, tmp_path / "run", SHORT, resume=True) == record
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        path.name for path in out.iterdir()
    }
    first, second = (load_file(run / WEIGHTS) for run in (out, tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def learner(blobs):
    table = read_cases(blobs)
    data, learner = prepared(table, SHORT)
    return table, data, learner


def norms(network):
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


def test_statistics_anew_do_not_depend_on_those_before_and_change_no_weight(learner):
    _, data, own = learner
    weights = own.average.module.state_dict()
    first = with_statistics_anew(own, weights, data.train, range(16))
    spoilt = {n: t + 9 if "running_mean" in n else t.clone() for n, t in weights.items()}
    second = with_statistics_anew(own, spoilt, data.train, range(16))
    for one, other in zip(norms(first), norms(second), strict=True):
        assert torch.equal(one.running_mean, other.running_mean)
        assert torch.equal(one.running_var, other.running_var)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, weights[name])
    assert not first.training


def test_better_averages_stay(learner, short):
    """The same network twice: statistics that were taken anew already are no better anew."""
    _, data, own = learner
    own.average.module.load_state_dict(load_file(short[0] / WEIGHTS))
    before = {n: t.clone() for n, t in own.average.module.state_dict().items()}
    training = TrainingState(
        RunFacts(cases_sha256="", window=Window(), channels=1), [], Choice(3, "mask")
    )
    found = choose_normalisation(own, data, training, before)
    assert found.kept == "averaged"
    assert found.anew_score == pytest.approx(found.averaged_score)
    after = own.average.module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.slow
def test_without_validation_cases_training_cases_decide(learner, tmp_path):
    table, data, own = learner
    none = CaseDataset((), table.classes, (), own.preprocess)
    bare = replace(data, val=none, rule="last")
    save_weights(own.average.module, tmp_path / WEIGHTS)
    row = {"epoch": 1, "learning_rate": 0.1, "total": 1.0, "seconds": 1.0}
    record = finish(
        own,
        bare,
        table,
        TrainingState(
            RunFacts(cases_sha256="", window=Window(), channels=1), [row], Choice(1, "last")
        ),
        tmp_path,
    )
    assert record.normalisation is not None
    assert (record.normalisation.split, record.normalisation.cases) == ("train", 16)
    assert record.metrics == {}
