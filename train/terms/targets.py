"""Terms on soft targets: each pixel is taught a probability, with a weight that says how surely.

Targets and weights lie in 0..1. The largest weight of an image and class says how much it counts at
all: one whose weights are all 0 contributes 0, and still counts in the mean.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wsseg.train.terms.areas import widened
from wsseg.train.terms.supervised import SMOOTHING_PIXELS


def target_cross_entropy_loss(
    logits: Float[Tensor, "b k h w"],
    target: Float[Tensor, "b k h w"],
    weight: Float[Tensor, "b k h w"],
) -> Float[Tensor, ""]:
    """max(w) sum(w c) / sum(w), c = -t log p - (1 - t) log(1 - p) in nats, per image and class.

    The weighted mean over the pixels, times the largest weight: an image of which nothing is sure
    counts less, one of which little is taught does not. At p = t what is left is the entropy of the
    target itself, which is 0 only where t is 0 or 1.
    """
    logits = widened(logits)
    cost = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    weight = weight.to(logits.dtype)
    total = weight.sum((-2, -1))
    mean = (weight * cost).sum((-2, -1)) / torch.where(total > 0, total, 1)
    return (weight.amax((-2, -1)) * mean).mean()


def target_dice_loss(
    logits: Float[Tensor, "b k h w"],
    target: Float[Tensor, "b k h w"],
    weight: Float[Tensor, "b k h w"],
) -> Float[Tensor, ""]:
    """max(w) (1 - (2 sum(w p t) + s) / (sum(w p) + sum(w t) + s)), in 0..1, with s one pixel.

    Plain sums, as `dice_loss` has them: 0 for a target of zeros and ones that is met. A target
    between is drawn to the nearer of the two; only the cross-entropy keeps it where it is.
    """
    probabilities = torch.sigmoid(widened(logits))
    target, weight = target.to(probabilities.dtype), weight.to(probabilities.dtype)
    overlap = (weight * probabilities * target).sum((-2, -1))
    total = (weight * probabilities).sum((-2, -1)) + (weight * target).sum((-2, -1))
    cost = 1 - (2 * overlap + SMOOTHING_PIXELS) / (total + SMOOTHING_PIXELS)
    return (weight.amax((-2, -1)) * cost).mean()
