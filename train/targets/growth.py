"""How far each pixel is from a weak mark: in a straight line, or along paths that avoid edges."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

EDGE_COST = 10.0
"""Cost of a step over a strong edge, next to 1 on even ground. Of 3, 10 and 30 the best for discs
and points on lesions in ultrasound, and for kidneys in CT (see docs/method.md)."""
UNLIKE_COST = 2.0
"""Cost of a step where the image is one standard deviation from what the mark covers."""
SMOOTHING_PIXELS = 1.5
LIKENESS_PIXELS = 1.0
"""Smoothing of the image before it is compared with the mark."""
NEAR_RADII = 1.5
"""How far around a mark the image tells what a large deviation is, in radii of the region."""
LEAST_NEAR_PIXELS = 3.0
MOST_UNLIKE = 10.0
"""Standard deviations; a wall would otherwise rise where the surroundings are all but even."""
STRONG_EDGE_PERCENTILE = 95
ROUNDS = 10
"""Of matching areas between classes; more change nothing."""
CONTEST = 2.3
"""How much farther a class is followed where another may take its ground."""


def straight_cost(mark: NDArray[np.bool_], allowed: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Euclidean distance to the mark, pixels; infinite where the class is not allowed."""
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
    """What a step on each pixel costs a growth from the mark: 1 on even ground like the mark's.

    1 + edge_cost e + unlike_cost min(|I - m| / s, MOST_UNLIKE) for the edge strength e
    (`edge_strength`), the smoothed image I (row, column), its median m over the mark and its
    standard deviation s around the mark. area: of the region, pixels.
    """
    smooth = ndimage.gaussian_filter(image.astype(np.float32), LIKENESS_PIXELS)
    reach = max(NEAR_RADII * math.sqrt(area / math.pi), LEAST_NEAR_PIXELS)
    spread = float(smooth[straight_cost(mark, np.ones_like(mark)) < reach].std())
    unlike = np.abs(smooth - np.median(smooth[mark])) / (spread if spread > 0 else 1.0)
    cost: NDArray[np.floating] = (
        1 + edge_cost * edges + unlike_cost * np.minimum(unlike, MOST_UNLIKE)
    )
    return cost


def geodesic_cost(
    steps: NDArray[np.floating],
    mark: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    area: float,
) -> NDArray[np.floating]:
    """Cost of the cheapest path from the mark.

    steps: cost of a step on each pixel, see `step_cost`. area: pixels that are reached before the
    search stops; what lies beyond, and what is not allowed, is infinite. Source: geodesic distance
    on image gradients, Criminisi et al., "GeoS", ECCV 2008, cut at a known area.
    """
    # A negative cost is what the search takes for a wall.
    costs = np.where(allowed | mark, steps, -1.0)
    share = min(1.0, (area + 1) / mark.size)
    paths = MCP_Geometric(costs)
    # Paths begin at the rim: the search looks at each start in turn, and the inside costs nothing.
    rim = mark & ~ndimage.binary_erosion(mark)
    cumulative, _ = paths.find_costs(np.argwhere(rim), max_coverage=share)
    return np.where(mark, 0.0, np.asarray(cumulative, np.float64))


def edge_strength(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Gradient magnitude of the smoothed image over its own 95th percentile; 0 on a flat image."""
    gradient: NDArray[np.float32] = ndimage.gaussian_gradient_magnitude(
        image.astype(np.float32), SMOOTHING_PIXELS
    )
    strong = float(np.percentile(gradient, STRONG_EDGE_PERCENTILE)) or float(gradient.max())
    strength: NDArray[np.floating] = gradient / (strong if strong > 0 else 1.0)
    return strength


def rank(cost: NDArray[np.floating], most: int) -> NDArray[np.floating]:
    """Place of each of the `most` cheapest pixels, 0 the cheapest; infinite for the others.

    Ties are broken in reading order, so that the pixels of rank below n are exactly n.
    """
    flat = cost.ravel()
    places = np.flatnonzero(np.isfinite(flat))
    if places.size > most:
        limit = np.partition(flat[places], most - 1)[most - 1]
        places = places[flat[places] <= limit]
    ranked = np.full(flat.size, math.inf)
    ordered = places[np.argsort(flat[places], kind="stable")][:most]
    ranked[ordered] = np.arange(ordered.size)
    return ranked.reshape(cost.shape)


def shares(
    costs: NDArray[np.floating], areas: NDArray[np.floating], reach: float
) -> NDArray[np.floating]:
    """Rank over the known area, per class: below 1 within the region, 1 at its border.

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
