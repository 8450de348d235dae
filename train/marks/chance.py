"""What a simulation leaves to chance: streams of random numbers, marked cases, wrong ratios."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from wsseg.train.case import Case
from wsseg.train.groups import one_spelling

USES = ("mark", "share", "ratio")


def generator(
    seed: int, use: Literal["mark", "share", "ratio"], *place: int
) -> np.random.Generator:
    """Random numbers for one use at one place, such as a row and a class.

    Independent of every other use and place, so that a change of one draw shifts no other.
    """
    return np.random.default_rng((seed, USES.index(use), *place))


def marked_rows(cases: Sequence[Case], share: float, seed: int) -> frozenset[int]:
    """Rows of the cases to mark: `share` percent of them, as nearly as whole groups allow.

    Groups are taken in an order drawn by the seed, so that a larger share holds the smaller ones;
    at least one group for a share above 0. A case without a group is one of its own image.
    """
    groups: dict[str, list[int]] = {}
    for case, (_, name) in zip(cases, one_spelling(cases), strict=True):
        groups.setdefault(name, []).append(case.row)
    names = sorted(groups)
    order = [names[place] for place in generator(seed, "share").permutation(len(names))]
    totals = np.cumsum([0, *(len(groups[name]) for name in order)])
    nearest = int(np.argmin(np.abs(totals - share / 100 * len(cases))))
    taken = max(nearest, 1) if share > 0 else 0
    return frozenset(row for name in order[:taken] for row in groups[name])


def noisy_ratio(ratio: float, percent: float, random: np.random.Generator) -> float:
    """The ratio times a factor drawn evenly from 1 - percent/100 to 1 + percent/100; at most 1."""
    return min(1.0, ratio * (1 + percent / 100 * random.uniform(-1, 1)))
