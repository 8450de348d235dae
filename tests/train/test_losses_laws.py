"""What holds for every loss, whatever its formula."""

import dataclasses
import inspect
import itertools

import pytest
import torch
from torch import Tensor

from tests.train.scenes import NAN, SIDE, evaluate, scene
from wsseg.imaging import Denominator
from wsseg.train import losses
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.losses import (
    LOSSES,
    BoxSize,
    BoxTightness,
    Distillation,
    Entropy,
    GatedCrf,
    Loss,
    RatioPrior,
    Reconstruction,
    SizeBounds,
    WeakMark,
)

OF_IMAGE: tuple[Denominator, ...] = ("image", "image")
DENOMINATORS: tuple[tuple[Denominator, ...], ...] = (OF_IMAGE, ("foreground",) * 2, (1, 0))
CHOSEN: dict[type[Loss], Loss] = {
    RatioPrior: RatioPrior(prior=(0.2, 0.1)),
    GatedCrf: GatedCrf(cells=12, radius=2),
}
EXAMPLES = (
    *(CHOSEN.get(kind) or kind() for kind in LOSSES),
    WeakMark(average="mark"),
    Entropy(classes=(1, 3)),
    SizeBounds(margin=None, common=(0.3, 0.4)),
    Distillation(temperature=4),
)
"""Every loss by its default settings, and settings that change the formula."""

BY_RATIO = {"size", "size_kl", "area_l2", "size_bounds", "size_barrier", "ratio_prior"}
"""Losses that depend on what a ratio is measured against."""
SMOOTHED = {"dice", "partial_dice", "target_dice"}
"""Losses that count one pixel of smoothing, which is smaller at a finer resolution."""
NEVER_ZERO = {"tag_inclusion", "size_barrier", "reconstruction"}
"""A small region never satisfies tag_inclusion, a barrier pushes from afar."""

every_loss = pytest.mark.parametrize("loss", EXAMPLES, ids=lambda loss: loss.kind)
every_loss_and_denominator = pytest.mark.parametrize(
    ("loss", "denominators"),
    [
        (loss, denominators)
        for loss in EXAMPLES
        for denominators in (DENOMINATORS if loss.kind in BY_RATIO else (OF_IMAGE,))
    ],
    ids=lambda value: value.kind if isinstance(value, Loss) else str(value[0]),
)


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


def forget(batch: Batch, place: int) -> None:
    """Take the labels from the case at this place."""
    nothing = unlabelled(batch)
    for field in dataclasses.fields(batch):
        getattr(batch, field.name)[place] = getattr(nothing, field.name)[place]


def subclasses(kind: type) -> set[type]:
    below: list[type] = kind.__subclasses__()
    return set(below).union(*map(subclasses, below))


def test_every_loss_has_a_name_of_its_own_and_stands_in_the_table_and_the_front_door():
    own = {kind for kind in subclasses(Loss) if kind.__module__.startswith(losses.__name__)}
    assert {kind for kind in own if not inspect.isabstract(kind)} == set(LOSSES)
    assert len({kind().kind for kind in LOSSES}) == len(LOSSES)
    assert all(getattr(losses, kind.__name__) is kind for kind in LOSSES)


@every_loss_and_denominator
def test_gradients_are_those_of_the_formulas(loss, denominators):
    outputs, batch = scene(1, scale=1.0)
    # One image of which nothing is known, and one of which each label is known in part.
    batch = dataclasses.replace(batch, present=torch.tensor([[1.0, 0], [0, 1], [1, 1]]).double())
    forget(batch, 2)
    batch.ratio[1, 0] = batch.bounds[1, 0, 0] = NAN
    batch.centroid[1, 0, 0] = batch.spread[1, 0, 0] = NAN

    def cost(logits: Tensor, moved: Tensor, reconstruction: Tensor) -> Tensor:
        answers = Outputs(logits, reconstruction, moved, outputs.teacher)
        return evaluate(loss, answers, batch, denominators)

    assert outputs.moved is not None
    leaves = [outputs.logits, outputs.moved, outputs.reconstruction]
    leaves = [answer.clone().requires_grad_() for answer in leaves]
    # Along random directions: entry by entry, a map would take its number of pixels as long.
    assert torch.autograd.gradcheck(cost, leaves, fast_mode=True)


@every_loss_and_denominator
def test_cost_and_gradient_are_finite_and_full_precision(loss, denominators):
    outputs, batch = (cast(record, torch.float32) for record in scene(0, count=4))
    # One case as it is, one of which nothing is known, and the two extremes of every number.
    for name in ("ratio", "bounds", "present"):
        getattr(batch, name)[1:] = torch.tensor([0.0, 0, 1]).view(3, 1, *[1] * (name == "bounds"))
    forget(batch, 1)
    precisions = (torch.float16, torch.bfloat16, torch.float32)
    for dtype, extreme in (
        *itertools.product(precisions, (1e4, -1e4)),
        (torch.float32, 0.0),
    ):
        logits = torch.full_like(outputs.logits, extreme, dtype=dtype)
        logits[:, 0, 3:5] = -extreme
        leaves = [logits.requires_grad_(), outputs.reconstruction.requires_grad_()]
        answers = dataclasses.replace(outputs, logits=logits)
        cost = evaluate(loss, answers, batch, denominators)
        assert cost.dtype == torch.float32
        assert torch.isfinite(cost)
        for gradient in torch.autograd.grad(cost, leaves, allow_unused=True):
            assert gradient is None or torch.isfinite(gradient).all()


@every_loss
def test_autocast_changes_nothing_and_float64_stays(loss):
    outputs, batch = scene(3)
    assert evaluate(loss, outputs, batch).dtype == torch.float64
    outputs, batch = cast(outputs, torch.float32), cast(batch, torch.float32)
    outside = evaluate(loss, outputs, batch)
    with torch.autocast("cpu", torch.bfloat16):
        inside = evaluate(loss, outputs, batch)
    assert torch.equal(inside, outside)


@every_loss
def test_a_batch_costs_the_mean_of_its_images_known_or_not_in_any_order(loss):
    outputs, batch = scene(4, count=4)
    forget(batch, 3)
    whole = evaluate(loss, outputs, batch)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = evaluate(loss, chosen(outputs, order), chosen(batch, order))
    torch.testing.assert_close(shuffled, whole)
    if not isinstance(loss, RatioPrior):  # which is of the batch as a whole
        places = [slice(i, i + 1) for i in range(4)]
        alone = [evaluate(loss, chosen(outputs, i), chosen(batch, i)) for i in places]
        torch.testing.assert_close(torch.stack(alone).mean(), whole)


@every_loss
def test_what_needs_a_label_costs_nothing_and_teaches_nothing_without_one(loss):
    outputs, batch = scene(5)
    logits = outputs.logits.requires_grad_()
    cost = evaluate(loss, outputs, unlabelled(batch)) + 0 * logits.sum()
    (gradient,) = torch.autograd.grad(cost, logits)
    nothing = cost.item() == 0 and torch.count_nonzero(gradient) == 0
    assert nothing == bool(loss.labels) or isinstance(loss, Reconstruction)
    assert loss.labels <= loss.reads


@every_loss
def test_what_a_loss_does_not_say_it_reads_changes_nothing(loss):
    outputs, batch = scene(6)
    other = {"moved": -outputs.logits, "teacher": outputs.logits.sigmoid()}
    other["reconstruction"] = outputs.reconstruction + 1
    changed = {k: v for k, v in other.items() if k not in loss.reads}
    along = {"mask": "has_mask", "target": "target_weight"}
    read = loss.reads | {along[name] for name in loss.reads if name in along} | {"image", "index"}
    fields = vars(unlabelled(batch)) | {"mask": ~batch.mask, "target": 1 - batch.target}
    fields |= {"soft": 1 - batch.soft}
    unread = {name: value for name, value in fields.items() if name not in read}
    before = evaluate(loss, outputs, batch)
    answers, labels = dataclasses.replace(outputs, **changed), dataclasses.replace(batch, **unread)
    denominators = OF_IMAGE if loss.kind in BY_RATIO else (1, 0)
    assert torch.equal(evaluate(loss, answers, labels, denominators), before)


@every_loss
def test_a_finer_grid_of_the_same_picture_costs_the_same(loss):
    outputs, batch = scene(7)

    def finer(values: Tensor) -> Tensor:
        is_map = values.ndim > 2 and values.shape[-1] == SIDE
        return values.repeat_interleave(2, -1).repeat_interleave(2, -2) if is_map else values

    coarse = evaluate(loss, outputs, batch)
    fine = evaluate(loss, mapped(outputs, finer), mapped(batch, finer))
    tolerance = 0.1 if loss.kind in SMOOTHED else 1e-9
    if not isinstance(loss, BoxTightness):  # whose strips are whole rows: see its own tests
        assert fine.item() == pytest.approx(coarse.item(), rel=tolerance, abs=1e-12)


@every_loss
def test_the_true_answer_costs_nothing_and_a_wrong_one_something(loss):
    outputs, batch = scene(8)
    true = batch.mask.double() * 2000 - 1000
    teacher = batch.mask.double()
    if isinstance(loss, RatioPrior):
        loss = RatioPrior(prior=tuple(batch.ratio.mean(0).tolist()))
    if isinstance(loss, BoxSize):
        loss = BoxSize(parts=(0.5, 1.0))  # these regions fill their boxes
    right = evaluate(loss, Outputs(true, batch.image, true, teacher), batch).item()
    if loss.kind not in NEVER_ZERO:
        assert right == pytest.approx(0, abs=1e-6)
    wrong = dataclasses.replace(outputs, logits=torch.full_like(true, 1.0), moved=-true)
    absent = dataclasses.replace(batch, present=torch.zeros_like(batch.present))
    empty = dataclasses.replace(wrong, logits=torch.full_like(true, -8.0))
    answered = ((wrong, batch), (wrong, absent), (empty, batch))
    assert max(evaluate(loss, *pair).item() for pair in answered) > max(right, 1e-3)
