"""The sum of terms that a training step minimises."""

import pytest
import torch

from wsseg.imaging.definitions import RatioDefinition
from wsseg.imaging.errors import WssegError
from wsseg.train.batch import Batch, Outputs
from wsseg.train.config import PRESETS, Confidence, Size, TrainConfig, WeakMark
from wsseg.train.losses import confidence_loss, size_loss, weak_mark_loss
from wsseg.train.objective import BUILDERS, Objective, Term, build_objective

CLASSES = ("lesion", "organ")


def step_of(seed: int = 0) -> tuple[Outputs, Batch]:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 2, 4, 4, generator=draw, requires_grad=True)
    image = torch.rand(2, 1, 4, 4, generator=draw)
    marks = torch.randint(3, (2, 4, 4), generator=draw)
    mask = torch.stack([marks == 1, marks == 2], 1)
    has_mask, index = torch.tensor([True, False]), torch.arange(2)
    batch = Batch(image, torch.rand(2, 2, generator=draw), marks, mask, has_mask, index)
    return Outputs(logits, image * 0.5), batch


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_gives_its_terms_and_a_gradient(preset):
    outputs, batch = step_of()
    objective = build_objective(TrainConfig(preset=preset), CLASSES, ())
    total, parts = objective(outputs, batch, 0)
    (gradient,) = torch.autograd.grad(total, outputs.logits)
    assert list(parts) == [term.kind for term in PRESETS[preset]]
    assert torch.count_nonzero(gradient) > 0


def test_the_total_is_the_sum_of_the_weighted_parts():
    outputs, batch = step_of()
    terms = (Confidence(weight=0.5), WeakMark(weight=3, average="mark"))
    total, parts = build_objective(TrainConfig(terms=terms), CLASSES, ())(outputs, batch, 0)
    confidence = 0.5 * confidence_loss(outputs.logits)
    mark = 3 * weak_mark_loss(outputs.logits, batch.marks, average="mark")
    torch.testing.assert_close(total, confidence + mark)
    torch.testing.assert_close(parts["confidence"], confidence.detach())
    torch.testing.assert_close(parts["weak_mark"], mark.detach())
    assert total.requires_grad
    assert not any(part.requires_grad for part in parts.values())


def test_terms_of_the_settings_replace_those_of_the_preset():
    objective = build_objective(TrainConfig(preset="full", terms=(Size(),)), CLASSES, ())
    assert [term.name for term in objective.terms] == ["size"]


def test_the_weight_may_follow_the_step():
    outputs, batch = step_of()
    term = Term("ramp", lambda outputs, batch: outputs.logits.sum() * 0 + 1, lambda step: step / 10)
    objective = Objective((term,))
    assert objective(outputs, batch, 0)[0].item() == 0
    assert objective(outputs, batch, 5)[0].item() == pytest.approx(0.5)


def test_a_ratio_definition_decides_what_the_size_is_measured_against():
    outputs, batch = step_of()
    ratios = (RatioDefinition(name="share", numerator="lesion", denominator="organ"),)
    total, _ = build_objective(TrainConfig(terms=(Size(),)), CLASSES, ratios)(outputs, batch, 0)
    torch.testing.assert_close(total, size_loss(outputs.logits, batch.ratio, (1, "image")))


def test_an_unknown_preset_names_the_known_and_the_nearest():
    with pytest.raises(WssegError, match=r"paper, .*full; did you mean paper-size-only\?"):
        build_objective(TrainConfig(preset="paper_sizeonly"), CLASSES, ())


def test_two_terms_of_one_kind_are_an_error():
    with pytest.raises(WssegError, match="same kind: size"):
        build_objective(TrainConfig(terms=(Size(), Confidence(), Size(weight=2))), CLASSES, ())


def test_a_ratio_over_an_unknown_class_is_an_error():
    ratios = (RatioDefinition(name="share", numerator="lesion", denominator="liver"),)
    with pytest.raises(WssegError, match="names the class liver, but the classes are lesion"):
        build_objective(TrainConfig(), CLASSES, ratios)


def test_every_kind_of_term_can_be_built():
    kinds = {type(term) for terms in PRESETS.values() for term in terms}
    assert kinds == set(BUILDERS)
