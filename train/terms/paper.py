"""Loss terms of the summary-statistics paper, as functions of logits.

Source of all four: Kulkarni, Raff, Oates, "Learning to Segment using Summary Statistics and Weak
Supervision". Notation and averages: see `areas.py`. The paper's fourth term, on the size, is
`size_loss` in `size.py`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wsseg.train.terms.areas import marked_as, widened


def confidence_loss(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, ""]:
    """L_c = mean(1/4 - (1/2 - p)^2), which is mean(p (1 - p)); in 0..1/4.

    Largest at p = 1/2, zero for any map of zeros and ones, so also for an empty map and for a map
    that takes everything: it never says where. Its gradient in z is zero at p = 1/2 and largest at
    p = 0.21 and 0.79. Computed as sigmoid(z) sigmoid(-z), which loses no digits near 0 and 1.
    """
    logits = widened(logits)
    return (torch.sigmoid(logits) * torch.sigmoid(-logits)).mean()


def reconstruction_loss(
    reconstruction: Float[Tensor, "b c h w"], image: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """L_r = ||I - Y||_1, read as a mean: mean absolute difference, in the image's 0..1 scale.

    The paper's norm is a sum, whose size would depend on the picture's size and the channels.
    """
    return (widened(reconstruction) - widened(image)).abs().mean()


def weak_mark_loss(
    logits: Float[Tensor, "b k h w"],
    marks: Int[Tensor, "b h w"],
    *,
    average: Literal["image", "mark"],
) -> Float[Tensor, ""]:
    """L_ws = -[M log(M p) + (1 - M) log(1 - M p)] for the weak mark M of each class.

    Where M = 0 both logarithms are of what should count as nothing: the first product is 0 log 0,
    undefined as it stands and taken as 0, the second is log 1 = 0. Where M = 1 the first is log p
    and the second 0 log(1 - p), 0 by the same reading at p = 1. What remains is -log p =
    softplus(-z) on the mark. It has no negatives: p = 1 everywhere is its minimum.

    marks: class number 1..k where a class is marked; any other value is not annotated here.
    average: "image" divides the sum over the mark by all N pixels (the formula as a mean over the
    picture), "mark" by the marked pixels of that image and class; an empty mark costs 0. The paper
    has one class; with several, the mean over the classes is taken.
    """
    logits = widened(logits)
    marked = marked_as(marks, logits.shape[1])
    cost = torch.where(marked, -F.logsigmoid(logits), logits.new_zeros(()))
    sums = cost.sum((-2, -1))
    if average == "image":
        return (sums / marks[0].numel()).mean()
    return (sums / marked.sum((-2, -1)).clamp(min=1)).mean()
