"""Where a class may lie in cases that do not locate it: guessed from areas and images.

In each picture the blob of the known area that stands out most is a guess (see `blobs`). Whether
regions are dark or bright, and whether they are blobs at all, the data set tells: if they are, a
picture's own area finds stronger blobs in it than the area of another picture does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from wsseg.train.data.area_resize import area_mean

# Blobs of a known size: where a region may lie in a picture of which only its area is known.
#
# The area sets the scale to look at: among all ellipses that cover it, the one that stands out
# most from the ring around it. Source: blob detection at a given scale (Lindeberg, "Feature
# Detection with Automatic Scale Selection", IJCV 1998), the scale being known here.

Polarity = Literal[-1, 1]
"""Whether a region is darker (-1) or brighter (1) than what lies around it."""
POLARITIES: tuple[Polarity, ...] = (-1, 1)

SHAPES = ((1.0, 0.0), *((1.6, quarter * math.pi / 4) for quarter in range(4)))
"""Long over short axis, and the angle of the long one; columns to rows, radians."""
RING = 1.15
"""Reach of the ring around a blob, over the blob's own; at least RING_PIXELS beyond it."""
RING_PIXELS = 1.5
LEAST_PIXELS = 12.0
LEAST_CONTRAST = 1e-4
"""Of intensities 0..1; what is fainter may be rounding."""
INSIDE = 0.98
"""Share of a blob that lies within the picture: what sticks out at a border is mostly shadow."""


@dataclass(frozen=True)
class Blob:
    """An ellipse; lengths as shares of the picture's longest side.

    row, column: centre. long, short: half axes. angle: of the long one, columns to rows, radians.
    contrast: how far its mean lies above (bright) or below (dark) its ring's, in intensities.
    """

    row: float
    column: float
    long: float
    short: float
    angle: float
    contrast: float

    def draw(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Its pixels on a grid of this shape, which has the picture's proportions."""
        side = max(shape)
        rows, columns = ((np.indices(shape) + 0.5).T / side).T - np.reshape(
            [self.row, self.column], (2, 1, 1)
        )
        return _radius(rows, columns, (self.long, self.short), self.angle) <= 1


def best_blobs(image: NDArray[np.floating], area: float) -> dict[Polarity, Blob]:
    """The darkest and the brightest blob of a picture next to its ring; empty if none fits.

    image: intensities 0..1 (row, column), finite. area: share of the picture that the blob covers,
    > 0; one of fewer than LEAST_PIXELS is not told from noise, and one of more than about 0.78
    of a square does not fit. A blob has a contrast of at least LEAST_CONTRAST.
    """
    found: dict[Polarity, Blob] = {}
    if area * image.size < LEAST_PIXELS:
        return found
    radius = math.sqrt(area * image.size / math.pi)
    for stretch, angle in SHAPES:
        axes = (radius * math.sqrt(stretch), radius / math.sqrt(stretch))
        contrast = _contrasts(image, axes, angle)
        for polarity in POLARITIES:
            signed = polarity * contrast
            place = int(np.argmax(np.nan_to_num(signed, nan=-math.inf)))
            best = float(signed.flat[place])
            least = found[polarity].contrast if polarity in found else LEAST_CONTRAST
            if best > least:
                found[polarity] = _blob(image.shape, place, axes, angle, best)
    return found


def _contrasts(
    image: NDArray[np.floating], axes: tuple[float, float], angle: float
) -> NDArray[np.floating]:
    """Mean within an ellipse about each pixel minus the mean of its ring; NaN if it sticks out."""
    grown = max(RING, 1 + RING_PIXELS / axes[1])
    reach = math.ceil(axes[0] * grown)
    rows, columns = np.indices((2 * reach + 1,) * 2) - float(reach)
    radius = _radius(rows, columns, axes, angle)
    inside, ring = radius <= 1, (radius > 1) & (radius <= grown)
    means, counts = [], []
    for kernel in (inside, ring):
        # Symmetric about its centre, so that convolution and correlation are the same.
        weights = kernel.astype(np.float64)
        count = fftconvolve(np.ones(image.shape), weights, mode="same")
        means.append(fftconvolve(image, weights, mode="same") / np.maximum(count, 0.5))
        counts.append(count)
    fits = (counts[0] >= INSIDE * inside.sum()) & (counts[1] >= 0.5)
    contrast: NDArray[np.float64] = np.where(fits, means[0] - means[1], math.nan)
    return contrast


def _radius(
    rows: NDArray[np.floating],
    columns: NDArray[np.floating],
    axes: tuple[float, float],
    angle: float,
) -> NDArray[np.floating]:
    """Distance from the centre in units of the ellipse: 1 at its border."""
    cosine, sine = math.cos(angle), math.sin(angle)
    along, across = columns * cosine + rows * sine, rows * cosine - columns * sine
    radius: NDArray[np.floating] = np.hypot(along / axes[0], across / axes[1])
    return radius


def _blob(
    shape: tuple[int, ...], place: int, axes: tuple[float, float], angle: float, contrast: float
) -> Blob:
    row, column = (float(value) for value in np.unravel_index(place, shape))
    side = max(shape)
    return Blob(
        (row + 0.5) / side, (column + 0.5) / side, axes[0] / side, axes[1] / side, angle, contrast
    )


SIDE = 64
"""Longest side of the grid that blobs are sought on."""
LEAST_CASES = 20
TESTED = 256
"""Pictures at most, evenly spread, that tell the polarity."""
COVERED = 0.6
"""Share of the marks that the blobs of marked pictures must cover, on average, where there are."""
SIGNIFICANT = 4.0
"""Least t statistic of own against another's area. By chance 20 pictures reach it, for either
polarity, once in 1300 times; many pictures hardly ever."""

Refusal = Literal["few", "unexplained", "missed"]


@dataclass(frozen=True)
class Guess:
    """A blob, and its rank by contrast among all n: 1/n the faintest, 1 the clearest."""

    blob: Blob
    certainty: float


@dataclass(frozen=True)
class Guesses:
    """What is guessed of a class, by place, and whether it is dark (-1) or bright (1) there."""

    polarity: Polarity
    places: dict[int, Guess]


def small(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """An image (row, column) on the grid that blobs are sought on: SIDE at most, means of cells."""
    scale = min(1.0, SIDE / max(image.shape))
    rows, columns = (max(1, round(side * scale)) for side in image.shape)
    return area_mean(image.astype(np.float32), (rows, columns))


def guesses(
    images: Sequence[NDArray[np.floating]],
    areas: Sequence[float],
    marks: Mapping[int, NDArray[np.floating]],
) -> Guesses | Refusal:
    """Where a class may lie in each picture, or why that cannot be told.

    images: 0..1 (row, column), each as `small` gives it. areas: exact share of the picture, NaN
    where unknown, 0 where the class is absent: both are left out. marks: by place, how far each
    pixel of that image is known to be inside, 0..1. "few": LEAST_CASES areas are needed.
    "unexplained": the areas explain no blobs. "missed": blobs of marked pictures miss the marks.
    """
    there = [place for place, area in enumerate(areas) if area > 0]
    if len(there) < LEAST_CASES:
        return "few"
    spread = np.linspace(0, len(there) - 1, min(len(there), TESTED)).round().astype(int)
    found = {there[at]: best_blobs(images[there[at]], areas[there[at]]) for at in spread}
    scores = _scores(images, areas, found)
    polarity = max(scores, key=lambda sign: scores[sign])
    if scores[polarity] < SIGNIFICANT:
        return "unexplained"
    found |= {at: best_blobs(images[at], areas[at]) for at in there if at not in found}
    blobs = {place: found[place][polarity] for place in there if polarity in found[place]}
    covered = [_covered(blobs[at], mark) for at, mark in marks.items() if at in blobs]
    if covered and float(np.mean(covered)) < COVERED:
        return "missed"
    order = sorted(blobs, key=lambda place: blobs[place].contrast)
    count = len(order)
    return Guesses(polarity, {at: Guess(blobs[at], (n + 1) / count) for n, at in enumerate(order)})


def _covered(blob: Blob, mark: NDArray[np.floating]) -> float:
    """Share of a mark that a blob covers, or of the blob where that is the smaller."""
    drawn = blob.draw(mark.shape)
    return float((mark * drawn).sum() / max(min(mark.sum(), drawn.sum()), 1e-6))


def _scores(
    images: Sequence[NDArray[np.floating]],
    areas: Sequence[float],
    found: Mapping[int, Mapping[Polarity, Blob]],
) -> dict[Polarity, float]:
    """By polarity the t statistic of contrasts at a picture's own area less those at another's."""
    gains: dict[Polarity, list[float]] = {-1: [], 1: []}
    order = np.random.default_rng(0).permutation(list(found)).tolist()
    for place, other in zip(order, [*order[1:], order[0]], strict=True):
        foreign = best_blobs(images[place], areas[other])
        for polarity, values in gains.items():
            if polarity in foreign and polarity in found[place]:
                values.append(found[place][polarity].contrast - foreign[polarity].contrast)
    return {polarity: _statistic(np.array(values)) for polarity, values in gains.items()}


def _statistic(values: NDArray[np.floating]) -> float:
    if len(values) < LEAST_CASES or values.std() == 0:
        return 0.0
    return float(values.mean() / values.std(ddof=1) * math.sqrt(len(values)))
