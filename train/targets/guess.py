"""Where a class may lie in cases that do not locate it: guessed from areas and images.

In each picture the blob of the known area that stands out most is a guess (see `blobs`). Whether
regions are dark or bright, and whether they are blobs at all, the data set tells: if they are, a
picture's own area finds stronger blobs in it than the area of another picture does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
"""Least t statistic of own against another's area; by chance it is above 3 in one of 700."""


@dataclass(frozen=True)
class Guess:
    """A blob, and its place among those of the data set by contrast: 0 the faintest, 1 the best."""

    blob: Blob
    certainty: float


def small(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """An image (row, column) on the grid that blobs are sought on."""
    scale = min(1.0, SIDE / max(image.shape))
    rows, columns = (max(1, round(side * scale)) for side in image.shape)
    return area_mean(image.astype(np.float32), (rows, columns))


def guesses(
    images: Sequence[NDArray[np.floating]],
    areas: Sequence[float],
    marks: Mapping[int, NDArray[np.floating]],
) -> tuple[Polarity, dict[int, Guess]] | None:
    """Where a class may lie in each picture, and whether it is dark (-1) or bright (1) there.

    images: 0..1, see `small`. areas: exact share of the picture, NaN where unknown, 0 where the
    class is absent: both are left out. marks: by place, how far each pixel is marked, 0..1. None
    where the areas explain no blobs of the pictures, or where these miss the marks.
    """
    there = [place for place, area in enumerate(areas) if area > 0]
    if len(there) < LEAST_CASES:
        return None
    found = {place: best_blobs(images[place], areas[place]) for place in there}
    tested = there[:: max(1, math.ceil(len(there) / TESTED))]
    scores = _scores(tested, images, areas, found)
    polarity = max(scores, key=lambda sign: scores[sign])
    if scores[polarity] < SIGNIFICANT:
        return None
    blobs = {place: best[polarity] for place, best in found.items() if polarity in best}
    covered = [_covered(blobs[place], mark) for place, mark in marks.items() if place in blobs]
    if covered and float(np.mean(covered)) < COVERED:
        return None
    order = sorted(blobs, key=lambda place: blobs[place].contrast)
    return polarity, {
        place: Guess(blobs[place], (rank + 1) / len(order)) for rank, place in enumerate(order)
    }


def _covered(blob: Blob, mark: NDArray[np.floating]) -> float:
    return float((mark * blob.draw(mark.shape)).sum() / mark.sum())


def _scores(
    tested: Sequence[int],
    images: Sequence[NDArray[np.floating]],
    areas: Sequence[float],
    found: dict[int, dict[Polarity, Blob]],
) -> dict[Polarity, float]:
    """By polarity the t statistic of contrasts at a picture's own area less those at another's."""
    gains: dict[Polarity, list[float]] = {-1: [], 1: []}
    others = np.random.default_rng(0).permutation(tested).tolist()
    for place, other in zip(tested, others, strict=True):
        foreign = best_blobs(images[place], areas[other])
        for polarity, values in gains.items():
            if polarity in foreign and polarity in found[place]:
                values.append(found[place][polarity].contrast - foreign[polarity].contrast)
    return {polarity: _statistic(np.array(values)) for polarity, values in gains.items()}


def _statistic(values: NDArray[np.floating]) -> float:
    if len(values) < LEAST_CASES or values.std() == 0:
        return 0.0
    return float(values.mean() / values.std(ddof=1) * math.sqrt(len(values)))
