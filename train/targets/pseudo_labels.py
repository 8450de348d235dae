"""Pseudo-labels of self-training: the network's probability map, thresholded at the known area."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from skimage.morphology import reconstruction
from torch import Tensor

from wsseg.imaging.definitions import mask_iou
from wsseg.train.targets.growing import shares

NO_LABEL = 255
"""Value of the pixels of a class whose area is not known."""
BLEND = 0.5
"""Weight of the initial target in the mean of initial target and pseudo-label."""
TIE = 1e-6


def size_matched_label(
    probability: NDArray[np.floating],
    marks: NDArray[np.uint8],
    areas: NDArray[np.floating],
    allowed: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """Return size-matched pseudo-labels (k, row, column): 1 inside, 0 outside, else NO_LABEL.

    Each class has as many pixels as its known area, the most probable ones. NO_LABEL fills classes
    of unknown area.

    probability: 0..1 (k, row, column). marks: as in `Batch.marks`. Of a marked class only pixels
    connected to its marks count, and a pixel marked as something else is outside. areas: bounds of
    each class's share of the image (k, 2), NaN where unknown; between two bounds the map's own area
    at 0.5 decides. No class is smaller than its marks. allowed: pixels that each class may have,
    see `boxes_allow`. A pixel belongs to at most one class.
    """
    labels: NDArray[np.uint8] = np.full(probability.shape, NO_LABEL, np.uint8)
    known = [index for index, (_, high) in enumerate(areas) if not math.isnan(high)]
    labels[known] = 0
    sizes = {}
    for index in known:
        low, high = map(float, areas[index])
        share = float(np.clip((probability[index] >= 0.5).mean(), low, high))
        # A class in the image has at least one pixel.
        sizes[index] = max(round(marks.size * share), int((marks == index + 1).sum()), int(low > 0))
    shown = [index for index in known if sizes[index] > 0]
    if not shown:
        return labels
    costs = [
        _cost(probability[k], marks == k + 1, allowed[k] & ((marks == 0) | (marks == k + 1)))
        for k in shown
    ]
    wanted = np.array([float(sizes[index]) for index in shown])
    labels[shown] = shares(np.stack(costs), wanted, reach=2.0) < 1
    return labels


def certainty(probability: NDArray[np.floating], labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the certainty of each class's pseudo-label (k), 0..1: the mean probability inside it.

    A map with low probabilities inside its pseudo-label has not found the region. The certainty of
    an empty pseudo-label is 1 minus the highest probability; without a pseudo-label it is 0.
    """
    inside = labels == 1
    count = inside.sum((1, 2))
    mean = np.where(inside, probability, 0.0).sum((1, 2)) / np.maximum(count, 1)
    has_label = labels[:, 0, 0] != NO_LABEL
    sure = np.where(count > 0, mean, 1 - probability.max((1, 2)))
    return np.where(has_label, sure, 0.0).astype(np.float32)


def boxes_allow(boxes: NDArray[np.floating], size: int) -> NDArray[np.bool_]:
    """Return the pixels (k, size, size) in each class's box (`Batch.box`); all without a box."""
    edges = np.arange(size + 1) / size
    starts, ends = edges[:-1], edges[1:]
    rows, columns = (
        (ends > first[:, None]) & (starts < last[:, None])
        for first, last in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3]))
    )
    within: NDArray[np.bool_] = rows[:, :, None] & columns[:, None, :]
    unknown: NDArray[np.bool_] = np.isnan(boxes).any(1)
    allowed: NDArray[np.bool_] = within | unknown[:, None, None]
    return allowed


def _cost(
    probability: NDArray[np.floating], mark: NDArray[np.bool_], free: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return what ranks the pixels of a class: lowest where it is most certain, else infinite.

    With a mark, a pixel is as certain as the least certain pixel on the best path from the mark, so
    that every threshold of the ranking is connected to the mark. The pixel's own probability breaks
    ties.
    """
    own = probability.astype(np.float64)
    own[~free] = 0
    sure = own
    if mark.any():
        own = np.where(mark, 1.0, own)
        seed = np.where(mark, own, 0.0)
        sure = reconstruction(seed, own, method="dilation")  # type: ignore[no-untyped-call]
    cost = -(sure + TIE * own)
    return np.where(free, cost, math.inf)


@dataclass(frozen=True)
class PseudoLabel:
    """The `size_matched_label` of a case and its `certainty`, as tensors."""

    inside: UInt8[Tensor, "k h w"]
    certainty: Float[Tensor, " k"]


def blend(
    target: Float[Tensor, "k h w"],
    weight: Float[Tensor, "k h w"],
    proposed: Bool[Tensor, " k"],
    label: PseudoLabel,
) -> tuple[Float[Tensor, "k h w"], Float[Tensor, "k h w"]]:
    """Return target and weight after self-training, from the initial ones and a pseudo-label.

    Where the initial target teaches a pixel, the mean of both, with BLEND of the initial target, is
    taught with full weight. Elsewhere, and where the initial target is a proposal, the pseudo-label
    alone is taught, weighted by its certainty. Classes without a pseudo-label are unchanged.
    """
    has_label, first = label.inside != NO_LABEL, (weight > 0) & ~proposed[:, None, None]
    inside = label.inside.to(target.dtype)
    taught = torch.where(first, BLEND * target + (1 - BLEND) * inside, inside)
    sure = torch.where(first, 1.0, label.certainty.to(weight.dtype)[:, None, None])
    return torch.where(has_label, taught, target), torch.where(has_label, sure, weight)


def agreement(before: UInt8[Tensor, "k h w"], after: UInt8[Tensor, "k h w"]) -> float:
    """Return the mean IoU of a case's pseudo-labels in two rounds.

    Classes that are empty in both rounds are left out; NaN if all are.
    """
    first, second = (before == 1).numpy(), (after == 1).numpy()
    shown = (first | second).any((1, 2))
    return float(mask_iou(first, second)[shown].mean()) if shown.any() else math.nan
