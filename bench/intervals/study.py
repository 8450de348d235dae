"""Coverage and width over many divisions of held-out images into calibration and test."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.intervals.held_out import Cases, Floats

Method = Callable[[Cases, Cases, float], tuple[Floats, Floats]]
"""Calibration cases, cases to measure, level -> lower and upper ends."""
Pair = tuple[Cases, Cases]
"""Calibration and test cases of one network."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Figures:
    """Means over divisions and networks, and the range of the middle nine tenths of divisions.

    coverage: share of test images whose interval has the ratio of the mask. width: mean, of the
    image's area. median: median width.
    """

    level: float
    coverage: float
    coverage_range: tuple[float, float]
    width: float
    width_range: tuple[float, float]
    median: float


def divisions(cases: Cases, share: float, count: int, seed: int = 0) -> Iterator[tuple[Mask, Mask]]:
    """Masks of calibration and test images; a group is never in both. share: of the groups."""
    rng = np.random.default_rng(seed)
    groups = np.unique(cases.group)
    for _ in range(count):
        chosen = rng.permutation(groups)[: round(len(groups) * share)]
        calibration = np.isin(cases.group, chosen)
        yield calibration, ~calibration


def within(networks: Sequence[Cases], share: float, count: int) -> list[Pair]:
    """Calibration and test cases of the same network and condition, of every division."""
    return [
        (cases.at(calibration), cases.at(test))
        for cases in networks
        for calibration, test in divisions(cases, share, count)
    ]


def figures(pairs: Sequence[Pair], method: Method, level: float) -> Figures:
    """What a method reaches on pairs of calibration and test cases."""
    covered, widths, medians = [], [], []
    for calibration, test in pairs:
        low, high = method(calibration, test, level)
        covered.append(float(np.mean((low <= test.true) & (test.true <= high))))
        widths.append(float(np.mean(high - low)))
        medians.append(float(np.median(high - low)))
    return Figures(
        level,
        float(np.mean(covered)),
        _range(covered),
        float(np.mean(widths)),
        _range(widths),
        float(np.mean(medians)),
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.05, 0.95))
    return float(low), float(high)
