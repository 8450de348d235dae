"""What holds for every loss term, whatever its formula."""

import dataclasses
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests.train.scenes import SIDE, scene
from wsseg.imaging.definitions import Denominator
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.objective import PARTS
from wsseg.train.term_config import BoxSize, GatedCrf, RatioPrior, TermConfig
from wsseg.train.term_settings import TermSettings
from wsseg.train.terms.part import Given, Part

NAN = float("nan")
KINDS: tuple[type[TermSettings], ...] = get_args(get_args(TermConfig)[0])
OF_IMAGE: tuple[Denominator, ...] = ("image", "image")
SETTINGS: dict[type[TermSettings], dict[str, Any]] = {
    RatioPrior: {"prior": (0.2, 0.1)},
    GatedCrf: {"cells": 12, "radius": 2},
}
SMOOTHED = {"Dice", "PartialDice", "TargetDice"}
"""Terms that count one pixel of smoothing, which is smaller at a finer resolution."""
NEVER_ZERO = {"TagInclusion", "SizeBarrier", "Reconstruction"}
"""A small region never satisfies TagInclusion, a barrier pushes from afar."""


def part_of(kind: type[TermSettings], denominators: tuple[Denominator, ...] = OF_IMAGE) -> Part:
    """A term with its default settings, and nothing to remember yet."""
    return PARTS[kind](kind(**SETTINGS.get(kind, {})), Given(denominators))


def cost_of(part: Part, outputs: Outputs, batch: Batch) -> Tensor:
    return part.loss(outputs, batch, 0.5)


def mapped(record, change):
    """Outputs or a batch with each of its tensors changed."""
    fields = dataclasses.fields(record)
    return dataclasses.replace(record, **{f.name: change(getattr(record, f.name)) for f in fields})


def chosen(record, places):
    """The cases at these places."""
    return mapped(record, lambda values: values[places])


def cast(record, dtype: torch.dtype):
    """All that is not a label map or a flag in this precision."""
    return mapped(record, lambda values: values.to(dtype) if values.is_floating_point() else values)


def unlabelled(batch: Batch) -> Batch:
    """The same pictures, of which nothing is known."""
    names = ("ratio", "bounds", "present", "box", "centroid", "spread")
    nothing = {name: torch.full_like(getattr(batch, name), NAN) for name in names}
    zeros = {name: torch.zeros_like(getattr(batch, name)) for name in ("marks", "has_mask")}
    weight = torch.zeros_like(batch.target_weight)
    return dataclasses.replace(batch, **nothing, **zeros, target_weight=weight)


def test_every_kind_of_settings_has_its_term():
    assert set(KINDS) == set(PARTS)
    names = [kind().kind for kind in KINDS]  # type: ignore[attr-defined]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_formulas(kind):
    outputs, batch = scene(1, count=2, scale=1.0)
    batch = dataclasses.replace(batch, present=torch.tensor([[1.0, 0], [0, 1]]).double())

    def cost(logits: Tensor, moved: Tensor, reconstruction: Tensor) -> Tensor:
        return cost_of(
            part_of(kind), Outputs(logits, reconstruction, moved, outputs.teacher), batch
        )

    assert outputs.moved is not None
    leaves = [outputs.logits, outputs.moved, outputs.reconstruction]
    leaves = [answer.clone().requires_grad_() for answer in leaves]
    # Along random directions: entry by entry, a map would take its number of pixels as long.
    assert torch.autograd.gradcheck(cost, leaves, fast_mode=True)


@pytest.mark.parametrize("denominators", [OF_IMAGE, ("foreground", "foreground"), (1, 0)])
@pytest.mark.parametrize("kind", KINDS)
def test_cost_and_gradient_are_finite_and_full_precision(kind, denominators):
    outputs, batch = (cast(record, torch.float32) for record in scene(0, count=4))
    nothing = unlabelled(batch)
    # One case as it is, one of which nothing is known, and the two extremes of every number.
    for name in ("ratio", "bounds", "present"):
        getattr(batch, name)[1:] = torch.tensor([0.0, 0, 1]).view(3, 1, *[1] * (name == "bounds"))
    for field in dataclasses.fields(batch):
        getattr(batch, field.name)[1] = getattr(nothing, field.name)[1]
    for dtype, extreme in (
        (torch.float16, 1e4),
        (torch.float16, -1e4),
        (torch.bfloat16, 1e4),
        (torch.float32, 0.0),
        (torch.float32, -1e4),
    ):
        logits = torch.full_like(outputs.logits, extreme, dtype=dtype)
        logits[:, 0, 3:5] = -extreme
        leaves = [logits.requires_grad_(), outputs.reconstruction.requires_grad_()]
        answers = dataclasses.replace(outputs, logits=logits)
        cost = cost_of(part_of(kind, denominators), answers, batch)
        assert cost.dtype == torch.float32
        assert torch.isfinite(cost)
        for gradient in torch.autograd.grad(cost, leaves, allow_unused=True):
            assert gradient is None or torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_nothing_and_float64_stays(kind):
    outputs, batch = scene(3)
    assert cost_of(part_of(kind), outputs, batch).dtype == torch.float64
    outputs, batch = cast(outputs, torch.float32), cast(batch, torch.float32)
    outside = cost_of(part_of(kind), outputs, batch)
    with torch.autocast("cpu", torch.bfloat16):
        inside = cost_of(part_of(kind), outputs, batch)
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_costs_the_mean_of_its_images_known_or_not_in_any_order(kind):
    outputs, batch = scene(4, count=4)
    nothing = unlabelled(batch)
    for field in dataclasses.fields(batch):
        getattr(batch, field.name)[3] = getattr(nothing, field.name)[3]
    whole = cost_of(part_of(kind), outputs, batch)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = cost_of(part_of(kind), chosen(outputs, order), chosen(batch, order))
    torch.testing.assert_close(shuffled, whole)
    if kind is not RatioPrior:  # which is of the batch as a whole
        places = [slice(i, i + 1) for i in range(4)]
        alone = [cost_of(part_of(kind), chosen(outputs, i), chosen(batch, i)) for i in places]
        torch.testing.assert_close(torch.stack(alone).mean(), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_what_needs_a_label_costs_nothing_and_teaches_nothing_without_one(kind):
    outputs, batch = scene(5)
    logits = outputs.logits.requires_grad_()
    part = part_of(kind)
    cost = cost_of(part, outputs, unlabelled(batch)) + 0 * logits.sum()
    (gradient,) = torch.autograd.grad(cost, logits)
    nothing = cost.item() == 0 and torch.count_nonzero(gradient) == 0
    assert nothing == bool(part.labels) or kind.__name__ == "Reconstruction"
    assert part.labels <= part.reads


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_term_does_not_say_it_reads_changes_nothing(kind):
    outputs, batch = scene(6)
    part = part_of(kind)
    other = {"moved": -outputs.logits, "teacher": outputs.logits.sigmoid()}
    other["reconstruction"] = outputs.reconstruction + 1
    changed = {k: v for k, v in other.items() if k not in part.reads}
    along = {"mask": "has_mask", "target": "target_weight"}
    read = part.reads | {along[name] for name in part.reads if name in along} | {"image", "index"}
    fields = vars(unlabelled(batch)) | {"mask": ~batch.mask, "target": 1 - batch.target}
    fields |= {"soft": 1 - batch.soft}
    unread = {name: value for name, value in fields.items() if name not in read}
    before = cost_of(part, outputs, batch)
    answers, labels = dataclasses.replace(outputs, **changed), dataclasses.replace(batch, **unread)
    assert torch.equal(cost_of(part_of(kind), answers, labels), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_finer_grid_of_the_same_picture_costs_the_same(kind):
    outputs, batch = scene(7)

    def finer(values: Tensor) -> Tensor:
        is_map = values.ndim > 2 and values.shape[-1] == SIDE
        return values.repeat_interleave(2, -1).repeat_interleave(2, -2) if is_map else values

    coarse = cost_of(part_of(kind), outputs, batch)
    fine = cost_of(part_of(kind), mapped(outputs, finer), mapped(batch, finer))
    tolerance = 0.1 if kind.__name__ in SMOOTHED else 1e-9
    if kind.__name__ != "BoxTightness":  # whose strips are whole rows: see its own tests
        assert fine.item() == pytest.approx(coarse.item(), rel=tolerance, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_true_answer_costs_nothing_and_a_wrong_one_something(kind):
    outputs, batch = scene(8)
    true = batch.mask.double() * 2000 - 1000
    teacher = batch.mask.double()
    settings = dict(SETTINGS.get(kind, {}))
    if kind is RatioPrior:
        settings["prior"] = tuple(batch.ratio.mean(0).tolist())
    if kind is BoxSize:
        settings["parts"] = (0.5, 1.0)  # these regions fill their boxes
    part = PARTS[kind](kind(**settings), Given(OF_IMAGE))
    right = cost_of(part, Outputs(true, batch.image, true, teacher), batch).item()
    if kind.__name__ not in NEVER_ZERO:
        assert right == pytest.approx(0, abs=1e-6)
    wrong = dataclasses.replace(outputs, logits=torch.full_like(true, 1.0), moved=-true)
    absent = dataclasses.replace(batch, present=torch.zeros_like(batch.present))
    empty = dataclasses.replace(wrong, logits=torch.full_like(true, -8.0))
    answered = ((wrong, batch), (wrong, absent), (empty, batch))
    assert max(cost_of(part, *pair).item() for pair in answered) > max(right, 1e-3)
