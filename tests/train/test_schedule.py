"""The rates at which parameters and their average move."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wsseg.train.config import SelfTraining, TrainConfig
from wsseg.train.learner import (
    average_with,
    ema_decay,
    parameter_groups,
    rate_factor,
    self_training_epochs,
    set_rate,
)

KINDS = st.sampled_from(["poly", "cosine"])


@given(steps=st.integers(1, 300), warmup=st.floats(0, 0.99), kind=KINDS)
def test_the_rate_rises_to_its_peak_then_falls_and_is_never_zero(steps, warmup, kind):
    factors = [rate_factor(step, steps, warmup, kind) for step in range(steps)]
    peak = round(warmup * steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert peak == steps or factors[peak] == 1


@pytest.mark.parametrize(("kind", "half"), [("poly", 0.5**0.9), ("cosine", 0.5)])
def test_half_way_down_the_rate_is_what_the_formula_says(kind, half):
    assert rate_factor(60, 100, 0.2, kind) == pytest.approx(half)


def test_the_average_starts_quickly_and_ends_at_the_set_decay():
    assert [ema_decay(0.9, n) for n in (1, 10, 10**6)] == [2 / 11, 11 / 20, 0.9]


def test_averaging_moves_floats_by_the_decay_and_copies_counts():
    average = average_with(0.9)
    weights, counts = [torch.tensor([1.0])], [torch.tensor(3)]
    average(weights, [torch.tensor([2.0])], torch.tensor(10**6))
    average(counts, [torch.tensor(7)], torch.tensor(10**6))
    assert weights[0].item() == pytest.approx(1.1)
    assert counts[0].item() == 7


def _network():
    backbone = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    return backbone, nn.Sequential(backbone, nn.Conv2d(2, 1, 1))


def test_every_trained_parameter_is_in_one_group_and_vectors_are_not_decayed():
    backbone, network = _network()
    network[1].bias.requires_grad_(False)
    groups = parameter_groups(network, backbone, TrainConfig(weight_decay=0.1))
    grouped = [parameter for group in groups for parameter in group["params"]]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert sorted(map(id, grouped)) == sorted(map(id, trained))
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_the_backbone_learns_at_its_own_rate_throughout():
    backbone, network = _network()
    config = TrainConfig(learning_rate=0.01, backbone_rate=0.1)
    optimizer = torch.optim.AdamW(parameter_groups(network, backbone, config))
    set_rate(optimizer, 0.5)
    slow = {id(parameter) for parameter in backbone.parameters()}
    for group in optimizer.param_groups:
        expected = 0.0005 if id(group["params"][0]) in slow else 0.005
        assert group["lr"] == pytest.approx(expected)


@given(
    rounds=st.integers(0, 10),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    epochs=st.integers(1, 200),
)
def test_targets_are_renewed_between_start_and_end_but_never_before_the_first_epoch(
    rounds, ends, epochs
):
    start, end = ends
    found = self_training_epochs(SelfTraining(rounds=rounds, start=start, end=end), epochs)
    assert len(found) <= rounds
    assert bool(found) == bool(rounds)
    assert all(max(2, 1 + round(start * epochs)) <= epoch for epoch in found)
    assert all(epoch <= max(2, 1 + round(end * epochs)) for epoch in found)


@pytest.mark.parametrize(
    ("epochs", "expected"), [(10, {4, 6, 8}), (60, {19, 31, 43}), (2, {2}), (1, {2})]
)
def test_the_rounds_of_the_default_settings(epochs, expected):
    assert self_training_epochs(SelfTraining(), epochs) == expected
