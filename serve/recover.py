"""Masks recovered from recorded ratios: as many pixels as the ratio states, most probable first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Above this share of a mask that was chosen among equally probable pixels, its position is chance.
TIED_SHARE = 0.01


@dataclass(frozen=True)
class KnownRatio:
    """The share of a slice that a class is known to cover.

    line: line of the table. class_index: index of the class among the model's classes, from 0.
    ratio: pixels of the class over all pixels of the slice, 0..1.
    """

    line: int
    ratio_name: str
    class_index: int
    ratio: float


Known = Mapping[int, tuple[KnownRatio, ...]]
"""The known ratios of a scan's slices, by slice index."""


@dataclass(frozen=True)
class RecoveredMask:
    """The recovered mask of one class on one slice.

    threshold, mean_probability: lowest and mean probability inside, 0..1; None for a mask without
    pixels.
    tied: whether its outline depends on the order of equally probable pixels.
    """

    known: KnownRatio
    pixels: int
    threshold: float | None
    mean_probability: float | None
    tied: bool


@dataclass
class Recovered:
    """All recovered masks of a scan.

    labels: (slice, row, column) labels 1..k; 0 elsewhere, and on slices without a known ratio.
    masks: the masks of each slice with a known ratio, by slice index.
    """

    labels: NDArray[np.uint8]
    masks: dict[int, tuple[RecoveredMask, ...]] = field(default_factory=dict)


def recover(
    probability: NDArray[np.float32], known: Sequence[KnownRatio]
) -> tuple[NDArray[np.uint8], tuple[RecoveredMask, ...]]:
    """Recover the known classes of a slice from its probability (k, row, column).

    Each mask has round(ratio * pixels of the slice) pixels, and no two masks overlap, see `cut`.
    Returns the label map (row, column) and the masks, in the order of `known`.
    """
    flat = probability.reshape(len(probability), -1)[[one.class_index for one in known]]
    masks = cut(flat, [round(one.ratio * flat.shape[1]) for one in known])
    taken = masks.any(0)
    labels = np.zeros(flat.shape[1], np.uint8)
    recovered = []
    for one, own, mask in zip(known, flat, masks, strict=True):
        labels[mask] = one.class_index + 1
        inside = own[mask]
        if not inside.size:
            recovered.append(RecoveredMask(one, 0, None, None, tied=False))
            continue
        threshold = inside.min()
        share = np.count_nonzero(inside == threshold) / inside.size
        tied = bool(share > TIED_SHARE and (own[~taken] == threshold).any())
        mean = float(inside.mean(dtype=np.float64))
        recovered.append(RecoveredMask(one, inside.size, float(threshold), mean, tied))
    return labels.reshape(probability.shape[1:]), tuple(recovered)


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
                _most_probable(own, available, count)
                for own, available, count in zip(probability, free, counts, strict=True)
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
    pixels = np.flatnonzero(free)
    count = min(count, len(pixels))
    if not count:
        return chosen
    values = probability[pixels]
    threshold = np.partition(values, -count)[-count]
    above = values > threshold
    equal = np.flatnonzero(values == threshold)[: count - int(above.sum())]
    chosen[pixels[above]] = True
    chosen[pixels[equal]] = True
    return chosen
