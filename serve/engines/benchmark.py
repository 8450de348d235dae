"""One entry of a manifest as a running engine, for those who compare all of them."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from wsseg.serve.engines.base import Engine, EngineOptions
from wsseg.serve.engines.select import open_engine
from wsseg.serve.manifest import EngineFile, Manifest

# Several ways of doing one thing, in turn, so that a drifting machine can favour none of them.

K = TypeVar("K")
T = TypeVar("T")

WARM_UPS = 3
# Runtime and precision that every model folder can have on any machine: times are told against it.
REFERENCE = ("onnxruntime", "fp32")


def reference(entries: Iterable[EngineFile]) -> EngineFile | None:
    """The engine that the others are timed against; None where it is not among them."""
    return next((e for e in entries if (e.runtime, e.precision) == REFERENCE), None)


def seconds(action: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def warm_up(action: Callable[[], object]) -> None:
    """Call it until it is as quick as it will be: OpenVINO compiles for a size once it repeats."""
    for _ in range(WARM_UPS):
        action()


def interleaved(actions: Mapping[K, Callable[[], T]], rounds: int) -> dict[K, list[T]]:
    """Call all of them in turn, A B C A B C; what each returned, round by round."""
    found: dict[K, list[T]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            found[name].append(action())
    return found


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios within each round: what slows a whole round down does not enter."""
    pairs = zip(numerators, denominators, strict=True)
    return statistics.median(above / below for above, below in pairs)


def open_entry(
    folder: Path, manifest: Manifest, entry: EngineFile, options: EngineOptions
) -> Engine:
    """Open exactly this engine of a model folder, whatever `options.precision` says.

    Raises WssegError where it does not run on this machine.
    """
    only = manifest.model_copy(update={"engines": (entry,)})
    engine: Any = entry.runtime.replace("_", "-")
    asked = replace(options, engine=engine, precision=entry.precision)
    return open_engine(folder, only, asked)
