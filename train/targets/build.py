"""The first target of a case: what its marks, areas, boxes and tags say of each pixel."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsseg.train.targets.evidence import Evidence, Target
from wsseg.train.targets.growth import (
    CONTEST,
    edge_strength,
    geodesic_cost,
    shares,
    step_cost,
    straight_cost,
)
from wsseg.train.targets.kind import BorderEvidence, Growth, border_evidence
from wsseg.train.targets.seeds import Seed, allowed, seeds

SAFE_RADII = 1.5
"""Farther from an eroded mark than this many radii of a disc of the region's area, 0.2 % of the
pixels of lesions in ultrasound belong to the region."""
DOUBTFUL = 0.5
"""Weight within the band of doubt."""
KEPT = 0.6
"""Least share of a guessed blob that other classes leave."""


def first_target(evidence: Evidence, shape_bearing: Growth) -> Target:
    """Grow every marked class of a case to its known area, and say what is surely outside.

    shape_bearing: how eroded marks are grown (see `kind.choose_growth`); other marks always grow
    along edges. Marks are taught as they stand. A class that nothing locates is taught its guess,
    if there is one. A class of unknown area is taught its marks only,
    a class that is absent, that it is nowhere; outside its box, a class is taught background.
    """
    target = _stated(evidence)
    found = seeds(evidence, shape_bearing)
    relative = _grown(evidence, found) if found else ()
    for (number, seed), ranks in zip(found.items(), relative, strict=True):
        inside, weight = _taught(ranks, seed)
        stated = target.weight[number] > 0
        target.inside[number] = np.where(stated, target.inside[number], inside)
        target.weight[number] = np.where(stated, 1.0, weight)
        target.final[number] = seed.growth == "straight"
    _guess(target, evidence, set(found))
    return target


def evidence_of_borders(evidence: Evidence) -> list[BorderEvidence]:
    """What the borders of this case's eroded marks say, for `kind.choose_growth`."""
    edges, found = edge_strength(evidence.image), []
    for number, seed in seeds(evidence, "straight").items():
        if seed.growth != "straight":
            continue
        free, area = allowed(evidence, number), _pixels(seed)
        steps = step_cost(evidence.image, edges, seed.mark, area)
        costs = (straight_cost(seed.mark, free), geodesic_cost(steps, seed.mark, free, area))
        straight, geodesic = (shares(cost[None], np.array([area]), 1.0)[0] < 1 for cost in costs)
        case = border_evidence(edges, seed.mark, straight, geodesic)
        found += [case] if case is not None else []
    return found


def _stated(evidence: Evidence) -> Target:
    """What marks, boxes and tags say of pixels, before anything is grown."""
    classes, shape = len(evidence.areas), evidence.marks.shape
    target = Target(
        np.zeros((classes, *shape), bool),
        np.zeros((classes, *shape), np.float32),
        evidence.areas[:, 1] == 0,
        np.zeros(classes, bool),
    )
    for number, box in enumerate(evidence.boxes):
        mark = evidence.marks == number + 1
        target.inside[number] = mark
        target.weight[number] = evidence.marks != 0
        if box is not None:
            target.weight[number][~box & ~mark] = 1
        if target.final[number]:
            target.weight[number] = 1
    return target


def _guess(target: Target, evidence: Evidence, grown: set[int]) -> None:
    """Teach classes that nothing locates where they may lie, each pixel by the guess's certainty.

    What has grown from marks, and what two guesses want, is left out; a guess that loses more than
    it may is dropped.
    """
    taken = target.inside[sorted(grown)].any(0)
    drawn = {
        number: guess.blob.draw(evidence.marks.shape)
        for number, guess in enumerate(evidence.guesses)
        if guess is not None and number not in grown and not target.final[number]
    }
    wanted = sum(blob.astype(int) for blob in drawn.values())
    for number, blob in drawn.items():
        guess = evidence.guesses[number]
        free = allowed(evidence, number) & (target.weight[number] == 0)
        own = blob & free & ~taken & (wanted == 1)
        if guess is None or own.sum() < KEPT * blob.sum():
            continue
        target.inside[number] |= own
        sure = np.where(free & ~(blob & (wanted > 1)), 1.0, target.weight[number])
        # The largest weight tells how much a class counts: stated pixels must not raise it.
        target.weight[number] = np.minimum(sure, guess.certainty)
        target.guessed[number] = True


def _pixels(seed: Seed) -> float:
    """Pixels that a seed's class is grown to, at least one."""
    return float(max(round(seed.middle * seed.mark.size), 1))


def _grown(evidence: Evidence, found: dict[int, Seed]) -> Iterable[NDArray[np.floating]]:
    """Relative ranks (see `shares`) of the growing classes, up to the ends of their doubt."""
    reach = max(seed.doubtful[1] for seed in found.values())
    farthest = reach if len(found) == 1 else CONTEST * reach
    along_edges = any(seed.growth == "geodesic" for seed in found.values())
    edges = edge_strength(evidence.image) if along_edges else evidence.image
    costs = []
    for number, seed in found.items():
        free = allowed(evidence, number)
        if seed.growth == "straight":
            costs.append(straight_cost(seed.mark, free))
        else:
            area = _pixels(seed)
            steps = step_cost(evidence.image, edges, seed.mark, area)
            costs.append(geodesic_cost(steps, seed.mark, free, farthest * area))
    return shares(np.stack(costs), np.array([_pixels(seed) for seed in found.values()]), reach)


def _taught(
    relative: NDArray[np.floating], seed: Seed
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Inside and weight of a grown class."""
    inner, outer = seed.doubtful
    doubtful = (relative >= inner) & (relative < outer)
    if seed.growth == "geodesic":
        radius = math.sqrt(_pixels(seed) / math.pi)
        away = ndimage.distance_transform_edt(~seed.mark)
        doubtful |= (relative >= outer) & (away < SAFE_RADII * radius)
    return relative < 1, np.where(doubtful, DOUBTFUL, 1.0).astype(np.float32)
