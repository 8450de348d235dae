"""Soft areas of probability maps, and what all terms share.

Notation of every term: z logit, p = sigmoid(z), N pixels of an image, S soft ratio, v known ratio.
A term is computed per image and class, then averaged over classes and images. What is not known
contributes 0 and still counts in the average, so that a batch split evenly over processes has the
same mean as the whole. Half-precision inputs are widened to float32 first; every term and its
gradient are finite for |z| up to 1e4.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wsseg.train.cases.schema import Denominator

SMALLEST = 1e-30
"""Kept inside logarithms of what may be nothing: float32 still holds it, and its inverse."""


def widened(values: Tensor) -> Tensor:
    """The same values in float32, or in float64 if that is what they are."""
    return values if values.dtype == torch.float64 else values.float()


def filled(values: Float[Tensor, "*s"], like: Tensor) -> tuple[Tensor, Bool[Tensor, "*s"]]:
    """The values in the precision of `like`, 0 in place of NaN, and which of them are known.

    The unknown must be gone before any arithmetic: NaN times 0 is still NaN, also in a gradient.
    """
    known = ~torch.isnan(values)
    return torch.where(known, values, torch.zeros_like(values)).to(like.dtype), known


def counted_mean(cost: Float[Tensor, "*s"], known: Bool[Tensor, "*s"]) -> Float[Tensor, ""]:
    """Mean over all places, the unknown contributing 0."""
    return torch.where(known, cost, torch.zeros_like(cost)).mean()


def marked_as(marks: Int[Tensor, "b h w"], classes: int) -> Bool[Tensor, "b k h w"]:
    """Where each class 1..k is marked."""
    numbers = torch.arange(1, classes + 1, device=marks.device)
    return marks.unsqueeze(1) == numbers.view(1, -1, 1, 1)


def mean_where(
    cost: Float[Tensor, "b k h w"], where: Bool[Tensor, "b k h w"]
) -> Float[Tensor, "b k"]:
    """Mean of each image and class over the chosen pixels; 0 where none is chosen."""
    total = torch.where(where, cost, torch.zeros_like(cost)).sum((-2, -1))
    return total / where.sum((-2, -1)).clamp(min=1)


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


def area_log_odds(
    logits: Float[Tensor, "b k h w"], denominators: tuple[Denominator, ...]
) -> Float[Tensor, "b k"]:
    """log(A / R): A is the class's soft area, R that of what the class is compared with.

    sigmoid of it is the class's share A / (A + R). R is the sum of 1 - p for "image", so that the
    share is S; the area that carries another class and not this one for "foreground", where it is S
    again; the other class's area for a class, where the ratio A / R may exceed 1 and the share may
    not, see `known_shares`. Taken as the difference of two logsumexp: it never saturates, so its
    gradient does not vanish as the map becomes empty or full.
    """
    logits = widened(logits)
    inside, outside = F.logsigmoid(logits), F.logsigmoid(-logits)
    areas = inside.logsumexp((-2, -1))
    rest = outside.logsumexp((-2, -1))
    if "foreground" in denominators:
        others = (outside.sum(1, keepdim=True) - outside).clamp(max=-SMALLEST)
        foreground = (outside + torch.log(-torch.expm1(others))).logsumexp((-2, -1))
    else:
        foreground = rest
    parts = []
    for place, denominator in enumerate(denominators):
        if isinstance(denominator, int):
            parts.append(areas[:, denominator])
        else:
            parts.append((rest if denominator == "image" else foreground)[:, place])
    return areas - torch.stack(parts, 1)


def known_shares(
    ratio: Float[Tensor, "*b k"], denominators: tuple[Denominator, ...]
) -> Float[Tensor, "*b k"]:
    """Known ratios as the shares A / (A + R) of `area_log_odds`, NaN staying NaN.

    Over another class a ratio v = A / R is the share v / (1 + v); any other ratio is a share.
    """
    over_class = torch.tensor([isinstance(d, int) for d in denominators], device=ratio.device)
    return torch.where(over_class, ratio / (1 + ratio), ratio)


def log_generalised_mean(logits: Float[Tensor, "b k h w"], exponent: float) -> Float[Tensor, "b k"]:
    """log of (mean p^r)^(1/r) over the pixels: log S at r = 1, nearing log max p as r grows."""
    inside = exponent * F.logsigmoid(widened(logits))
    pixels = math.log(logits[0, 0].numel())
    return (inside.logsumexp((-2, -1)) - pixels) / exponent
