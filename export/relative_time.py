"""How long each engine takes on this CPU, relative to fp32 in ONNX Runtime."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.serve.batching import MOST_PIXELS
from wsseg.serve.choose import candidates
from wsseg.serve.engine import Engine
from wsseg.serve.engine_options import EngineOptions
from wsseg.serve.infer_options import BATCH
from wsseg.serve.manifest import EngineFile, Manifest
from wsseg.serve.rounds import interleaved, paired_ratio, reference, seconds, warm_up

ROUNDS = 3
ON_CPU = EngineOptions(device="cpu")

Pixels = NDArray[np.float32]


def with_times(manifest: Manifest, sample: Pixels, folder: Path) -> tuple[EngineFile, ...]:
    """The manifest's engines, those that run on this CPU with their `relative_time`.

    sample: a raw slice (c, H, W), of which a batch is made as large as serving's own: how well an
    engine fills the cores depends on that. All engines take turns, so that a machine that is busy
    for a while is busy for all of them; of each, the median over ROUNDS of its time over the
    reference's in the same round counts. Without an fp32 engine in ONNX Runtime nothing is
    measured.
    """
    able, _ = candidates(manifest, ON_CPU, "cpu")
    entries = [candidate.entry for candidate in able]
    measure = reference(entries)
    if measure is None:
        return manifest.engines
    opened = {_key(c.entry): c.adapter.open(folder, manifest, c.entry, 0) for c in able}
    times = relative(opened, _batch(sample), _key(measure))
    return tuple(
        entry.model_copy(update={"relative_time": times.get(_key(entry))})
        for entry in manifest.engines
    )


def relative(
    engines: Mapping[tuple[str, str], Engine], pixels: Pixels, measure: tuple[str, str]
) -> dict[tuple[str, str], float]:
    """Median over rounds of each engine's time over the measure's; the measure has 1."""
    for engine in engines.values():
        warm_up(partial(engine, pixels))
    times = interleaved({key: _turn(engine, pixels) for key, engine in engines.items()}, ROUNDS)
    return {key: round(paired_ratio(times[key], times[measure]), 3) for key in engines}


def _batch(sample: Pixels) -> Pixels:
    """The slice as often as serving would put one of its size into a batch."""
    rows, columns = sample.shape[1:]
    count = max(1, min(BATCH, MOST_PIXELS // (rows * columns)))
    return np.ascontiguousarray(np.stack([sample] * count), np.float32)


def _key(entry: EngineFile) -> tuple[str, str]:
    return entry.runtime, entry.precision


def _turn(engine: Engine, pixels: Pixels) -> Callable[[], float]:
    return lambda: seconds(lambda: engine(pixels))
