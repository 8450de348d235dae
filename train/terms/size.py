"""Terms on a known area ratio. NaN is an unknown ratio, which contributes 0 and still counts."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wsseg.train.cases.schema import Denominator
from wsseg.train.terms.areas import (
    area_log_odds,
    counted_mean,
    filled,
    known_shares,
    soft_ratios,
    widened,
)


def size_loss(
    logits: Float[Tensor, "b k h w"],
    ratio: Float[Tensor, "b k"],
    denominators: tuple[Denominator, ...],
) -> Float[Tensor, ""]:
    """L_s = |S - v| for the soft ratio S and the known ratio v of each image and class.

    ratio: v as a fraction of the class's denominator. The error is absolute: an empty prediction
    of a small region costs only v. For the formula of S see `soft_ratios`. The derivative at S = v
    is taken as 0. Source: Kulkarni, Raff, Oates, see `paper.py`.
    """
    soft = soft_ratios(logits, denominators)
    target, known = filled(ratio, soft)
    return counted_mean((soft - target).abs(), known)


def size_kl_loss(
    logits: Float[Tensor, "b k h w"],
    ratio: Float[Tensor, "b k"],
    denominators: tuple[Denominator, ...],
) -> Float[Tensor, ""]:
    """KL(v || S) = v log(v / S) + (1 - v) log((1 - v) / (1 - S)), in nats; 0 where S = v.

    It avoids zeros: the cost of an empty prediction of a region that is there has no bound, as
    `size_loss` would have one. Its gradient in the log-odds of S is S - v. At v = 0 only
    -log(1 - S) is left, at v = 1 only -log S. v and S are shares: a ratio over another class is
    compared as the class's share of both, v / (1 + v), see `area_log_odds`.

    Source: the zero-avoiding size target of Fan, Zhang, Boykov, "Approximate Size Targets Are
    Sufficient for Accurate Semantic Segmentation", arXiv 2503.06954.
    """
    odds = area_log_odds(logits, denominators)
    share, known = filled(known_shares(widened(ratio), denominators), odds)
    cross = F.binary_cross_entropy_with_logits(odds, share, reduction="none")
    entropy = -torch.xlogy(share, share) - torch.xlogy(1 - share, 1 - share)
    return counted_mean(cross - entropy, known)


def area_l2_loss(
    logits: Float[Tensor, "b k h w"],
    ratio: Float[Tensor, "b k"],
    denominators: tuple[Denominator, ...],
) -> Float[Tensor, ""]:
    """(S - v)^2 where the class is there, v > 0; an image without it is left to its tag.

    Source: the area constraint of Jia et al., "Constrained Deep Weak Supervision for
    Histopathology Image Segmentation", IEEE TMI 2017.
    """
    soft = soft_ratios(logits, denominators)
    target, known = filled(ratio, soft)
    return counted_mean((soft - target).square(), known & (target > 0))
