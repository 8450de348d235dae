"""Losses on full masks, for the fully supervised comparison.

Per image and class first, then the mean over classes and images; an image without a mask
contributes 0 and still counts, so that a batch split evenly over processes has the same mean.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wsseg.train.terms.areas import widened

SMOOTHING_PIXELS = 1.0
"""Added above and below in Dice: an empty mask is then a defined target, and one stray pixel on
an empty mask costs a half, not everything."""


def cross_entropy_loss(
    logits: Float[Tensor, "b k h w"],
    mask: Bool[Tensor, "b k h w"],
    has_mask: Bool[Tensor, " b"],
) -> Float[Tensor, ""]:
    """Binary cross-entropy in nats, mean over the pixels of an image; each class on its own."""
    logits = widened(logits)
    cost = F.binary_cross_entropy_with_logits(logits, mask.to(logits.dtype), reduction="none")
    return _masked_mean(cost.mean((-2, -1)), has_mask)


def dice_loss(
    logits: Float[Tensor, "b k h w"],
    mask: Bool[Tensor, "b k h w"],
    has_mask: Bool[Tensor, " b"],
) -> Float[Tensor, ""]:
    """1 - (2 sum(p m) + s) / (sum(p) + sum(m) + s), in 0..1, with s one pixel.

    Exactly 0 for an empty prediction of an empty mask. Source: the Dice overlap as a loss, after
    Milletari et al., "V-Net", 3DV 2016, with plain instead of squared sums below.
    """
    probabilities = torch.sigmoid(widened(logits))
    target = mask.to(probabilities.dtype)
    overlap = (probabilities * target).sum((-2, -1))
    total = probabilities.sum((-2, -1)) + target.sum((-2, -1))
    cost = 1 - (2 * overlap + SMOOTHING_PIXELS) / (total + SMOOTHING_PIXELS)
    return _masked_mean(cost, has_mask)


def _masked_mean(cost: Float[Tensor, "b k"], has_mask: Bool[Tensor, " b"]) -> Float[Tensor, ""]:
    return torch.where(has_mask.unsqueeze(1), cost, torch.zeros_like(cost)).mean()
