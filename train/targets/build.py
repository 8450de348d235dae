"""The first target of a case: what its marks, areas, boxes and tags say of each pixel."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsseg.train.case import MarkKind
from wsseg.train.targets.growth import CONTEST, edge_strength, geodesic_cost, shares, straight_cost
from wsseg.train.targets.kind import (
    BorderEvidence,
    Growth,
    border_evidence,
    mark_kind,
)

BACKGROUND = 255
SAFE_RADII = 1.5
"""Farther from an eroded mark than this many radii of a disc of the region's area, 0.2 % of the
pixels belong to the region."""
DOUBT: dict[Growth, float] = {"straight": 0.15, "geodesic": 0.4}
"""Half width of the border's band of doubt, as a share of the area."""
DOUBTFUL = 0.5
"""Weight within that band."""
BOX_SHARE = 0.7
"""Share of its box that a region covers: pi / 4 for an ellipse, less for most others."""
BOX_CORE = 0.08
"""Share of a box, around its centre, that stands for a mark where there is none."""


@dataclass(frozen=True)
class Evidence:
    """One case on the grid that its targets are grown on.

    image: 0..1 intensities. marks: as in `Batch.marks`. areas: lower and upper bound of each
    class's share of the image, NaN where unknown, equal where exact. boxes: per class the pixels
    that the class may have, None where it has no box. absent: classes that are not in the picture.
    kinds: how each class's mark was made; None where that is to be told from the mark.
    """

    image: NDArray[np.floating]
    marks: NDArray[np.uint8]
    areas: NDArray[np.floating]
    boxes: tuple[NDArray[np.bool_] | None, ...]
    absent: tuple[bool, ...]
    kinds: tuple[MarkKind | None, ...]


@dataclass(frozen=True)
class Target:
    """What pixels are taught: `inside` per class, how surely by `weight`, 0 (not at all) to 1."""

    inside: NDArray[np.bool_]
    weight: NDArray[np.floating]


@dataclass(frozen=True)
class _Seed:
    """Where a class grows from, how, and to which share of the image: lower and upper bound."""

    mark: NDArray[np.bool_]
    growth: Growth
    low: float
    high: float


def first_target(evidence: Evidence, shape_bearing: Growth) -> Target:
    """Grow every marked class of a case to its known area, and say what is surely outside.

    shape_bearing: how eroded marks are grown (see `kind.choose_growth`); other marks always grow
    along edges. Marks are taught as they stand. A class of unknown area is taught its marks only,
    a class that is absent, that it is nowhere; outside its box, a class is taught background.
    """
    target = _stated(evidence)
    seeds = _seeds(evidence, shape_bearing)
    if not seeds:
        return target
    costs, relative = _grown(evidence, seeds)
    for place, (number, seed) in enumerate(seeds.items()):
        inside, weight = _taught(relative[place], costs[place], seed)
        stated = target.weight[number] > 0
        target.inside[number] = np.where(stated, target.inside[number], inside)
        target.weight[number] = np.where(stated, 1.0, weight)
    return target


def evidence_of_borders(evidence: Evidence) -> list[BorderEvidence]:
    """What the borders of this case's eroded marks say, for `kind.choose_growth`."""
    edges, found = edge_strength(evidence.image), []
    for number, seed in _seeds(evidence, "straight").items():
        if seed.growth != "straight" or not seed.mark.any():
            continue
        allowed, area = _allowed(evidence, number), seed.high * seed.mark.size
        grown = (
            straight_cost(seed.mark, allowed),
            geodesic_cost(edges, seed.mark, allowed, area),
        )
        borders = (
            shares(cost[None], np.array([float(max(round(area), 1))]), 1.0)[0] < 1 for cost in grown
        )
        case = border_evidence(edges, seed.mark, *borders)
        found += [case] if case is not None else []
    return found


def _stated(evidence: Evidence) -> Target:
    """What marks, boxes and tags say of pixels, before anything is grown."""
    classes, shape = len(evidence.areas), evidence.marks.shape
    target = Target(np.zeros((classes, *shape), bool), np.zeros((classes, *shape), np.float32))
    for number, box in enumerate(evidence.boxes):
        mark = evidence.marks == number + 1
        target.inside[number] = mark
        target.weight[number] = evidence.marks != 0
        if box is not None:
            target.weight[number][~box & ~mark] = 1
        if evidence.absent[number] or evidence.areas[number, 1] == 0:
            target.weight[number] = 1
    return target


def _seeds(evidence: Evidence, shape_bearing: Growth) -> dict[int, _Seed]:
    """The classes that can be grown, by their place."""
    seeds = {}
    for number, (low, high) in enumerate(evidence.areas):
        mark, box = evidence.marks == number + 1, evidence.boxes[number]
        absent = evidence.absent[number] or high == 0
        if absent or not (mark.any() or box is not None):
            continue
        if box is not None and math.isnan(high):
            low = high = BOX_SHARE * float(box.mean())
        if math.isnan(high):
            continue
        if box is not None and not _reaches_centre(mark, box):
            mark = mark | _core(box)
        kind = evidence.kinds[number] or mark_kind(mark)
        growth: Growth = shape_bearing if kind == "eroded" else "geodesic"
        # The mark itself is part of the region, whatever the ratio says.
        least = float(mark.mean())
        seeds[number] = _Seed(mark, growth, max(low, least), max(high, least))
    return seeds


def _grown(
    evidence: Evidence, seeds: dict[int, _Seed]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Costs and relative ranks (see `shares`) of the growing classes, g of them."""
    size = evidence.marks.size
    reach = REACH if len(seeds) == 1 else CONTEST * REACH
    along_edges = any(seed.growth == "geodesic" for seed in seeds.values())
    edges = edge_strength(evidence.image) if along_edges else evidence.image
    costs = []
    for number, seed in seeds.items():
        allowed = _allowed(evidence, number)
        if seed.growth == "straight":
            costs.append(straight_cost(seed.mark, allowed))
        else:
            costs.append(geodesic_cost(edges, seed.mark, allowed, reach * seed.high * size))
    stack = np.stack(costs)
    areas = np.array([round((seed.low + seed.high) / 2 * size) for seed in seeds.values()])
    return stack, shares(stack, np.maximum(areas, 1.0), REACH)


REACH = 1.6
"""Ranks are needed up to this multiple of the area: the end of the widest band of doubt."""


def _taught(
    relative: NDArray[np.floating], cost: NDArray[np.floating], seed: _Seed
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Inside and weight of a grown class."""
    middle = (seed.low + seed.high) / 2
    doubt = DOUBT[seed.growth]
    inner = seed.low / middle * (1 - doubt)
    outer = seed.high / middle * (1 + doubt)
    doubtful = (relative >= inner) & (relative < outer)
    if seed.growth == "geodesic":
        radius = math.sqrt(middle * cost.size / math.pi)
        away = ndimage.distance_transform_edt(~seed.mark)
        doubtful |= (relative >= outer) & (away < SAFE_RADII * radius)
    return relative < 1, np.where(doubtful, DOUBTFUL, 1.0).astype(np.float32)


def _allowed(evidence: Evidence, number: int) -> NDArray[np.bool_]:
    """Where a class may grow: in its box, and not over what is marked as something else."""
    other = (evidence.marks != 0) & (evidence.marks != number + 1)
    box = evidence.boxes[number]
    allowed: NDArray[np.bool_] = ~other if box is None else ~other & box
    return allowed


def _reaches_centre(mark: NDArray[np.bool_], box: NDArray[np.bool_]) -> bool:
    return bool((mark & _core(box)).any())


def _core(box: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The middle of a box, BOX_CORE of its area and at least a pixel, in the box's own shape."""
    rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
    core = np.zeros_like(box)
    share = math.sqrt(BOX_CORE)
    core[_middle(rows, share)[:, None], _middle(columns, share)] = True
    return core


def _middle(places: NDArray[np.intp], share: float) -> NDArray[np.intp]:
    count = max(1, round(share * len(places)))
    first = (len(places) - count) // 2
    return places[first : first + count]
