"""Rounds of self-training: when they happen, and what is kept of them in the run folder."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.train.conftest import prepared
from wsseg.train import self_training as room
from wsseg.train.cases import read_cases
from wsseg.train.config import SelfTraining, TrainConfig
from wsseg.train.data.dataset import CaseDataset, TargetStore
from wsseg.train.learner import self_training_epochs
from wsseg.train.self_training import SETTLED, SelfTrainer, remove_pseudo_labels
from wsseg.train.targets import NO_LABEL, PseudoLabel
from wsseg.train.trainer import build_preprocess, choose_facts

CONFIG = TrainConfig(
    preset="wsseg",
    network="mobilenet_v2",
    size=32,
    epochs=10,
    batch=2,
    accelerator="cpu",
    precision="fp32",
    self_training=SelfTraining(rounds=3, start=0.3, end=0.7),
)
ROUNDS = [4, 6, 8]


@pytest.fixture(scope="module")
def table(make_blobs, tmp_path_factory):
    return read_cases(make_blobs(tmp_path_factory.mktemp("blobs"), 3, 1))


@pytest.fixture(scope="module")
def learner(table):
    return prepared(table, CONFIG)[1]


@pytest.fixture
def cases(table):
    return _cases(table)


def _cases(table, growth="euclidean"):
    preprocess = build_preprocess(CONFIG, choose_facts(table, CONFIG))
    return CaseDataset(
        table.part("train"), table.classes, (), preprocess, targets=TargetStore(growth)
    )


def _found(*values):
    """In place of `replace_pseudo_labels`: rounds whose agreement is told, without a network."""
    told = iter(values)
    return lambda learner, cases: next(told)


def _due(rounds, first=1):
    return [epoch for epoch in range(first, CONFIG.epochs + 1) if rounds.due(epoch)]


def test_rounds_are_due_at_the_epochs_of_the_schedule(cases, tmp_path):
    assert sorted(self_training_epochs(CONFIG.self_training, CONFIG.epochs)) == ROUNDS
    assert _due(SelfTrainer(cases, CONFIG, tmp_path, 1)) == ROUNDS


def test_nothing_is_renewed_where_no_target_is_learnt(table, cases, tmp_path):
    for preset in ("paper", "full"):
        config = CONFIG.model_copy(update={"preset": preset})
        assert not _due(SelfTrainer(cases, config, tmp_path, 1))
    assert not _due(SelfTrainer(_cases(table, growth=None), CONFIG, tmp_path, 1))
    none = CONFIG.model_copy(update={"self_training": SelfTraining(rounds=0)})
    assert not _due(SelfTrainer(cases, none, tmp_path, 1))


@pytest.mark.parametrize(
    ("second", "later"), [(SETTLED - 0.01, [8]), (SETTLED, []), (1.0, []), (math.nan, [8])]
)
def test_rounds_stop_once_two_agree(learner, cases, tmp_path, monkeypatch, second, later):
    monkeypatch.setattr(room, "replace_pseudo_labels", _found(math.nan, second))
    rounds = SelfTrainer(cases, CONFIG, tmp_path, 1)
    rounds.replace(learner, 4)
    assert _due(rounds, 5) == [6, 8]
    rounds.replace(learner, 6)
    assert _due(rounds, 7) == later
    # A run that is resumed knows it as well.
    assert _due(SelfTrainer(cases, CONFIG, tmp_path, 7), 7) == later
    # One that trains the sixth epoch again does not know of the round before it.
    assert _due(SelfTrainer(cases, CONFIG, tmp_path, 6), 6) == [6, 8]


def _random_cuts(seed, count, classes, shape):
    random = np.random.default_rng(seed)
    pseudo_labels = {}
    for place in random.permutation(3 * count)[:count].tolist():
        inside = random.integers(0, 2, (classes, *shape)).astype(np.uint8)
        inside[random.random(classes) < 0.3] = NO_LABEL
        sure = torch.from_numpy(random.random(classes).astype(np.float32))
        pseudo_labels[place] = PseudoLabel(torch.from_numpy(inside), sure)
    return pseudo_labels


def _same(pseudo_labels, others):
    assert pseudo_labels.keys() == others.keys()
    for place, found in pseudo_labels.items():
        assert torch.equal(found.inside, others[place].inside)
        assert torch.equal(found.certainty, others[place].certainty)


@given(
    seed=st.integers(0, 99),
    count=st.integers(0, 4),
    classes=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_cuts_are_read_back_as_they_were_kept(
    learner, table, tmp_path_factory, seed, count, classes, shape
):
    folder, pseudo_labels = (
        tmp_path_factory.mktemp("run"),
        _random_cuts(seed, count, classes, shape),
    )
    cases, later = _cases(table), _cases(table)
    rounds = SelfTrainer(cases, CONFIG, folder, 1)

    def found(learner, cases):
        cases.targets.pseudo_labels = pseudo_labels
        return 0.5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "replace_pseudo_labels", found)
        rounds.replace(learner, 4)
    assert [path.name for path in folder.iterdir()] == ["pseudo-labels-4.npz"]
    SelfTrainer(later, CONFIG, folder, 5)
    _same(later.targets.pseudo_labels, pseudo_labels)
    # The fourth epoch, trained again, begins with the targets before it.
    SelfTrainer(later, CONFIG, folder, 4)
    assert later.targets.pseudo_labels == {}


def test_the_newest_cuts_before_an_epoch_are_taken_up_again(learner, cases, tmp_path, monkeypatch):
    rounds, kept = SelfTrainer(cases, CONFIG, tmp_path, 1), {}
    for epoch in (4, 6, 10):
        kept[epoch] = _random_cuts(epoch, 2, 1, (4, 4))

        def found(learner, cases, epoch=epoch):
            cases.targets.pseudo_labels = kept[epoch]
            return math.nan

        monkeypatch.setattr(room, "replace_pseudo_labels", found)
        rounds.replace(learner, epoch)
    for first, newest in ((5, 4), (6, 4), (7, 6), (10, 6), (11, 10)):
        SelfTrainer(cases, CONFIG, tmp_path, first)
        _same(cases.targets.pseudo_labels, kept[newest])


def test_a_run_that_learns_no_targets_takes_up_no_cuts(learner, cases, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "replace_pseudo_labels", _found(math.nan))
    SelfTrainer(cases, CONFIG, tmp_path, 1).replace(learner, 4)
    cases.targets.pseudo_labels = _random_cuts(0, 2, 1, (4, 4))
    SelfTrainer(cases, CONFIG.model_copy(update={"preset": "paper"}), tmp_path, 5)
    assert cases.targets.pseudo_labels == {}


def test_nothing_but_the_cuts_is_removed(tmp_path):
    for name in ("pseudo-labels-2.npz", "pseudo-labels-13.npz", "samples.npz", "run.json"):
        (tmp_path / name).write_text("")
    remove_pseudo_labels(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"samples.npz", "run.json"}


@pytest.mark.parametrize("column", ["present", "marks", "mask"])
def test_without_anything_to_cut_a_first_round_is_the_last(learner, make_blobs, tmp_path, column):
    nothing = _cases(read_cases(make_blobs(tmp_path, 3, 1, column)))
    rounds = SelfTrainer(nothing, CONFIG, tmp_path, 1)
    rounds.replace(learner, 4)
    assert nothing.targets.pseudo_labels == {}
    assert not _due(rounds, 5)
    assert not _due(SelfTrainer(nothing, CONFIG, tmp_path, 5), 5)
