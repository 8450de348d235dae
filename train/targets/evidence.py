"""What is known of a case, and which growth suits its marks.

A mark made by erosion is a smaller copy of its region: the pixels nearest to it by Euclidean
distance are the region. A disc, a point or a stroke only shows where the region is: its border must
be found at edges of the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsseg.train.cases.schema import MarkKind
from wsseg.train.targets.localise import BlobProposal


@dataclass(frozen=True)
class Evidence:
    """One case on the grid that its targets are grown on.

    image: intensities 0..1 (row, column).
    marks: as in `Batch.marks`.
    areas: lower and upper bound of each class's share of the image (k, 2): NaN where unknown, equal
        where exact, 0 for a class that is not in the image.
    boxes: for each class the pixels that it may have; None where it has no box.
    located: whether each class is marked by more than its extreme points.
    kinds: how each class's mark was made; None where the mark's shape is to decide.
    proposals: for each class where it may lie; empty or None where something better is known.
    """

    image: NDArray[np.floating]
    marks: NDArray[np.uint8]
    areas: NDArray[np.floating]
    boxes: tuple[NDArray[np.bool_] | None, ...]
    located: tuple[bool, ...]
    kinds: tuple[MarkKind | None, ...]
    proposals: tuple[BlobProposal | None, ...] = ()


@dataclass(frozen=True)
class Target:
    """What pixels are taught on the grid of growth.

    inside: whether each pixel belongs to each class (k, row, column). weight: how much it is
    taught, from 0 (not at all) to 1. fixed: classes (k) whose target self-training leaves as it is,
    see `choose_growth`. proposed: classes (k) whose target is a proposal, which self-training
    replaces.
    """

    inside: NDArray[np.bool_]
    weight: NDArray[np.floating]
    fixed: NDArray[np.bool_]
    proposed: NDArray[np.bool_]


Growth = Literal["euclidean", "geodesic"]

TOUCHING = np.ones((3, 3), bool)
POINT_PIXELS = 5
ROUNDEST = 1.2
"""A disc's second moment is 1 in its own units, and 1.16 where the region's border cuts it; that
of an eroded lesion in ultrasound is above 1.29 in 95 of 100."""
LONGEST = 6.0
SMOOTH_TEXTURE = 0.25
"""Texture below which a region's inside is smooth next to its border."""
EDGE_GAIN = 1.15
"""Gain above which a border along edges differs from the Euclidean one."""


@dataclass(frozen=True)
class BorderEvidence:
    """What an image shows about one mark that bears its region's shape.

    texture: mean edge strength within the mark, relative to that at the geodesic border. gain: mean
    edge strength at the geodesic border, relative to that at the Euclidean border.
    """

    texture: float
    gain: float


def mark_kind(mark: NDArray[np.bool_]) -> MarkKind:
    """Return how a mark was made, judged by the shape of its largest connected part.

    point: at most POINT_PIXELS. disc: its second moment about its centre is at most ROUNDEST times
    that of a disc of its area. scribble: more than LONGEST times. eroded: between.
    """
    parts, _ = ndimage.label(mark, TOUCHING)
    largest = int(np.bincount(parts[mark]).argmax()) if mark.any() else 1
    pixels = np.argwhere(parts == largest)
    if len(pixels) <= POINT_PIXELS:
        return "point"
    moment = float(pixels.var(0).sum()) / (len(pixels) / (2 * math.pi))
    if moment <= ROUNDEST:
        return "disc"
    return "scribble" if moment > LONGEST else "eroded"


def border_evidence(
    edges: NDArray[np.floating],
    mark: NDArray[np.bool_],
    euclidean: NDArray[np.bool_],
    geodesic: NDArray[np.bool_],
) -> BorderEvidence | None:
    """Return edge strengths in a mark and at its two grown borders; None for a flat image."""
    at_euclidean, at_geodesic = (
        _mean(edges, grown & ~ndimage.binary_erosion(grown) & ~mark)
        for grown in (euclidean, geodesic)
    )
    if not (at_euclidean > 0 and at_geodesic > 0):
        return None
    return BorderEvidence(_mean(edges, mark) / at_geodesic, at_geodesic / at_euclidean)


def choose_growth(evidence: Sequence[BorderEvidence]) -> Growth:
    """Return how a data set's shape-bearing marks grow: along edges only where edges are reliable.

    Edges are reliable where the median texture is below SMOOTH_TEXTURE and the median gain above
    EDGE_GAIN. Kidneys, liver and spleen in CT pass; lesions in ultrasound, whose speckle has edges
    everywhere, and small round vessels do not.
    """
    if not evidence:
        return "euclidean"
    texture = float(np.median([case.texture for case in evidence]))
    gain = float(np.median([case.gain for case in evidence]))
    return "geodesic" if texture < SMOOTH_TEXTURE and gain > EDGE_GAIN else "euclidean"


def _mean(values: NDArray[np.floating], where: NDArray[np.bool_]) -> float:
    return float(values[where].mean()) if where.any() else 0.0
