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

from wsseg.train.coverage import area_mean
from wsseg.train.targets.blobs import Blob, Polarity, best_blobs

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
