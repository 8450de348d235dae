"""The sum of terms that a training step minimises."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from wsseg.imaging import RatioDefinition, WssegError
from wsseg.train.config import PRESETS, TrainConfig
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.losses import (
    BoxSize,
    Confidence,
    Context,
    Entropy,
    Equivariance,
    GatedCrf,
    Loss,
    Objective,
    RatioPrior,
    Reconstruction,
    Size,
    SizeBarrier,
    SizeBounds,
    Teacher,
    Term,
    WeakMark,
    build_objective,
)

CLASSES = ("lesion", "organ")
NAN = float("nan")
CONTEXT = Context(("image", "image"))


def step_of(seed: int = 0) -> tuple[Outputs, Batch]:
    """Two pictures with every kind of label, none of which fits the other."""
    draw = torch.Generator().manual_seed(seed)
    logits, moved = torch.randn(2, 2, 2, 8, 8, generator=draw, requires_grad=True)
    image = torch.rand(2, 1, 8, 8, generator=draw)
    marks = torch.tensor([0, 1, 2, 255])[torch.randint(4, (2, 8, 8), generator=draw)]
    low = torch.rand(2, 2, generator=draw) / 2
    batch = Batch(
        image=image,
        ratio=torch.rand(2, 2, generator=draw),
        bounds=torch.stack([low, low + 0.1], -1),
        present=torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
        box=torch.tensor([0.1, 0.2, 0.8, 0.9]).expand(2, 2, 4),
        centroid=torch.rand(2, 2, 2, generator=draw),
        spread=torch.rand(2, 2, 2, generator=draw),
        marks=marks,
        mask=torch.stack([marks == 1, marks == 2], 1),
        has_mask=torch.tensor([True, False]),
        target=torch.rand(2, 2, 8, 8, generator=draw),
        target_weight=torch.rand(2, 2, 8, 8, generator=draw),
        soft=torch.rand(2, 2, 8, 8, generator=draw),
        index=torch.arange(2),
    )
    return Outputs(logits, image * 0.5, moved, torch.rand(2, 2, 8, 8, generator=draw)), batch


def build(*terms, preset="paper", steps=10, prior=(), ratios=()) -> Objective:
    config = TrainConfig(terms=terms, preset=preset)
    return build_objective(config.loss_terms, CLASSES, ratios, steps=steps, prior=prior)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_gives_its_terms_and_a_finite_gradient(preset):
    outputs, batch = step_of()
    objective = build(preset=preset, prior=(0.1, 0.2))
    total, parts = objective(outputs, batch, 5)
    (gradient,) = torch.autograd.grad(total, outputs.logits)
    assert list(parts) == [term.kind for term in PRESETS[preset]]
    assert torch.isfinite(total)
    assert torch.isfinite(gradient).all()
    assert torch.count_nonzero(gradient) > 0


def test_the_total_is_the_sum_of_the_weighted_parts():
    outputs, batch = step_of()
    objective = build(Confidence(weight=0.5), WeakMark(weight=3, average="mark"))
    total, parts = objective(outputs, batch, 0)
    confidence = 0.5 * Confidence()(outputs, batch, CONTEXT)
    mark = 3 * WeakMark(average="mark")(outputs, batch, CONTEXT)
    torch.testing.assert_close(total, confidence + mark)
    torch.testing.assert_close(parts["confidence"], confidence.detach())
    torch.testing.assert_close(parts["weak_mark"], mark.detach())
    assert total.requires_grad
    assert not any(part.requires_grad for part in parts.values())


def test_terms_of_the_settings_replace_those_of_the_preset():
    assert [term.name for term in build(Size(), preset="full").terms] == ["size"]


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({}, (2, 2, 2, 2, 2)),
        ({"start": 0.5}, (0, 0, 2, 2, 2)),
        ({"end": 0.5}, (2, 2, 0, 0, 0)),
        ({"ramp": 0.5}, (0, 1, 2, 2, 2)),
        ({"start": 0.25, "ramp": 0.5}, (0, 0, 1, 2, 2)),
        ({"start": 0.25, "ramp": 1.0, "end": 0.75}, (0, 0, 0.5, 0, 0)),
    ],
)
def test_the_weight_follows_the_progress_of_the_run(settings, weights):
    loss = Size(weight=2, **settings)
    assert [loss.weight_at(quarter / 4) for quarter in range(5)] == pytest.approx(weights)


def test_progress_is_the_share_of_the_steps_of_the_run():
    outputs, batch = step_of()
    seen = []

    class Late(Loss):
        kind: str = "late"

        def __call__(self, outputs, batch, context):
            seen.append(context.progress)
            return outputs.logits.sum() * 0 + 1

    objective = Objective((Term(Late(start=0.5), CONTEXT),), steps=4)
    totals = [objective(outputs, batch, step)[0].item() for step in range(4)]
    assert totals == [0, 0, 1, 1]
    assert seen == [0.5, 0.75]  # a resting term is not computed


def test_a_step_in_which_all_terms_rest_still_has_a_gradient_of_zero():
    outputs, batch = step_of()
    outputs = replace(outputs, reconstruction=outputs.reconstruction.requires_grad_())
    total, parts = build(Size(start=0.5), Reconstruction(start=0.5))(outputs, batch, 0)
    for gradient in torch.autograd.grad(total, (outputs.logits, outputs.reconstruction)):
        assert torch.count_nonzero(gradient) == 0
    assert [part.item() for part in parts.values()] == [0, 0]


def test_the_objective_says_what_its_terms_read():
    assert build(Confidence()).needs == frozenset()
    assert build(Size(), GatedCrf()).needs == {"ratio", "marks"}
    assert build(Equivariance(), Teacher()).needs == {"moved", "teacher"}
    assert build(preset="paper").needs == {"ratio", "marks", "reconstruction"}


def test_a_ratio_definition_decides_what_the_size_is_measured_against():
    outputs, batch = step_of()
    ratios = (RatioDefinition(name="share", numerator="lesion", denominator="organ"),)
    total, _ = build(Size(), ratios=ratios)(outputs, batch, 0)
    torch.testing.assert_close(total, Size()(outputs, batch, Context((1, "image"))))


def test_what_the_terms_remember_is_carried_over_exactly():
    steps = [step_of(seed) for seed in range(5)]
    first, second = (build(RatioPrior(prior=(0.1, 0.2)), Size()) for _ in range(2))
    for number, (outputs, batch) in enumerate(steps[:3]):
        first(outputs, batch, number)
    second.restore(first.state())
    for number, (outputs, batch) in enumerate(steps[3:], start=3):
        assert torch.equal(first(outputs, batch, number)[0], second(outputs, batch, number)[0])
    assert build(Size()).state() == {}


def test_the_state_of_other_terms_is_refused():
    state = build(RatioPrior(prior=(0.1, 0.2))).state()
    with pytest.raises(
        WssegError, match=r"ratio_prior\.mean, ratio_prior\.updates instead of noth"
    ):
        build(Size()).restore(state)


def test_a_prior_comes_from_the_settings_or_else_from_the_training_ratios():
    outputs, batch = step_of()
    own = build(RatioPrior(prior=(0.1, 0.2)), prior=(0.7, 0.8))(outputs, batch, 0)[0]
    told = build(RatioPrior(), prior=(0.1, 0.2))(outputs, batch, 0)[0]
    assert torch.equal(own, told)
    partly = build(RatioPrior(), prior=(0.1, NAN))(outputs, batch, 0)[0]
    assert 0 < partly.item() < told.item()


@pytest.mark.parametrize(
    ("settings", "prior", "found"),
    [(RatioPrior(), (), 0), (RatioPrior(), (NAN, NAN), 0), (RatioPrior(prior=(0.1,)), (), 1)],
)
def test_a_prior_that_nobody_gives_is_an_error(settings, prior, found):
    with pytest.raises(WssegError, match=f"ratio of {found} of 2 classes: give one for each"):
        build(settings, prior=prior)


def test_class_weights_of_another_number_of_classes_are_an_error():
    with pytest.raises(WssegError, match="3 class weights, but there are 2 classes"):
        build(Entropy(classes=(1, 2, 3)))


def test_an_unknown_preset_names_the_known_and_the_nearest():
    with pytest.raises(WssegError, match=r"paper, .*full; did you mean paper-size-only\?"):
        TrainConfig(preset="paper_sizeonly").loss_terms  # noqa: B018


def test_two_terms_of_one_kind_are_an_error():
    with pytest.raises(WssegError, match="same kind: size"):
        build(Size(), Confidence(), Size(weight=2))


def test_a_ratio_over_an_unknown_class_is_an_error():
    ratios = (RatioDefinition(name="share", numerator="lesion", denominator="liver"),)
    with pytest.raises(WssegError, match="names the class liver, but the classes are lesion"):
        build(ratios=ratios)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Size, {"start": 0.5, "end": 0.5}),
        (Size, {"weight": 0}),
        (SizeBounds, {"common": (0.3, 0.2)}),
        (BoxSize, {"parts": (0.9, 0.5)}),
        (SizeBarrier, {"final_sharpness": math.inf}),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, settings):
    with pytest.raises(ValidationError):
        kind(**settings)
