"""One optimiser step, and the preparation that leads to it."""

import math
from dataclasses import replace

import pytest
import torch

from tests.train.conftest import prepared
from wsseg.imaging import RatioDefinition, WssegError
from wsseg.train.cases import Contents, read_cases
from wsseg.train.config import SelfTraining, TrainConfig
from wsseg.train.data.sampler import training_batches
from wsseg.train.losses import Entropy, RatioPrior, Size, WeakMark, build_objective
from wsseg.train.networks import last_layer
from wsseg.train.trainer import (
    choose_facts,
    first_network,
    image_shares,
    mean_ratios,
    require_evidence,
)

pytestmark = pytest.mark.usefixtures("quick")

CONFIG = TrainConfig(
    preset="paper",
    network="mobilenet_v2",
    size=32,
    epochs=2,
    batch=2,
    accelerator="cpu",
    precision="fp32",
)


@pytest.fixture(scope="module")
def table(make_blobs, tmp_path_factory):
    return read_cases(make_blobs(tmp_path_factory.mktemp("blobs"), 5, 1))


def _prepare(table, config=CONFIG):
    return prepared(table, config)


def _batches(data, config=CONFIG, first=1):
    return list(training_batches(data.train, config, first=first))


def test_a_step_follows_the_gradient_and_moves_the_average_along(table):
    data, learner = _prepare(table)
    batch = _batches(data)[0]
    first = learner.step(batch, 0)
    weight = last_layer(learner.network).weight
    average = last_layer(learner.predictor().network).weight
    assert torch.equal(weight, average)
    for _ in range(3):
        last = learner.step(batch, 0)
    assert last["total"] < first["total"]
    assert not torch.equal(weight, average)


def test_bfloat16_stays_inside_the_network(table):
    data, learner = prepared(table, CONFIG, "bf16-mixed")
    batch = _batches(data)[0]
    inside: list[torch.dtype] = []
    outside: list[torch.dtype] = []
    last_layer(learner.network).register_forward_hook(
        lambda module, inputs, output: inside.append(output.dtype)
    )
    learner.module.register_forward_hook(
        lambda module, inputs, outputs: outside.extend(output.dtype for output in outputs)
    )
    parts = learner.step(batch, 0)
    assert inside == [torch.bfloat16]
    assert outside == [torch.float32, torch.float32]
    assert parts["total"] == pytest.approx(_prepare(table)[1].step(batch, 0)["total"], rel=0.05)


def test_a_step_after_restoring_is_the_step_that_would_have_been(table):
    data, learner = _prepare(table)
    one, two, *_ = _batches(data)
    learner.step(one, 0)
    state = {name: _copied(part) for name, part in learner.state().items()}
    expected = learner.step(two, 1)
    _, other = _prepare(table, CONFIG)
    other.restore(state)
    assert other.step(two, 1) == expected
    for tensor, twin in zip(
        learner.average.state_dict().values(), other.average.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, twin)


def _copied(part):
    if isinstance(part, torch.Tensor):
        return part.clone()
    if isinstance(part, dict):
        return {name: _copied(value) for name, value in part.items()}
    return [_copied(value) for value in part] if isinstance(part, list) else part


def test_a_loss_that_is_not_finite_names_step_term_and_the_rows_at_fault(table):
    data, learner = _prepare(table)
    batch = _batches(data)[0]
    row = data.train.cases[int(batch.index[1])].row
    learner.module.train()
    for module in learner.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # otherwise one image's NaN is in every image's features
    broken = batch.image.clone()
    broken[1] = float("nan")
    with pytest.raises(WssegError, match=rf"step 3 of 4: .*weak_mark.* rows {row} of the cases"):
        learner.step(replace(batch, image=broken), 2)


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change(table):
    data, learner = _prepare(table)
    weight = last_layer(learner.network).weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight.detach().clone()
    with pytest.raises(WssegError, match="gradient is not a finite number"):
        learner.step(_batches(data)[0], 0)
    assert torch.equal(weight, before)


def test_a_head_that_no_term_teaches_stays_as_it_is(table):
    config = CONFIG.model_copy(update={"terms": (Size(), WeakMark())})
    data, learner = _prepare(table, config)
    before = {n: p.detach().clone() for n, p in learner.network.reconstruction.named_parameters()}
    parts = learner.step(_batches(data, config)[0], 0)
    assert set(parts) == {"size", "weak_mark", "total"}
    for name, parameter in learner.network.reconstruction.named_parameters():
        assert torch.equal(parameter, before[name])


def test_first_weights_follow_the_seed_alone(table):
    data, _ = _prepare(table)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = first_network(data, CONFIG, 1)
    torch.rand(3)
    two = first_network(data, CONFIG, 1)
    other = first_network(data, CONFIG.model_copy(update={"seed": 1}), 1)
    torch.random.set_rng_state(before)
    assert torch.equal(last_layer(one).weight, last_layer(two).weight)
    assert not torch.equal(last_layer(one).weight, last_layer(other).weight)


def test_training_starts_at_the_mean_ratio_where_ratios_are_taught_and_only_there(table):
    data, learner = _prepare(table)
    mean = sum(case.ratios[0] for case in table.part("train")) / 4
    (found,) = image_shares(data)
    assert found == pytest.approx(mean)
    bias = last_layer(learner.network).bias
    assert bias is not None
    assert bias.item() == pytest.approx(math.log(mean / (1 - mean)), rel=1e-5)
    _, untold = _prepare(table, CONFIG.model_copy(update={"preset": "paper-mark-only"}))
    own = last_layer(first_network(data, CONFIG, 1)).bias
    bias = last_layer(untold.network).bias
    assert bias is not None
    assert own is not None
    assert torch.equal(bias, own)


def test_window_and_channels_come_from_the_settings_before_the_images(table):
    assert choose_facts(table, CONFIG).channels == 1
    assert choose_facts(table, CONFIG.model_copy(update={"channels": 3})).channels == 3


def test_terms_without_labels_are_told_and_refused_if_no_other_is_left(
    make_blobs, tmp_path, caplog
):
    table = read_cases(make_blobs(tmp_path, 4, 1, columns="ratio"))
    _prepare(table)
    assert "no training case has labels for the terms: weak_mark" in caplog.text
    with pytest.raises(
        WssegError, match=r"\(cross_entropy: mask; dice: mask\).*choose another preset"
    ):
        _prepare(table, CONFIG.model_copy(update={"preset": "full"}))


def test_a_mean_ratio_is_of_the_class_s_own_kind_and_only_a_share_of_the_image_starts_it(table):
    of_foreground = RatioDefinition(name="roi", numerator="roi", denominator="foreground")
    data, learner = _prepare(table, CONFIG.model_copy(update={"ratios": (of_foreground,)}))
    (found,) = mean_ratios(data)
    assert found == pytest.approx(sum(case.ratios[0] for case in table.part("train")) / 4)
    assert math.isnan(image_shares(data)[0])
    bias, own = (last_layer(n).bias for n in (learner.network, first_network(data, CONFIG, 1)))
    assert bias is not None
    assert own is not None
    assert torch.equal(bias, own)


@pytest.mark.parametrize("rounds", [0, 3])
def test_a_ratio_alone_is_a_target_only_where_self_training_makes_one_of_it(
    make_blobs, tmp_path, caplog, rounds
):
    table = read_cases(make_blobs(tmp_path, 4, 1, columns="ratio"))
    settings = SelfTraining(rounds=rounds)
    _prepare(table, CONFIG.model_copy(update={"preset": "wsseg", "self_training": settings}))
    idle = "no training case has labels for the terms: target_cross_entropy, target_dice"
    assert (idle in caplog.text) == (rounds == 0)


def test_terms_that_want_no_label_are_allowed_and_told(table, caplog):
    config = CONFIG.model_copy(update={"terms": (RatioPrior(prior=(0.1,)), Entropy())})
    objective = build_objective(config.loss_terms, table.classes, (), steps=1)
    bare = [
        replace(case, ratios=(None,), marks=None, mask=None, contents=Contents())
        for case in table.part("train")
    ]
    require_evidence(objective, bare, table.classes, corrected=True)
    assert "no term learns from the labels of the cases" in caplog.text


def test_a_prior_in_percent_is_refused_and_one_far_from_the_cases_doubted(table, caplog):
    config = CONFIG.model_copy(update={"terms": (RatioPrior(prior=(4.2,)),)})
    with pytest.raises(WssegError, match=r"4.2, is above 1: .* if these are percent, 0.042"):
        _prepare(table, config)
    _prepare(table, CONFIG.model_copy(update={"terms": (RatioPrior(prior=(0.0001,)),)}))
    assert "the prior 0.0001 of ratio_prior is far from" in caplog.text


def test_no_such_thing_is_told_where_a_term_learns_from_labels(table, caplog):
    _prepare(table)
    assert not caplog.text
