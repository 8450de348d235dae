"""The four loss terms of the summary-statistics paper, as functions of logits.

Source of all four: Kulkarni, Raff, Oates, "Learning to Segment using Summary Statistics and Weak
Supervision". Notation: z logit, p = sigmoid(z), N pixels of an image.

Each term is computed per image and class, then averaged over classes and images. What is not
annotated contributes 0 and still counts in the average, so that a batch split evenly over
processes has the same mean as the whole. Half-precision inputs are widened to float32 first;
every term and its gradient are finite for |z| up to 1e4.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wsseg.train.ratios import Denominator


def widened(values: Tensor) -> Tensor:
    """The same values in float32, or in float64 if that is what they are."""
    return values if values.dtype == torch.float64 else values.float()


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
    numbers = torch.arange(1, logits.shape[1] + 1, device=marks.device)
    marked = marks.unsqueeze(1) == numbers.view(1, -1, 1, 1)
    cost = torch.where(marked, -F.logsigmoid(logits), logits.new_zeros(()))
    sums = cost.sum((-2, -1))
    if average == "image":
        return (sums / marks[0].numel()).mean()
    return (sums / marked.sum((-2, -1)).clamp(min=1)).mean()


def size_loss(
    logits: Float[Tensor, "b k h w"],
    ratio: Float[Tensor, "b k"],
    denominators: tuple[Denominator, ...],
) -> Float[Tensor, ""]:
    """L_s = |S - v| for the soft ratio S and the known ratio v of each image and class.

    ratio: v as a fraction of the class's denominator; NaN where unknown, which contributes 0.
    The error is absolute: an empty prediction of a small region costs only v. For the formula of
    S see `soft_ratios`. The derivative at S = v is taken as 0.
    """
    known = ~torch.isnan(ratio)
    soft = soft_ratios(logits, denominators)
    # The unknown is replaced before the difference: NaN times 0 would still be NaN.
    target = torch.where(known, ratio, torch.zeros_like(ratio)).to(soft.dtype)
    return ((soft - target).abs() * known).mean()


def soft_ratios(
    logits: Float[Tensor, "b k h w"], denominators: tuple[Denominator, ...]
) -> Float[Tensor, "b k"]:
    """S = sum of p over the soft size of the denominator, per image and class.

    The denominator is N for "image"; the sum of the probability of any class, 1 - prod(1 - p) over
    the classes, for "foreground"; the sum of that class's p for a class. A denominator of less
    than one pixel counts as one pixel, which keeps S and its gradient finite where it is empty.
    """
    logits = widened(logits)
    areas = torch.sigmoid(logits).sum((-2, -1))
    image = areas.new_full(areas.shape[:1], logits[0, 0].numel())
    # log prod(1 - p) = sum log sigmoid(-z); expm1 keeps the digits of a small probability.
    foreground = -torch.expm1(F.logsigmoid(-logits).sum(1)).sum((-2, -1))
    sizes = {"image": image, "foreground": foreground}
    below = [sizes[d] if isinstance(d, str) else areas[:, d] for d in denominators]
    return areas / torch.stack(below, 1).clamp(min=1)
