"""In which order, and in which process, the cases of an epoch are seen."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from wsseg.imaging.errors import WssegError

T = TypeVar("T")


def epoch_order(
    count: int, seed: int, epoch: int, *, located: Sequence[int] = (), least: float = 0.0
) -> list[int]:
    """The places 0..count-1 in the order of one epoch; the same for the same seed and epoch.

    least: share of the epoch that the places `located` make up, if there are too few of them: they
    are then repeated, and as many of the others left out.
    """
    random = np.random.default_rng((seed, epoch))
    order: list[int] = random.permutation(count).tolist()
    wanted = round(least * count)
    if not 0 < len(located) < wanted:
        return order
    there = set(located)
    others = [place for place in order if place not in there][: count - wanted]
    passes = [random.permutation(located) for _ in range(-(-wanted // len(located)))]
    mixed: list[int] = random.permutation([*np.concatenate(passes)[:wanted], *others]).tolist()
    return mixed


def with_repeats(order: Sequence[int]) -> list[tuple[int, int]]:
    """Each place of an order, with how often it came before."""
    seen: Counter[int] = Counter()
    numbered = []
    for place in order:
        numbered.append((place, seen[place]))
        seen[place] += 1
    return numbered


def batches(order: Sequence[T], size: int, rank: int = 0, world: int = 1) -> Iterator[list[T]]:
    """The share of process `rank` of `world` in every batch of `size` places, in order.

    Shares are contiguous and of one length. The last places that fill no batch are left out (the
    next epoch's order takes them up); an order shorter than one batch is repeated to fill it.
    Raises WssegError where the batch cannot be shared out or is too small for batch norm.
    """
    if size % world or size < 2:
        raise WssegError(
            f"a batch of {size} over {world} processes: the batch must be at least 2, because "
            f"batch norm compares images, and a multiple of the processes; change batch or devices"
        )
    if not order:
        raise WssegError("no training case: give the table rows whose split is train")
    repeated = [order[place % len(order)] for place in range(max(size, len(order)))]
    share = size // world
    for start in range(0, len(repeated) - size + 1, size):
        first = start + rank * share
        yield repeated[first : first + share]
