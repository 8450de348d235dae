"""Terms on where a class is and how far it reaches: first and second moments of its soft region.

Places are shares 0..1 of the frame's side, rows before columns. NaN is unknown, and contributes 0.
Source: Kervadec et al., "Beyond pixel-wise supervision for segmentation: A few global shape
descriptors might be surprisingly good!", MIDL 2021; there as log-barriers in pixels.

The weights p / sum(p) are taken as softmax(log p): they sum to 1 however small p is, so that a map
that is almost empty still has a centre, and a gradient that moves it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wsseg.train.terms.areas import counted_mean, filled, widened


def centroid_loss(
    logits: Float[Tensor, "b k h w"], centroid: Float[Tensor, "b k 2"], *, margin: float
) -> Float[Tensor, ""]:
    """Distance of the centre of mass from the known one beyond the margin, mean of both axes.

    centroid: row and column. margin: on either side, per axis; within it the gradient is zero.
    All in shares of the side.
    """
    centre = torch.stack([mean for mean, _ in _moments(logits)], -1)
    return _beyond(centre, centroid, margin)


def spread_loss(
    logits: Float[Tensor, "b k h w"], spread: Float[Tensor, "b k 2"], *, margin: float
) -> Float[Tensor, ""]:
    """Difference of the standard deviations from the known ones beyond the margin, as above.

    A pixel spreads by 1 / sqrt(12) of its own side, which is counted in: a region has the same
    spread at any resolution, and the square root is never taken of 0, where its slope has no bound.
    """
    deviation = torch.stack([variance.sqrt() for _, variance in _moments(logits)], -1)
    return _beyond(deviation, spread, margin)


def _moments(
    logits: Float[Tensor, "b k h w"],
) -> list[tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]]:
    """Mean and variance of the rows, then of the columns."""
    inside = F.logsigmoid(widened(logits))
    weights = inside.flatten(2).softmax(-1).view_as(inside)
    found = []
    for marginal in (weights.sum(-1), weights.sum(-2)):
        count = marginal.shape[-1]
        place = (torch.arange(count, device=logits.device, dtype=marginal.dtype) + 0.5) / count
        mean = (marginal * place).sum(-1)
        distance = (place - mean.unsqueeze(-1)).square()
        found.append((mean, (marginal * distance).sum(-1) + 1 / (12 * count**2)))
    return found


def _beyond(
    found: Float[Tensor, "b k 2"], stated: Float[Tensor, "b k 2"], margin: float
) -> Float[Tensor, ""]:
    target, known = filled(stated, found)
    return counted_mean(((found - target).abs() - margin).relu(), known)
