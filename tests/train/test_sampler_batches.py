"""The batches of a run: the same however they are read, and enough of what says where."""

from collections import Counter
from dataclasses import fields

import pytest
import torch

from wsseg.train.cases import read_cases
from wsseg.train.config import SelfTraining, TrainConfig
from wsseg.train.data.augment import augment
from wsseg.train.data.batch import Batch
from wsseg.train.data.sampler import steps_per_epoch, training_batches
from wsseg.train.targets import PseudoLabel
from wsseg.train.trainer import choose_facts, prepare_data

CONFIG = TrainConfig(
    network="mobilenet_v2",
    size=32,
    epochs=4,
    batch=4,
    self_training=SelfTraining(rounds=1, start=0.5, end=0.5, located=0.5, located_later=0.25),
)
"""Targets are renewed before the third epoch."""


@pytest.fixture(scope="module")
def table(make_blobs, tmp_path_factory):
    """Of twelve cases to learn from, the first two say where."""
    known = ["ratio"] + ["ratio,marks"] * 2 + ["ratio"] * 10
    return read_cases(make_blobs(tmp_path_factory.mktemp("blobs"), 13, 1, known=known))


@pytest.fixture
def cases(table):
    return prepare_data(table, CONFIG, choose_facts(table, CONFIG)).train


def _same(one, other):
    for field in fields(Batch):
        pair = getattr(one, field.name), getattr(other, field.name)
        torch.testing.assert_close(*pair, rtol=0, atol=0, equal_nan=True)


def _cut(cases):
    """Cuts that teach every pixel to be inside."""
    inside = torch.ones(1, 32, 32, dtype=torch.uint8)
    cases.targets.pseudo_labels = {
        place: PseudoLabel(inside, torch.ones(1)) for place in range(len(cases))
    }


@pytest.mark.parametrize("preset", ["wsseg", "paper"])
def test_batches_are_the_same_wherever_the_stream_starts_and_however_it_is_read(cases, preset):
    config = CONFIG.model_copy(update={"preset": preset})
    whole = list(training_batches(cases, config, first=1))
    resumed = list(training_batches(cases, config, first=4))
    workers = list(training_batches(cases, config.model_copy(update={"workers": 1}), first=4))
    assert len(whole) == 4 * steps_per_epoch(cases, config) == 12
    for expected, *others in zip(whole[9:], resumed, workers, strict=True):
        for other in others:
            _same(expected, other)


def test_processes_share_each_batch_in_order(cases):
    whole = list(training_batches(cases, CONFIG, first=1))
    shares = [list(training_batches(cases, CONFIG, first=1, rank=rank, world=2)) for rank in (0, 1)]
    for batch, *parts in zip(whole, *shares, strict=True):
        joined = {
            field.name: torch.cat([getattr(part, field.name) for part in parts])
            for field in fields(Batch)
        }
        _same(batch, Batch(**joined))


def _seen(cases, config):
    """How often each case is seen, epoch by epoch."""
    batches, steps = training_batches(cases, config, first=1), steps_per_epoch(cases, config)
    return [
        Counter(place for _ in range(steps) for place in next(batches).index.tolist())
        for _ in range(config.epochs)
    ]


def test_targets_are_learnt_from_enough_cases_that_say_where(cases):
    assert cases.located == [0, 1]
    for epoch, seen in enumerate(_seen(cases, CONFIG), start=1):
        assert seen.total() == 12
        # Half of twelve before the targets are renewed, a quarter after.
        assert seen[0] + seen[1] == (6 if epoch < 3 else 3)


def test_without_targets_to_learn_every_case_is_seen_once_an_epoch(cases):
    config = CONFIG.model_copy(update={"preset": "paper"})
    assert all(set(seen.values()) == {1} and len(seen) == 12 for seen in _seen(cases, config))


def test_a_case_that_is_repeated_in_an_epoch_is_changed_anew_each_time(cases):
    images = [
        image
        for _, batch in zip(range(3), training_batches(cases, CONFIG, first=1), strict=False)
        for image, place in zip(batch.image, batch.index.tolist(), strict=True)
        if place == 0
    ]
    assert len(images) == 3
    for number, image in enumerate(images):
        assert not any(torch.equal(image, other) for other in images[:number])


@pytest.mark.parametrize(
    ("preset", "column", "upright"),
    [
        ("wsseg", "box", False),
        ("boxes", "box", True),
        ("moments", "spread", True),
        ("moments", "centroid", False),
        ("boxes", "ratio", False),
    ],
)
def test_a_box_or_a_spread_keeps_a_picture_upright_only_where_a_term_reads_it(
    make_blobs, tmp_path, monkeypatch, preset, column, upright
):
    table = read_cases(make_blobs(tmp_path, 5, 1, column))
    config = CONFIG.model_copy(update={"preset": preset})
    cases = prepare_data(table, config, choose_facts(table, config)).train
    seen: list[bool] = []

    def spy(sample, *settings, **place):
        seen.append(sample.region_labels.upright)
        return augment(sample, *settings, **place)

    monkeypatch.setattr("wsseg.train.data.sampler.augment", spy)
    list(training_batches(cases, config, first=4))
    assert seen == [upright] * 4


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_that_is_begun_after_a_renewal_teaches_the_new_targets(cases, workers):
    config = CONFIG.model_copy(update={"workers": workers})
    _cut(cases)
    for batch in training_batches(cases, config, first=4):
        inside = batch.target_weight > 0.999
        # Beyond the shrunk picture nothing is taught; an unmarked case is all inside.
        unmarked = batch.index >= 2
        assert (batch.target[unmarked][inside[unmarked]] > 0.999).all()
        assert inside.flatten(1).float().mean(1).min() > 0.5
