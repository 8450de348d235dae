"""Pictures with every kind of label, all true, random answers to them, and what these cost."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wsseg.imaging import Denominator
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.losses import Context, Loss

SIDE = 12
NAN = float("nan")


def any_seed(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test for a few seeds: a random map has many pixels, each of which is an example."""
    return settings(max_examples=10)(given(seed=st.integers(0, 2**32 - 1))(test))


def evaluate(
    loss: Loss, outputs: Outputs, batch: Batch, denominators: tuple[Denominator, ...] = ()
) -> Tensor:
    """The cost in the middle of a run in which nothing has been seen before."""
    image: Denominator = "image"
    context = Context(denominators or (image,) * outputs.logits.shape[1])
    return loss(outputs, batch, replace(loss.begin(context), progress=0.5))


def cost_of(
    loss: Loss, logits: Tensor, denominators: tuple[Denominator, ...] = (), **known: Tensor
) -> Tensor:
    """The cost of these logits where only the fields `known` of batch and outputs are known."""
    count, classes, *shape = logits.shape

    def full(value: float, *sizes: int, dtype: torch.dtype = logits.dtype) -> Tensor:
        return torch.full((count, *sizes), value, dtype=dtype)

    fields: dict[str, Any] = {
        name: full(NAN, classes, *sizes)
        for name, sizes in (
            *(("ratio", ()), ("present", ()), ("bounds", (2,))),
            *(("box", (4,)), ("centroid", (2,)), ("spread", (2,))),
        )
    }
    fields |= {name: full(0, classes, *shape) for name in ("target", "target_weight", "soft")}
    fields |= {
        "image": full(0, 1, *shape),
        "marks": full(0, *shape, dtype=torch.long),
        "mask": full(0, classes, *shape, dtype=torch.bool),
        "has_mask": full(0, dtype=torch.bool),
        "index": torch.arange(count),
    }
    answers: dict[str, Any] = {"reconstruction": fields["image"]} | known
    fields |= {name: answers.pop(name) for name in fields if name in answers}
    return evaluate(loss, Outputs(logits, **answers), Batch(**fields), denominators)


def draw_labels(draw: torch.Generator) -> Tensor:
    """A label map with a rectangle of class 1 in its upper and one of class 2 in its lower half."""
    labels = torch.zeros(SIDE, SIDE, dtype=torch.long)
    for number in (1, 2):
        top, left = torch.randint(0, 3, (2,), generator=draw).tolist()
        height, width = torch.randint(3, 5, (2,), generator=draw).tolist()
        rows = slice((number - 1) * SIDE // 2 + min(top, 1), (number - 1) * SIDE // 2 + 1 + height)
        labels[rows, left : left + width] = number
    return labels


def shape_of(mask: Tensor) -> list[float]:
    """Box (4), centroid (2) and spread (2) of a mask, as shares of the side."""
    places = mask.nonzero().double()
    spread = (places.var(0, unbiased=False) + 1 / 12).sqrt()
    edges = torch.cat([places.min(0).values, places.max(0).values + 1])
    return (torch.cat([edges, (places + 0.5).mean(0), spread]) / SIDE).tolist()


def scene(seed: int, count: int = 3, scale: float = 3.0) -> tuple[Outputs, Batch]:
    """Pictures of two classes with every kind of label, all true, and random answers; float64."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.stack([draw_labels(draw) for _ in range(count)])
    mask = torch.stack([labels == 1, labels == 2], 1)
    known = torch.rand(labels.shape, generator=draw) < 0.3
    ratio = mask.double().mean((2, 3))
    shapes = torch.tensor([[shape_of(layer) for layer in layers] for layers in mask]).double()
    image = labels.double()[:, None] / 2
    batch = Batch(
        image=image,
        ratio=ratio,
        bounds=torch.stack([ratio * 0.8, ratio * 1.2], -1),
        present=torch.ones(count, 2, dtype=torch.float64),
        box=shapes[..., :4],
        centroid=shapes[..., 4:6],
        spread=shapes[..., 6:],
        marks=torch.where(known, torch.where(labels == 0, 255, labels), 0),
        mask=mask,
        has_mask=torch.ones(count, dtype=torch.bool),
        target=mask.double(),
        target_weight=torch.rand(mask.shape, generator=draw, dtype=torch.float64),
        soft=mask.double(),
        index=torch.arange(count),
    )
    logits = scale * torch.randn(3, *mask.shape, generator=draw, dtype=torch.float64)
    return Outputs(logits[0], image * 0.5, logits[1], logits[2].sigmoid()), batch
