"""Masks from areas that are on file: as many pixels as the ratio says, the most probable first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Where more of a mask than this was chosen among equally probable pixels, its place is a guess.
TIED_SHARE = 0.01


@dataclass(frozen=True)
class KnownRatio:
    """The share of a slice that a class is known to cover.

    line: of the table that says so. place: of the class among the model's classes, from 0. ratio:
    pixels of the class over all pixels of the slice, 0..1.
    """

    line: int
    ratio_name: str
    place: int
    ratio: float


Known = Mapping[int, tuple[KnownRatio, ...]]
"""What is known of a scan's slices, by their numbers from 0."""


@dataclass(frozen=True)
class RecoveredMask:
    """One class on one slice. threshold, confidence: lowest and mean probability inside, 0..1;
    None for a mask without a pixel. tied: its outline hangs on the order of equal pixels.
    """

    known: KnownRatio
    pixels: int
    threshold: float | None
    confidence: float | None
    tied: bool


@dataclass
class Recovered:
    """All masks of a scan.

    labels: (slice, row, column) class number 1..k; 0 elsewhere, and all over a slice of which
    nothing is known. masks: of each slice of which something is known, by its number.
    """

    labels: NDArray[np.uint8]
    masks: dict[int, tuple[RecoveredMask, ...]] = field(default_factory=dict)


def recover(
    probability: NDArray[np.float32], known: Sequence[KnownRatio]
) -> tuple[NDArray[np.uint8], tuple[RecoveredMask, ...]]:
    """Cut the known classes of a slice out of its probability (k, row, column).

    Each gets round(ratio * pixels of the slice) pixels, and no two the same one, see `cut`. Returns
    class numbers (row, column), and what is to be told of each class.
    """
    flat = probability.reshape(len(probability), -1)[[one.place for one in known]]
    masks = cut(flat, [round(one.ratio * flat.shape[1]) for one in known])
    taken = masks.any(0)
    labels = np.zeros(flat.shape[1], np.uint8)
    told = []
    for one, own, mask in zip(known, flat, masks, strict=True):
        labels[mask] = one.place + 1
        told.append(_described(one, own[mask], own[~taken]))
    return labels.reshape(probability.shape[1:]), tuple(told)


def cut(probability: NDArray[np.float32], counts: Sequence[int]) -> NDArray[np.bool_]:
    """The `counts` most probable pixels of each class, no pixel twice: both (class, pixel).

    Equally probable pixels are taken in reading order. A pixel that several classes claim goes to
    the one it is most probable for (the first of equals); the others take their next best instead.
    This is the result of handing out all pairs of class and pixel from the most probable down, and
    is reached when no claim is contested any more (Gale and Shapley, American Mathematical
    Monthly 1962). Where the counts exceed the pixels, a class is left short.
    """
    free = np.ones(probability.shape, np.bool_)
    while True:
        claims = np.stack(
            [
                _most_probable(own, open_to_it, count)
                for own, open_to_it, count in zip(probability, free, counts, strict=True)
            ]
        )
        winner = np.where(claims, probability, -1).argmax(0)
        lost = claims & (winner != np.arange(len(claims))[:, None])
        if not lost.any():
            return claims
        free &= ~lost


def _most_probable(
    probability: NDArray[np.float32], free: NDArray[np.bool_], count: int
) -> NDArray[np.bool_]:
    """The `count` most probable of the free pixels, the first of equals."""
    chosen = np.zeros(len(free), np.bool_)
    places = np.flatnonzero(free)
    count = min(count, len(places))
    if not count:
        return chosen
    values = probability[places]
    threshold = np.partition(values, -count)[-count]
    above = values > threshold
    equal = np.flatnonzero(values == threshold)[: count - int(above.sum())]
    chosen[places[above]] = True
    chosen[places[equal]] = True
    return chosen


def _described(
    known: KnownRatio, inside: NDArray[np.float32], free: NDArray[np.float32]
) -> RecoveredMask:
    """What is told of a mask, by the probabilities inside it and of the pixels that none took."""
    if not inside.size:
        return RecoveredMask(known, 0, None, None, tied=False)
    threshold = inside.min()
    share = np.count_nonzero(inside == threshold) / inside.size
    return RecoveredMask(
        known,
        inside.size,
        float(threshold),
        float(inside.mean(dtype=np.float64)),
        tied=bool(share > TIED_SHARE and (free == threshold).any()),
    )
