"""Terms on weak marks alone: the pixels that are not marked say nothing.

Source: the partial cross-entropy of Tang et al., "On Regularized Losses for Weakly-supervised CNN
Segmentation", ECCV 2018, here balanced, and the Dice overlap restricted to the same pixels.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wsseg.train.data.batch import NOT_MARKED
from wsseg.train.terms.areas import marked_as, mean_where, widened
from wsseg.train.terms.supervised import SMOOTHING_PIXELS


def partial_cross_entropy_loss(
    logits: Float[Tensor, "b k h w"], marks: Int[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """mean of -log p over the pixels marked as the class + mean of -log(1 - p) over other marks.

    In nats. marks: class number 1..k, 255 for background, 0 for not marked; a pixel marked as
    background or as another class is a negative of the class. The two means weigh the same however
    many pixels each has, because a mark of the background is often much larger; an empty one is 0.
    """
    logits = widened(logits)
    positive = marked_as(marks, logits.shape[1])
    negative = (marks != NOT_MARKED).unsqueeze(1) & ~positive
    missed = mean_where(-F.logsigmoid(logits), positive)
    wrong = mean_where(-F.logsigmoid(-logits), negative)
    return (missed + wrong).mean()


def partial_dice_loss(
    logits: Float[Tensor, "b k h w"], marks: Int[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """1 - (2 sum(p m) + s) / (sum(p) + sum(m) + s) over the marked pixels only, in 0..1.

    m is 1 where the class is marked, 0 on other marks; s is one pixel. An image without marks
    costs exactly 0.
    """
    marked = (marks != NOT_MARKED).unsqueeze(1)
    probabilities = torch.sigmoid(widened(logits)) * marked
    positive = marked_as(marks, logits.shape[1]).to(probabilities.dtype)
    overlap = (probabilities * positive).sum((-2, -1))
    total = probabilities.sum((-2, -1)) + positive.sum((-2, -1))
    return (1 - (2 * overlap + SMOOTHING_PIXELS) / (total + SMOOTHING_PIXELS)).mean()
