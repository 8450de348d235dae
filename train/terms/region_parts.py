"""From settings to loss: the terms that look at a region as a whole."""

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor

from wsseg.imaging.errors import WssegError
from wsseg.train.cases.schema import Denominator
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.term_config import (
    AreaL2,
    BoxEmptiness,
    BoxSize,
    BoxTightness,
    Centroid,
    RatioPrior,
    Size,
    SizeBarrier,
    SizeBounds,
    SizeKl,
    Spread,
    TagInclusion,
    TagSize,
    TagSuppression,
)
from wsseg.train.term_settings import TermSettings
from wsseg.train.terms.areas import known_shares
from wsseg.train.terms.bounds import bounds_barrier_loss, bounds_loss, choose_bounds
from wsseg.train.terms.boxes import box_bounds, box_emptiness_loss, box_tightness_loss
from wsseg.train.terms.moments import centroid_loss, spread_loss
from wsseg.train.terms.part import Given, Loss, Part, taught
from wsseg.train.terms.prior import MovingMean, mean_shares, ratio_prior_loss
from wsseg.train.terms.size import area_l2_loss, size_kl_loss, size_loss
from wsseg.train.terms.tags import tag_inclusion_loss, tag_size_loss, tag_suppression_loss

OF_IMAGE: Denominator = "image"

FAR = 20.0
"""A prior so many times the mean ratio of the cases, or so small a part of it, may be in another
unit."""

log = logging.getLogger(__name__)


def _size(settings: Size, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: size_loss(outputs.logits, batch.ratio, given.denominators),
        "ratio",
    )


def _size_kl(settings: SizeKl, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: size_kl_loss(
            outputs.logits, batch.ratio, given.denominators
        ),
        "ratio",
    )


def _area_l2(settings: AreaL2, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: area_l2_loss(
            outputs.logits, batch.ratio, given.denominators
        ),
        "ratio",
    )


def _bounds(batch: Batch, settings: SizeBounds | SizeBarrier) -> Tensor:
    return choose_bounds(
        batch.bounds, batch.ratio, batch.present, margin=settings.margin, common=settings.common
    )


def _bounded(settings: SizeBounds | SizeBarrier, loss: Loss) -> Part:
    """A term that has bounds for any picture if it has common ones."""
    reads = {"bounds", "present"} | ({"ratio"} if settings.margin is not None else set())
    return Part(loss, frozenset(reads), frozenset() if settings.common else frozenset(reads))


def _size_bounds(settings: SizeBounds, given: Given) -> Part:
    return _bounded(
        settings,
        lambda outputs, batch, progress: bounds_loss(
            outputs.logits, _bounds(batch, settings), given.denominators
        ),
    )


def _size_barrier(settings: SizeBarrier, given: Given) -> Part:
    growth = settings.final_sharpness / settings.sharpness
    return _bounded(
        settings,
        lambda outputs, batch, progress: bounds_barrier_loss(
            outputs.logits,
            _bounds(batch, settings),
            given.denominators,
            sharpness=settings.sharpness * growth**progress,
        ),
    )


def _ratio_prior(settings: RatioPrior, given: Given) -> Part:
    classes = len(given.denominators)
    prior = torch.tensor(settings.prior or given.prior)
    if len(prior) != classes or all(map(math.isnan, prior)):
        raise WssegError(
            f"ratio_prior knows the ratio of {int((~prior.isnan()).sum())} of {classes} classes: "
            f"give one for each as its prior, or a table that has ratios"
        )
    _check_prior(settings.prior, given)
    shares = known_shares(prior, given.denominators)
    moving = MovingMean(classes, settings.decay)

    def loss(outputs: Outputs, batch: Batch, progress: float) -> Tensor:
        mean = moving.follow(mean_shares(outputs.logits, given.denominators))
        return ratio_prior_loss(mean, shares.to(mean.device))

    return Part(loss, moving=moving)


def _check_prior(stated: tuple[float, ...], given: Given) -> None:
    """WssegError for a prior that is no share; a warning for one far from that of the cases."""
    parts = zip(stated, given.denominators, strict=bool(stated))
    if any(ratio > 1 and isinstance(below, str) for ratio, below in parts):
        fractions = ", ".join(f"{ratio / 100:g}" for ratio in stated)
        raise WssegError(
            f"the prior of ratio_prior, {', '.join(map(str, stated))}, is above 1: write fractions "
            f"of 1; if these are percent, {fractions}"
        )
    for ratio, mean in zip(stated, given.prior, strict=False):
        if ratio and mean and not 1 / FAR <= ratio / mean <= FAR:
            log.warning(
                "the prior %g of ratio_prior is far from %.3g, the mean ratio of the training "
                "cases: check the unit of either",
                ratio,
                mean,
            )


def _tag_suppression(settings: TagSuppression, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: tag_suppression_loss(outputs.logits, batch.present),
        "present",
    )


def _tag_inclusion(settings: TagInclusion, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: tag_inclusion_loss(
            outputs.logits, batch.present, exponent=settings.exponent
        ),
        "present",
    )


def _tag_size(settings: TagSize, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: tag_size_loss(
            outputs.logits, batch.present, smallest=settings.smallest
        ),
        "present",
    )


def _box_tightness(settings: BoxTightness, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: box_tightness_loss(
            outputs.logits, batch.box, strip=settings.strip, thickness=settings.thickness
        ),
        "box",
    )


def _box_emptiness(settings: BoxEmptiness, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: box_emptiness_loss(outputs.logits, batch.box), "box"
    )


def _box_size(settings: BoxSize, given: Given) -> Part:
    whole = (OF_IMAGE,) * len(given.denominators)
    return taught(
        lambda outputs, batch, progress: bounds_loss(
            outputs.logits, box_bounds(batch.box, *settings.parts), whole
        ),
        "box",
    )


def _centroid(settings: Centroid, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: centroid_loss(
            outputs.logits, batch.centroid, margin=settings.margin
        ),
        "centroid",
    )


def _spread(settings: Spread, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: spread_loss(
            outputs.logits, batch.spread, margin=settings.margin
        ),
        "spread",
    )


REGION_PARTS: dict[type[TermSettings], Callable[..., Part]] = {
    Size: _size,
    SizeKl: _size_kl,
    AreaL2: _area_l2,
    SizeBounds: _size_bounds,
    SizeBarrier: _size_barrier,
    RatioPrior: _ratio_prior,
    TagSuppression: _tag_suppression,
    TagInclusion: _tag_inclusion,
    TagSize: _tag_size,
    BoxTightness: _box_tightness,
    BoxEmptiness: _box_emptiness,
    BoxSize: _box_size,
    Centroid: _centroid,
    Spread: _spread,
}
