"""Timing of several actions in turn, so that a drifting machine can favour none of them."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from wsseg.serve.manifest import EngineFile

K = TypeVar("K")
T = TypeVar("T")

WARM_UPS = 3
# Every model folder can have this runtime and precision on any machine: times are relative to it.
REFERENCE = ("onnxruntime", "fp32")


def reference(entries: Iterable[EngineFile]) -> EngineFile | None:
    """The engine that the others are timed against; None if it is not among the entries."""
    return next((e for e in entries if (e.runtime, e.precision) == REFERENCE), None)


def seconds(action: Callable[[], object]) -> float:
    """The duration of one call, in seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def warm_up(action: Callable[[], object]) -> None:
    """Call the action until it is as fast as it gets: OpenVINO compiles for repeated sizes."""
    for _ in range(WARM_UPS):
        action()


def interleaved(actions: Mapping[K, Callable[[], T]], rounds: int) -> dict[K, list[T]]:
    """The results of each action, round by round; they are called in turn, A B C A B C."""
    results: dict[K, list[T]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            results[name].append(action())
    return results


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios within each round: what slows down a whole round has no effect."""
    pairs = zip(numerators, denominators, strict=True)
    return statistics.median(above / below for above, below in pairs)
