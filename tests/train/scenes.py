"""Pictures with every kind of label, all true, and random answers to them."""

import torch
from torch import Tensor

from wsseg.train.data.batch import Batch, Outputs

SIDE = 12


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
