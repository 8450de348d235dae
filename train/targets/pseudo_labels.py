"""Self-training: the network's own map of a training image, cut where its area is the known one."""

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
"""Of a class whose area is not known."""
BLEND = 0.5
"""Share of the first target in a target of marks and a cut."""
TIE = 1e-6


def size_matched_label(
    probability: NDArray[np.floating],
    marks: NDArray[np.uint8],
    areas: NDArray[np.floating],
    allowed: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """Each class's map cut at its known area: 1 inside, 0 outside, NO_CUT where none is known.

    probability: 0..1. marks: as in `Batch.marks`; of a marked class only what is connected to its
    marks counts, and a pixel marked as something else is outside. areas: bounds of each class's
    share of the image, NaN where unknown; between two bounds the map's own area decides, which is
    never less than the marks. allowed: pixels that each class may have (k, rows, columns), see
    `boxes_allow`. A pixel belongs to one class at most: that within whose area it ranks first.
    """
    found = np.full(probability.shape, NO_LABEL, np.uint8)
    known = [number for number, (_, high) in enumerate(areas) if not math.isnan(high)]
    found[known] = 0
    wanted = {n: _wanted(probability[n], marks == n + 1, areas[n]) for n in known}
    there = [number for number in known if wanted[number] > 0]
    if not there:
        return found
    free = [allowed[n] & ((marks == 0) | (marks == n + 1)) for n in there]
    costs = np.stack(
        [_cost(probability[n], marks == n + 1, f) for n, f in zip(there, free, strict=True)]
    )
    sizes = np.array([float(wanted[number]) for number in there])
    found[there] = shares(costs, sizes, reach=2.0) < 1
    return found


def _wanted(
    probability: NDArray[np.floating], mark: NDArray[np.bool_], area: NDArray[np.floating]
) -> int:
    """Pixels of a class: as many as its map has, within its bounds, and those that are marked.

    One at least of a class that is there, however small its area.
    """
    low, high = map(float, area)
    shown = float(np.clip((probability >= 0.5).mean(), low, high))
    return max(round(mark.size * shown), int(mark.sum()), int(low > 0))


def certainty(probability: NDArray[np.floating], found: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How sure a map is of its own cut (k, rows, columns): its mean within, per class, 0..1.

    A map that is low wherever it is cut has not found the region. Of an empty cut: how far the map
    stays from showing any; where there is no cut, 0.
    """
    inside = found == 1
    count = inside.sum((1, 2))
    mean = np.where(inside, probability, 0.0).sum((1, 2)) / np.maximum(count, 1)
    cut_there = found[:, 0, 0] != NO_LABEL
    sure = np.where(count > 0, mean, 1 - probability.max((1, 2)))
    return np.where(cut_there, sure, 0.0).astype(np.float32)


def boxes_allow(boxes: NDArray[np.floating], size: int) -> NDArray[np.bool_]:
    """Pixels (k, size, size) within each class's box, as in `Batch.box`; all without a box."""
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
    """What ranks pixels of a class: lowest where it is surest, infinite where it may not be.

    With a mark, a pixel is as sure as the least sure pixel on the best path from the mark, which
    makes every cut of the ranking connected to the mark; the pixel's own probability breaks ties.
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
    """A case's `cut` and its `certainty`, as tensors."""

    inside: UInt8[Tensor, "k h w"]
    certainty: Float[Tensor, " k"]


def blend(
    target: Float[Tensor, "k h w"],
    weight: Float[Tensor, "k h w"],
    proposed: Bool[Tensor, " k"],
    found: PseudoLabel,
) -> tuple[Float[Tensor, "k h w"], Float[Tensor, "k h w"]]:
    """Target and weight after self-training, from the first ones and a cut.

    Where the first target taught a pixel, the mean of the two, BLEND of it the first, is taught
    with full weight; elsewhere, and where that target was guessed, the cut alone, with its
    certainty. What is not cut stays as it was.
    """
    cut_there, first = found.inside != NO_LABEL, (weight > 0) & ~proposed[:, None, None]
    inside = found.inside.to(target.dtype)
    taught = torch.where(first, BLEND * target + (1 - BLEND) * inside, inside)
    sure = torch.where(first, 1.0, found.certainty.to(weight.dtype)[:, None, None])
    return torch.where(cut_there, taught, target), torch.where(cut_there, sure, weight)


def agreement(before: UInt8[Tensor, "k h w"], after: UInt8[Tensor, "k h w"]) -> float:
    """Mean IoU of the cuts of one case in two rounds, over the classes that are not empty in both.

    NaN where every class is.
    """
    first, second = (before == 1).numpy(), (after == 1).numpy()
    shown = (first | second).any((1, 2))
    return float(mask_iou(first, second)[shown].mean()) if shown.any() else math.nan
