"""What a weak mark tells of its region's shape, and so how to grow it: a stated rule.

A mark made by erosion is a smaller copy of its region: the pixels nearest to it, in a straight
line, are the region. A disc, a point or a stroke only says where the region is: its border must be
sought at edges of the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsseg.train.cases.schema import MarkKind
from wsseg.train.targets.localise import Guess

# What is known of one case, and what of it is taught: the two ends of growing a target.


@dataclass(frozen=True)
class Evidence:
    """One case on the grid that its targets are grown on.

    image: 0..1 intensities. marks: as in `Batch.marks`. areas: lower and upper bound of each
    class's share of the image, NaN where unknown, equal where exact, 0 for a class that is not in
    the picture. boxes: per class the pixels that the class may have, None where it has no box.
    located: classes that are marked by more than their extreme points. kinds: how each class's mark
    was made; None where that is to be told from the mark. guesses: per class where it may lie;
    empty or None where something better is known.
    """

    image: NDArray[np.floating]
    marks: NDArray[np.uint8]
    areas: NDArray[np.floating]
    boxes: tuple[NDArray[np.bool_] | None, ...]
    located: tuple[bool, ...]
    kinds: tuple[MarkKind | None, ...]
    guesses: tuple[Guess | None, ...] = ()


@dataclass(frozen=True)
class Target:
    """What pixels are taught: `inside` per class, how surely by `weight`, 0 (not at all) to 1.

    final: classes (k) that a network's own map does not improve, see `kind.choose_growth`. guessed:
    classes (k) whose target is a guess, which a network's map replaces.
    """

    inside: NDArray[np.bool_]
    weight: NDArray[np.floating]
    final: NDArray[np.bool_]
    guessed: NDArray[np.bool_]


Growth = Literal["straight", "geodesic"]

TOUCHING = np.ones((3, 3), bool)
POINT_PIXELS = 5
ROUNDEST = 1.2
"""A disc's second moment is 1 in its own units, and 1.16 where the region's border cuts it; that
of an eroded lesion in ultrasound is above 1.29 in 95 of 100."""
LONGEST = 6.0
QUIET = 0.25
FOLLOWED = 1.15


@dataclass(frozen=True)
class BorderEvidence:
    """What the images say of shape-bearing marks, one value each from one mark.

    texture: mean edge strength within the mark over that at the geodesic border. gain: mean edge
    strength at the geodesic border over that at the straight one.
    """

    texture: float
    gain: float


def mark_kind(mark: NDArray[np.bool_]) -> MarkKind:
    """How a mark was made, by the shape of its largest connected part alone.

    point: at most POINT_PIXELS. disc: its second moment about its centre is at most ROUNDEST times
    that of a disc of its area. scribble: more than LONGEST times. eroded: between.
    """
    parts, _ = ndimage.label(mark, TOUCHING)
    largest = int(np.bincount(parts[mark]).argmax()) if mark.any() else 1
    places = np.argwhere(parts == largest)
    if len(places) <= POINT_PIXELS:
        return "point"
    moment = float(places.var(0).sum()) / (len(places) / (2 * math.pi))
    if moment <= ROUNDEST:
        return "disc"
    return "scribble" if moment > LONGEST else "eroded"


def border_evidence(
    edges: NDArray[np.floating],
    mark: NDArray[np.bool_],
    straight: NDArray[np.bool_],
    geodesic: NDArray[np.bool_],
) -> BorderEvidence | None:
    """Edge strengths within a mark and at the borders of its two growths; None for a flat image."""
    at_straight, at_geodesic = (
        _mean(edges, _border(grown) & ~mark) for grown in (straight, geodesic)
    )
    if not (at_straight > 0 and at_geodesic > 0):
        return None
    return BorderEvidence(_mean(edges, mark) / at_geodesic, at_geodesic / at_straight)


def choose_growth(evidence: Sequence[BorderEvidence]) -> Growth:
    """How a data set's shape-bearing marks are grown: along edges only where edges can be trusted.

    That is where the median texture is below QUIET (the region's inside is quiet next to its
    border) and the median gain above FOLLOWED (a border along edges differs from the straight
    one). Kidneys, liver and spleen in CT pass; lesions in ultrasound, whose speckle has edges
    everywhere, and small round vessels do not.
    """
    if not evidence:
        return "straight"
    texture = float(np.median([case.texture for case in evidence]))
    gain = float(np.median([case.gain for case in evidence]))
    return "geodesic" if texture < QUIET and gain > FOLLOWED else "straight"


def _border(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = ndimage.binary_erosion(region)
    return region & ~inside


def _mean(values: NDArray[np.floating], where: NDArray[np.bool_]) -> float:
    return float(values[where].mean()) if where.any() else 0.0
