"""The initial target of a case, grown from its marks, areas, boxes, tags and proposals."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

from wsseg.train.targets.evidence import (
    BorderEvidence,
    Evidence,
    Growth,
    Target,
    border_evidence,
    mark_kind,
)

EDGE_COST = 10.0
"""Cost of a step over a strong edge; a step on homogeneous ground costs 1. Of 3, 10 and 30 this is
the best for discs and points on lesions in ultrasound, and for kidneys in CT (docs/method.md)."""
UNLIKE_COST = 2.0
"""Cost of a step where the image is one standard deviation from what the mark covers."""
SMOOTHING_PIXELS = 1.5
LIKENESS_PIXELS = 1.0
"""Smoothing of the image before it is compared with the mark, pixels."""
NEAR_RADII = 1.5
"""Radius around a mark in which deviations of intensity are measured, in radii of the region."""
LEAST_NEAR_PIXELS = 3.0
MOST_UNLIKE = 10.0
"""Largest deviation that counts, in standard deviations: nearly even surroundings are no wall."""
STRONG_EDGE_PERCENTILE = 95
ROUNDS = 10
"""Rounds of matching areas between classes; more change nothing."""
WINDOW_RADII = 1.6
"""Margin around a mark within which paths are searched first, in radii of a disc of the area."""
CONTEST = 2.3
"""How much farther ranks go where another class may take the same pixels."""
BOX_SHARE = 0.7
"""Share of its box that a region covers: pi / 4 for an ellipse, less for most others."""
BOX_CORE = 0.08
"""Share of a box, around its centre, that stands for a mark where there is none."""
DOUBT: dict[Growth, float] = {"euclidean": 0.0, "geodesic": 0.4}
"""Half width of the band of doubt around the border, as a share of the area. A border from the
shape of a mark errs to both sides alike, and is taught without a band."""
SAFE_RADII = 1.5
"""Farther from an eroded mark than this many radii of a disc of the region's area, 0.2 % of the
pixels of lesions in ultrasound belong to the region."""
DOUBTFUL = 0.5
"""Weight within the band of doubt."""
LEAST_FREE = 0.6
"""Least share of a proposal that must be free of other classes."""


def euclidean_cost(mark: NDArray[np.bool_], allowed: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Return the Euclidean distance to the mark, pixels; infinite where not allowed."""
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~mark)
    return np.where(allowed | mark, distance, math.inf)


def step_cost(
    image: NDArray[np.floating],
    edges: NDArray[np.floating],
    mark: NDArray[np.bool_],
    area: float,
    *,
    edge_cost: float = EDGE_COST,
    unlike_cost: float = UNLIKE_COST,
) -> NDArray[np.floating]:
    """Return the cost of a step on each pixel, at least 1, for a growth from the mark.

    1 + edge_cost e + unlike_cost min(|I - m| / s, MOST_UNLIKE) for the edge strength e
    (`edge_strength`), the smoothed image I (row, column), its median m over the mark and its
    standard deviation s around the mark. area: of the region, pixels.
    """
    smooth = ndimage.gaussian_filter(image.astype(np.float32), LIKENESS_PIXELS)
    reach = max(NEAR_RADII * math.sqrt(area / math.pi), LEAST_NEAR_PIXELS)
    spread = float(smooth[within(mark, reach)].std())
    unlike = np.abs(smooth - np.median(smooth[mark])) / (spread if spread > 0 else 1.0)
    cost: NDArray[np.floating] = (
        1 + edge_cost * edges + unlike_cost * np.minimum(unlike, MOST_UNLIKE)
    )
    return cost


def within(mark: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """The pixels that are nearer to a mark, of at least one pixel, than so many pixels."""
    window = _around(mark, math.ceil(reach))
    near = np.zeros_like(mark)
    near[window] = ndimage.distance_transform_edt(~mark[window]) < reach
    return near


def _around(mark: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Return the rows and columns about a mark, so many pixels wider on each side."""
    rows, columns = (np.flatnonzero(mark.any(axis)) for axis in (1, 0))
    return (
        slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
        slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
    )


def geodesic_cost(
    steps: NDArray[np.floating],
    mark: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    area: float,
) -> NDArray[np.floating]:
    """Return the cost of the cheapest path from the mark to each pixel.

    steps: cost of a step on each pixel, see `step_cost`. area: number of pixels after which the
    search stops; the cost is infinite beyond them and where the class is not allowed.
    Source: geodesic distance on image gradients, Criminisi et al., "GeoS", ECCV 2008, here up to a
    known area.
    """
    free = allowed | mark
    most = int(min(1.0, (area + 1) / mark.size) * mark.size)
    # Most of an image is never reached: paths within a window are those of a search of all of it.
    window = _around(mark, math.ceil(WINDOW_RADII * math.sqrt(area / math.pi)) + 1)
    if mark[window].size <= mark.size / 2:
        costs = _path_costs(steps[window], mark[window], free[window], most)
        # The sides of the window that are not sides of the image.
        rows, columns = window
        ends = (
            *((costs[0],) if rows.start > 0 else ()),
            *((costs[-1],) if rows.stop < mark.shape[0] else ()),
            *((costs[:, 0],) if columns.start > 0 else ()),
            *((costs[:, -1],) if columns.stop < mark.shape[1] else ()),
        )
        if not any(np.isfinite(end).any() for end in ends):
            reached = np.full(mark.shape, math.inf)
            reached[window] = costs
            return reached
    return _path_costs(steps, mark, free, most)


def _path_costs(
    steps: NDArray[np.floating], mark: NDArray[np.bool_], free: NDArray[np.bool_], most: int
) -> NDArray[np.floating]:
    """Return the costs of the paths from the mark to the `most` pixels that are reached first."""
    # A negative cost is a wall to the search.
    paths = MCP_Geometric(np.where(free, steps, -1.0))
    # Paths start at the rim, because each start takes time, and the inside costs nothing.
    rim = mark & ~ndimage.binary_erosion(mark)
    # Half a pixel more, so that rounding removes none.
    share = min(1.0, (most + 0.5) / mark.size)
    cumulative, _ = paths.find_costs(np.argwhere(rim), max_coverage=share)
    return np.where(mark, 0.0, np.asarray(cumulative, np.float64))


def edge_strength(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the gradient magnitude of the smoothed image, relative to its 95th percentile."""
    gradient: NDArray[np.float32] = ndimage.gaussian_gradient_magnitude(
        image.astype(np.float32), SMOOTHING_PIXELS
    )
    strong = float(np.percentile(gradient, STRONG_EDGE_PERCENTILE)) or float(gradient.max())
    strength: NDArray[np.floating] = gradient / (strong if strong > 0 else 1.0)
    return strength


def rank(cost: NDArray[np.floating], most: int) -> NDArray[np.floating]:
    """Return the rank of each of the `most` cheapest pixels, from 0; infinite for the others.

    Ties are broken in reading order, so that exactly n pixels have a rank below n.
    """
    flat = cost.ravel()
    pixels = np.flatnonzero(np.isfinite(flat))
    if pixels.size > most:
        limit = np.partition(flat[pixels], most - 1)[most - 1]
        pixels = pixels[flat[pixels] <= limit]
    ranked = np.full(flat.size, math.inf)
    ordered = pixels[np.argsort(flat[pixels], kind="stable")][:most]
    ranked[ordered] = np.arange(ordered.size)
    return ranked.reshape(cost.shape)


def shares(
    costs: NDArray[np.floating], areas: NDArray[np.floating], reach: float
) -> NDArray[np.floating]:
    """Return the rank divided by the known area, per class: below 1 inside the region.

    areas: pixels, > 0. Ranks go up to `reach` times the area, infinite beyond; to CONTEST times as
    far where there are several classes. Where several reach a pixel, it belongs to the one with the
    lowest rank; the others grow on elsewhere, until every class has its area as nearly as the
    ground allows, and have infinity there.
    """
    farthest = reach if len(areas) == 1 else CONTEST * reach
    ranks = [rank(c, math.ceil(farthest * a)) for c, a in zip(costs, areas, strict=True)]
    stack, stretch = np.stack(ranks), np.ones(len(areas))
    if len(ranks) == 1:
        alone: NDArray[np.floating] = stack / areas[0]
        return alone
    for _ in range(ROUNDS):
        relative = stack / (areas * stretch)[:, None, None]
        best = relative.argmin(0)
        own = np.arange(len(areas))[:, None, None] == best
        covered = (own & (relative < 1)).sum((1, 2))
        # The root keeps two classes that want the same ground from overshooting in turn.
        factor = np.sqrt(areas / np.maximum(covered, 1))
        stretch = np.clip(stretch * factor, 1 / farthest, farthest)
    relative = stack / (areas * stretch)[:, None, None]
    own = np.arange(len(areas))[:, None, None] == relative.argmin(0)
    apart: NDArray[np.floating] = np.where(own, relative, math.inf)
    return apart


@dataclass(frozen=True)
class Seed:
    """Where a class grows from, how, and to which share of the image: lower and upper bound."""

    mark: NDArray[np.bool_]
    growth: Growth
    low: float
    high: float

    @property
    def middle(self) -> float:
        """The share of the image that is taught as inside."""
        return (self.low + self.high) / 2

    @property
    def pixels(self) -> float:
        """The number of pixels that are taught as inside, at least one."""
        return float(max(round(self.middle * self.mark.size), 1))

    @property
    def doubtful(self) -> tuple[float, float]:
        """Where the band of doubt begins and ends, in units of `middle`."""
        doubt = DOUBT[self.growth]
        return self.low / self.middle * (1 - doubt), self.high / self.middle * (1 + doubt)


def seeds(evidence: Evidence, shape_bearing: Growth) -> dict[int, Seed]:
    """Return the classes that can grow, by their index: with a mark and an area, or with a box.

    shape_bearing: how eroded marks grow; other marks, boxes and extreme points grow along edges.
    """
    growing = {}
    for class_index, (low, high) in enumerate(evidence.areas):
        mark, box = evidence.marks == class_index + 1, evidence.boxes[class_index]
        if high == 0 or not (mark.any() or box is not None):
            continue
        if box is not None and math.isnan(high):
            low = high = BOX_SHARE * float(box.mean())
        if math.isnan(high):
            continue
        kind = evidence.kinds[class_index]
        if box is not None and not evidence.located[class_index]:
            mark, kind = mark | _core(box, allowed(evidence, class_index)), kind or "disc"
            if not mark.any():
                continue
        growth: Growth = shape_bearing if (kind or mark_kind(mark)) == "eroded" else "geodesic"
        # The mark itself is part of the region, whatever the ratio says.
        least = float(mark.mean())
        growing[class_index] = Seed(mark, growth, max(low, least), max(high, least))
    return growing


def allowed(evidence: Evidence, class_index: int) -> NDArray[np.bool_]:
    """Return where a class may grow: in its box, but not over marks of anything else."""
    other = (evidence.marks != 0) & (evidence.marks != class_index + 1)
    box = evidence.boxes[class_index]
    free: NDArray[np.bool_] = ~other if box is None else ~other & box
    return free


def _core(box: NDArray[np.bool_], free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the free pixels of the core of a box, which has its shape and BOX_CORE of its area.

    Without a free pixel there, the free pixel of the box that is nearest to its middle is returned.
    """
    rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
    core = np.zeros_like(box)
    share = math.sqrt(BOX_CORE)
    core[_middle(rows, share)[:, None], _middle(columns, share)] = True
    core &= free
    pixels = np.argwhere(box & free)
    if not core.any() and len(pixels):
        distances = ((pixels - [rows.mean(), columns.mean()]) ** 2).sum(1)
        core[tuple(pixels[distances.argmin()])] = True
    return core


def _middle(indices: NDArray[np.intp], share: float) -> NDArray[np.intp]:
    count = max(1, round(share * len(indices)))
    first = (len(indices) - count) // 2
    return indices[first : first + count]


def first_target(evidence: Evidence, shape_bearing: Growth) -> Target:
    """Grow every marked class of a case to its known area, and mark what is certainly outside.

    shape_bearing: how eroded marks grow (see `evidence.choose_growth`); other marks always grow
    along edges. Marks themselves are taught unchanged. A class that nothing locates is taught its
    proposal, if there is one. A class of unknown area is taught its marks only; an absent class is
    taught as background everywhere, and a class with a box as background outside it.
    """
    target = _stated(evidence)
    growing = seeds(evidence, shape_bearing)
    relative_ranks = _grown(evidence, growing) if growing else ()
    for (class_index, seed), ranks in zip(growing.items(), relative_ranks, strict=True):
        inner, outer = seed.doubtful
        doubtful = (ranks >= inner) & (ranks < outer)
        if seed.growth == "geodesic":
            radius = math.sqrt(seed.pixels / math.pi)
            doubtful |= (ranks >= outer) & within(seed.mark, SAFE_RADII * radius)
        stated = target.weight[class_index] > 0
        target.inside[class_index] = np.where(stated, target.inside[class_index], ranks < 1)
        target.weight[class_index] = np.where(~stated & doubtful, DOUBTFUL, 1.0)
        target.fixed[class_index] = seed.growth == "euclidean"
    _add_proposals(target, evidence, set(growing))
    return target


def evidence_of_borders(evidence: Evidence) -> list[BorderEvidence]:
    """Return what the borders of this case's eroded marks show, for `evidence.choose_growth`."""
    edges, borders = edge_strength(evidence.image), []
    for class_index, seed in seeds(evidence, "euclidean").items():
        if seed.growth != "euclidean":
            continue
        free, area = allowed(evidence, class_index), seed.pixels
        steps = step_cost(evidence.image, edges, seed.mark, area)
        costs = (euclidean_cost(seed.mark, free), geodesic_cost(steps, seed.mark, free, area))
        euclidean, geodesic = (shares(cost[None], np.array([area]), 1.0)[0] < 1 for cost in costs)
        border = border_evidence(edges, seed.mark, euclidean, geodesic)
        borders += [border] if border is not None else []
    return borders


def _stated(evidence: Evidence) -> Target:
    """Return the target of marks, boxes and tags, before anything is grown."""
    classes, shape = len(evidence.areas), evidence.marks.shape
    target = Target(
        np.zeros((classes, *shape), bool),
        np.zeros((classes, *shape), np.float32),
        evidence.areas[:, 1] == 0,
        np.zeros(classes, bool),
    )
    for class_index, box in enumerate(evidence.boxes):
        mark = evidence.marks == class_index + 1
        target.inside[class_index] = mark
        target.weight[class_index] = evidence.marks != 0
        if box is not None:
            target.weight[class_index][~box & ~mark] = 1
        if target.fixed[class_index]:
            target.weight[class_index] = 1
    return target


def _add_proposals(target: Target, evidence: Evidence, grown: set[int]) -> None:
    """Add the proposals of classes that nothing locates, weighted by their certainty.

    Pixels that have grown from marks, or that two proposals contain, are left out; a proposal that
    loses too many pixels is dropped.
    """
    taken = target.inside[sorted(grown)].any(0)
    drawn = {
        class_index: proposal.blob.draw(evidence.marks.shape)
        for class_index, proposal in enumerate(evidence.proposals)
        if proposal is not None and class_index not in grown and not target.fixed[class_index]
    }
    wanted = sum(blob.astype(int) for blob in drawn.values())
    for class_index, blob in drawn.items():
        proposal = evidence.proposals[class_index]
        free = allowed(evidence, class_index) & (target.weight[class_index] == 0)
        own = blob & free & ~taken & (wanted == 1)
        if proposal is None or own.sum() < LEAST_FREE * blob.sum():
            continue
        target.inside[class_index] |= own
        sure = np.where(free & ~(blob & (wanted > 1)), 1.0, target.weight[class_index])
        # The largest weight is that of the class: stated pixels must not raise it.
        target.weight[class_index] = np.minimum(sure, proposal.certainty)
        target.proposed[class_index] = True


def _grown(evidence: Evidence, growing: dict[int, Seed]) -> Iterable[NDArray[np.floating]]:
    """Return relative ranks (see `shares`) of the growing classes, up to the doubtful border."""
    reach = max(seed.doubtful[1] for seed in growing.values())
    farthest = reach if len(growing) == 1 else CONTEST * reach
    along_edges = any(seed.growth == "geodesic" for seed in growing.values())
    edges = edge_strength(evidence.image) if along_edges else evidence.image
    costs = []
    for class_index, seed in growing.items():
        free = allowed(evidence, class_index)
        if seed.growth == "euclidean":
            costs.append(euclidean_cost(seed.mark, free))
        else:
            area = seed.pixels
            steps = step_cost(evidence.image, edges, seed.mark, area)
            costs.append(geodesic_cost(steps, seed.mark, free, farthest * area))
    return shares(np.stack(costs), np.array([seed.pixels for seed in growing.values()]), reach)
