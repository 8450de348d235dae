"""Losses on the area of a class: its known ratio, bounds or a prior of the ratio, image tags.

NaN is an unknown ratio, bound or tag, which contributes 0 and still counts. A tag is 1 if the class
is in the image and 0 if it is not.
"""

import logging
import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from wsseg.imaging.definitions import Denominator
from wsseg.imaging.errors import WssegError
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.losses.base import (
    Context,
    Inputs,
    Interval,
    Loss,
    MovingMean,
    PositiveShare,
    counted_mean,
    filled,
    supervised,
    widened,
)

SMALLEST = 1e-30
"""The least magnitude inside logarithms; float32 still represents it and its inverse."""

LEAST_UPPER = 0.01
"""The least upper bound that an excess is divided by: over 0, the upper bound of an absent class,
an excess has no relative size."""

SMALLEST_SHARE = 1e-6
"""A mean share is kept this far from 0 and 1: a fifteenth of a pixel of 256^2."""

FAR = 20.0
"""A prior that differs by more than this factor from the mean ratio of the cases may be in another
unit."""

log = logging.getLogger(__name__)


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
    chosen = [sizes[d] if isinstance(d, str) else areas[:, d] for d in denominators]
    return areas / torch.stack(chosen, 1).clamp(min=1)


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
    chosen = []
    for class_index, denominator in enumerate(denominators):
        if isinstance(denominator, int):
            chosen.append(areas[:, denominator])
        else:
            chosen.append((rest if denominator == "image" else foreground)[:, class_index])
    return areas - torch.stack(chosen, 1)


def known_shares(
    ratio: Float[Tensor, "*b k"], denominators: tuple[Denominator, ...]
) -> Float[Tensor, "*b k"]:
    """Known ratios as the shares A / (A + R) of `area_log_odds`, NaN staying NaN.

    Over another class a ratio v = A / R is the share v / (1 + v); any other ratio is a share.
    """
    over_class = torch.tensor([isinstance(d, int) for d in denominators], device=ratio.device)
    return torch.where(over_class, ratio / (1 + ratio), ratio)


class Size(Loss):
    """L_s = |S - v| for the soft ratio S and the known ratio v of each image and class.

    The error is absolute: an empty prediction of a small region costs only v. For the formula of S
    see `soft_ratios`. The derivative at S = v is taken as 0. Source: Kulkarni, Raff, Oates, see
    `pixelwise.py`.
    """

    kind: Literal["size"] = "size"
    inputs: ClassVar[Inputs] = supervised("ratio")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        soft = soft_ratios(outputs.logits, context.denominators)
        ratio, known = filled(batch.ratio, soft)
        return counted_mean((soft - ratio).abs(), known)


class SizeKl(Loss):
    """KL(v || S) = v log(v / S) + (1 - v) log((1 - v) / (1 - S)), in nats; 0 where S = v.

    It avoids zeros: unlike `Size`, it has no upper bound for an empty prediction of a region that
    is present. Its gradient in the log-odds of S is S - v. At v = 0 only -log(1 - S) is left, at
    v = 1 only -log S. v and S are shares: a ratio over another class is compared as the class's
    share of both, v / (1 + v), see `area_log_odds`.

    Source: the zero-avoiding size target of Fan, Zhang, Boykov, "Approximate Size Targets Are
    Sufficient for Accurate Semantic Segmentation", arXiv 2503.06954.
    """

    kind: Literal["size_kl"] = "size_kl"
    inputs: ClassVar[Inputs] = supervised("ratio")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        odds = area_log_odds(outputs.logits, context.denominators)
        share, known = filled(known_shares(widened(batch.ratio), context.denominators), odds)
        cross = F.binary_cross_entropy_with_logits(odds, share, reduction="none")
        entropy = -torch.xlogy(share, share) - torch.xlogy(1 - share, 1 - share)
        return counted_mean(cross - entropy, known)


class AreaL2(Loss):
    """(S - v)^2 where the class is present, v > 0; an image without it is left to its tag.

    Source: the area constraint of Jia et al., "Constrained Deep Weak Supervision for
    Histopathology Image Segmentation", IEEE TMI 2017.
    """

    kind: Literal["area_l2"] = "area_l2"
    inputs: ClassVar[Inputs] = supervised("ratio")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        soft = soft_ratios(outputs.logits, context.denominators)
        ratio, known = filled(batch.ratio, soft)
        return counted_mean((soft - ratio).square(), known & (ratio > 0))


def bounds_excess(
    logits: Float[Tensor, "b k h w"],
    bounds: Float[Tensor, "b k 2"],
    denominators: tuple[Denominator, ...],
) -> Float[Tensor, "b k 2"]:
    """(a - S) / a and (S - b) / b for the bounds a <= S <= b; -1, which costs 0, without a bound.

    Distances are relative to the bound that is missed, so they have no unit: a region of half its
    smallest size is as wrong at 1 % of an image as at 20 %, and at any resolution. An empty
    prediction gives 1 however small a is; b counts as `LEAST_UPPER` where it is smaller; a = 0
    asks for nothing.
    """
    soft = soft_ratios(logits, denominators)
    values, known = filled(widened(bounds), soft)
    low, high = values.unbind(-1)
    asked = torch.stack([known[..., 0] & (low > 0), known[..., 1]], -1)
    below = (low - soft) / torch.where(low > 0, low, 1)
    above = (soft - high) / high.clamp(min=LEAST_UPPER)
    excess = torch.stack([below, above], -1)
    return torch.where(asked, excess, excess.new_tensor(-1.0))


class BoundedLoss(Loss):
    """A loss on bounds of a ratio, as fractions of the class's denominator.

    margin: a known ratio, less and more this fraction of itself, bounds it; none: a known ratio is
    not used. common: bounds for every other image in which the class is not tagged as absent; with
    them the loss teaches from any image.
    """

    margin: NonNegativeFloat | None = 0.1
    common: Interval | None = None

    @property
    def reads(self) -> frozenset[str]:
        """The ratio only where a margin makes bounds of it."""
        return frozenset({"bounds", "present"} | ({"ratio"} if self.margin is not None else set()))

    @property
    def labels(self) -> frozenset[str]:
        """Any of what it reads, unless all images have bounds in common."""
        return frozenset() if self.common else self.reads

    def bounds(self, batch: Batch) -> Float[Tensor, "b k 2"]:
        """The bounds of each image and class, from the most to the least particular that is known.

        First those stated for the case, of which one may be missing. Then its ratio with `margin`
        to both sides. Then 0 and 0 for a class tagged as absent, and the `common` bounds for any
        other. NaN where none of these is known.
        """
        stated, ratio = batch.bounds, batch.ratio
        fallback = torch.full_like(stated, float("nan"))
        if self.common is not None:
            fallback = fallback.new_tensor(self.common).expand_as(stated)
        absent = (batch.present == 0).unsqueeze(-1)
        chosen = torch.where(absent, torch.zeros_like(stated), fallback)
        if self.margin is not None:
            around = torch.stack([ratio * (1 - self.margin), ratio * (1 + self.margin)], -1)
            chosen = torch.where(torch.isnan(ratio).unsqueeze(-1), chosen, around.to(chosen.dtype))
        return torch.where(torch.isnan(stated).all(-1, keepdim=True), chosen, stated)


class SizeBounds(BoundedLoss):
    """((a - S) / a)^2 below the lower bound a, ((S - b) / b)^2 above the upper bound b, else 0.

    The gradient is exactly zero within the bounds. For what is special at 0 see `bounds_excess`.
    Source: Kervadec et al., "Constrained-CNN losses for weakly supervised segmentation", Medical
    Image Analysis 2019, whose distances are in pixels.
    """

    kind: Literal["size_bounds"] = "size_bounds"

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        excess = bounds_excess(outputs.logits, self.bounds(batch), context.denominators)
        return excess.relu().square().sum(-1).mean()


class SizeBarrier(BoundedLoss):
    """psi((a - S) / a) + psi((S - b) / b) with the log-barrier psi, see `log_barrier`.

    It pushes before a bound is reached, and a little below 0 far within them. sharpness,
    final_sharpness: of psi at the start and at the end of the run, with a constant rate of growth.
    """

    kind: Literal["size_barrier"] = "size_barrier"
    weight: PositiveFloat = 0.1
    sharpness: Annotated[float, Field(ge=1, le=50)] = 5.0
    final_sharpness: Annotated[float, Field(ge=1, le=50)] = 50.0

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        excess = bounds_excess(outputs.logits, self.bounds(batch), context.denominators)
        growth = self.final_sharpness / self.sharpness
        return log_barrier(excess, self.sharpness * growth**context.progress).sum(-1).mean()


def log_barrier(excess: Float[Tensor, "*s"], sharpness: float) -> Float[Tensor, "*s"]:
    """psi_t(x) = -log(-x) / t for x <= -1/t^2, else t x - log(1/t^2) / t + 1/t, for t = sharpness.

    x < 0 keeps the constraint, x > 0 breaks it. The two parts meet with equal value and slope t,
    so the cost and its gradient are finite everywhere. As t grows it nears a wall at 0.
    Source: Kervadec et al., "Constrained deep networks: Lagrangian optimization via log-barrier
    extensions", arXiv 1904.04205.
    """
    edge = -1 / sharpness**2
    within = excess <= edge
    # The logarithm sees only arguments that it is used for: elsewhere its gradient would be NaN.
    curved = -torch.log(-torch.where(within, excess, edge)) / sharpness
    straight = sharpness * (excess - edge) - math.log(-edge) / sharpness
    return torch.where(within, curved, straight)


class RatioPrior(Loss):
    """KL(q || m), see `prior_divergence`, of the mean share m over images from a prior q.

    For data sets in which the ratio of no image is known. prior: one ratio per class; if empty, the
    mean of the training cases. decay: of the moving mean, in 0..1. Source: Zhou et al.,
    "Prior-aware Neural Network for Partially-Supervised Multi-Organ Segmentation", ICCV 2019. The
    mean over a data set is not a mean of the costs of batches; there it is followed by dual
    variables, here by a moving average of the mean share.
    """

    kind: Literal["ratio_prior"] = "ratio_prior"
    prior: tuple[NonNegativeFloat, ...] = ()
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def begin(self, context: Context) -> Context:
        """Return the context with the prior of the settings, if there is one, and a moving mean."""
        classes = len(context.denominators)
        prior = self.prior or context.prior
        known = sum(not math.isnan(ratio) for ratio in prior)
        if len(prior) != classes or not known:
            raise WssegError(
                f"ratio_prior knows the ratio of {known} of {classes} classes: "
                f"give one for each as its prior, or a table that has ratios"
            )
        self._check_unit(context)
        return replace(context, prior=prior, moving=MovingMean(classes, self.decay))

    def _check_unit(self, context: Context) -> None:
        """Raise WssegError for a prior above 1; warn of one far from the mean of the cases."""
        pairs = zip(self.prior, context.denominators, strict=bool(self.prior))
        if any(ratio > 1 and isinstance(denominator, str) for ratio, denominator in pairs):
            fractions = ", ".join(f"{ratio / 100:g}" for ratio in self.prior)
            raise WssegError(
                f"the prior of ratio_prior, {', '.join(map(str, self.prior))}, is above 1: write "
                f"fractions of 1; if these are percent, {fractions}"
            )
        for ratio, mean in zip(self.prior, context.prior, strict=False):
            if ratio and mean and (ratio / mean > FAR or mean / ratio > FAR):
                log.warning(
                    "the prior %g of ratio_prior is far from %.3g, the mean ratio of the training "
                    "cases: check the unit of either",
                    ratio,
                    mean,
                )

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        assert context.moving is not None, "made by `begin`"
        shares = torch.sigmoid(area_log_odds(outputs.logits, context.denominators))
        mean = context.moving.follow(shares.mean(0))
        prior = known_shares(torch.tensor(context.prior), context.denominators)
        return prior_divergence(mean, prior.to(mean.device))


def prior_divergence(mean: Float[Tensor, " k"], prior: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """KL(q || m) = q log(q / m) + (1 - q) log((1 - q) / (1 - m)), in nats, mean over the classes.

    mean: m, the mean share of the class. prior: q, the share it should have; NaN contributes 0.
    """
    target, known = filled(prior, mean)
    # Bounded in value only: at the bound, the gradient still says which way to go.
    bounded = mean + (mean.clamp(SMALLEST_SHARE, 1 - SMALLEST_SHARE) - mean).detach()
    gain = torch.xlogy(target, target) - target * torch.log(bounded)
    rest = torch.xlogy(1 - target, 1 - target) - (1 - target) * torch.log1p(-bounded)
    return counted_mean(gain + rest, known)


class TagSuppression(Loss):
    """Mean of -log(1 - p) over the pixels, in nats, of a class tagged as absent.

    No pixel may belong to it: this is the size constraint S <= 0 of Kervadec et al., Medical Image
    Analysis 2019, as a cross-entropy, whose gradient does not fade where p is near 1.
    """

    kind: Literal["tag_suppression"] = "tag_suppression"
    inputs: ClassVar[Inputs] = supervised("present")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        cost = -F.logsigmoid(-widened(outputs.logits)).mean((-2, -1))
        return counted_mean(cost, batch.present == 0)


class TagInclusion(Loss):
    """-log of the image's probability (mean p^r)^(1/r), in nats, of a class tagged as present.

    exponent: r. The larger, the fewer pixels it asks for, and the nearer it is to -log max p: a
    region of share v that is met still costs log(1 / v) / r, and is pushed to grow a little.
    Computed by logsumexp. Source: the generalised mean over a bag of pixels of Jia et al., IEEE TMI
    2017, with r = 4.
    """

    kind: Literal["tag_inclusion"] = "tag_inclusion"
    exponent: Annotated[float, Field(ge=1, le=64)] = 4.0
    inputs: ClassVar[Inputs] = supervised("present")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        inside = self.exponent * F.logsigmoid(widened(outputs.logits))
        pixels = math.log(outputs.logits[0, 0].numel())
        log_mean = (inside.logsumexp((-2, -1)) - pixels) / self.exponent
        return counted_mean(-log_mean, batch.present == 1)


class TagSize(Loss):
    """((a - S) / a)^2 where the share S of the image is below a, of a class tagged as present.

    smallest: a; the cost is in 0..1, without a unit. Source: the tag bounds of Kervadec et al.,
    Medical Image Analysis 2019, whose least size is one pixel.
    """

    kind: Literal["tag_size"] = "tag_size"
    smallest: PositiveShare = 0.001
    inputs: ClassVar[Inputs] = supervised("present")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        share = widened(outputs.logits).sigmoid().mean((-2, -1))
        return counted_mean((1 - share / self.smallest).relu().square(), batch.present == 1)


AreaLoss = (
    Size
    | SizeKl
    | AreaL2
    | SizeBounds
    | SizeBarrier
    | RatioPrior
    | TagSuppression
    | TagInclusion
    | TagSize
)
