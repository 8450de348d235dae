"""Ray workers and finding at scale: `python -m bench.reliability.cluster`.

Prints how much faster two workers of this machine are than one, with a real network; the efficiency
of eight workers against one with an engine that sleeps, so that only the overhead of the cluster
counts; and what finding costs for each DICOM file, in time and in memory.
"""

import argparse
import logging
import os
import secrets
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.markdown import table
from bench.random_model import write_random_model
from bench.reliability.scans import write_model, write_series
from bench.timing import where
from tests.serve.conftest import ThresholdEngine
from wsseg.imaging.discovery import find
from wsseg.serve.engines.base import Prediction
from wsseg.serve.infer import infer
from wsseg.serve.options import InferOptions

SLEEP_SECONDS = 0.5
"""Of the simulated engine for each series of one batch, about that of a series of 60 slices."""
SIMULATED = 8
MB = 1e6


class SleepingEngine(ThresholdEngine):
    """Computes nothing to speak of, but takes its time."""

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        """As the threshold engine, later."""
        time.sleep(SLEEP_SECONDS)
        return super().__call__(pixels)


class _Clock(logging.Handler):
    """The moment at which the run began to measure: Ray and the model are up by then."""

    begun = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", "") == "run_started":
            self.begun = time.monotonic()


def measured(
    model: Path, inputs: Path, out: Path, *, engine: Callable[[], Any] | None = None, **options: Any
) -> tuple[float, float, bytes]:
    """Seconds of the whole run, seconds of measuring, and the table of slices."""
    clock, log = _Clock(), logging.getLogger("wsseg")
    log.addHandler(clock)
    log.setLevel(logging.INFO)
    log.propagate = False
    begun = time.monotonic()
    chosen = InferOptions(model=model, report=out / "ratios.csv", overwrite=True, **options)
    infer([inputs], chosen, engine=engine)
    ended = time.monotonic()
    log.removeHandler(clock)
    return ended - begun, ended - clock.begun, chosen.report.read_bytes()


def here(folder: Path, series: int, rounds: int) -> Iterator[Sequence[str]]:
    """One and two workers of one CPU on this machine, with a real network."""
    model = write_random_model(folder / "network", "mobilenet_v2", 256)
    inputs = write_series(folder / "real", series, slices=16, side=256)
    run = partial(measured, model, inputs, folder / "out", engine=None, device="cpu")
    plain, one, two = [], [], []
    for _ in range(rounds):
        plain.append(run(threads=1))
        one.append(run(threads=1, cluster="local", cluster_cpus=2))
        two.append(run(threads=1, cluster="local", cluster_cpus=1))
    assert len({each[2] for each in (*plain, *one, *two)}) == 1, "the tables differ"
    slices = series * 16
    for name, results in (
        ("without a cluster, 1 thread", plain),
        ("1 worker, 1 thread", one),
        ("2 workers, 1 thread each", two),
    ):
        seconds = min(each[1] for each in results)
        start = min(each[0] - each[1] for each in results)
        yield name, f"{slices / seconds:.1f}", f"{seconds:.1f}", f"{start:.1f}"


def simulated(folder: Path, series: int) -> Iterator[Sequence[str]]:
    """Efficiency of many workers with an engine that sleeps, with as many series for each.

    The start of all workers but the first is within the time.
    """
    model = write_model(folder / "model")
    few = write_series(folder / "few", series, slices=8)
    many = write_series(folder / "many", SIMULATED * series, slices=8)
    with _cluster(SIMULATED) as address:
        run = partial(measured, model, engine=SleepingEngine, cluster=address)
        _, one, _ = run(inputs=few, out=folder / "out", cluster_cpus=SIMULATED)
        _, all_of_them, _ = run(inputs=many, out=folder / "out", cluster_cpus=1)
    yield f"1 worker that sleeps, {series} series", f"{one:.1f}", ""
    name = f"{SIMULATED} workers that sleep, {SIMULATED * series} series"
    yield name, f"{all_of_them:.1f}", f"{one / all_of_them:.3f}"


def finding(folder: Path, files: int) -> Iterator[Sequence[str]]:
    """What finding costs: files a second, and bytes that stay for each file."""
    inputs = write_series(folder / "found", files // 100, slices=100, side=16)
    begun = time.monotonic()
    count = sum(1 for _ in find([inputs], scratch=folder))
    seconds = time.monotonic() - begun
    tracemalloc.start()
    refs = list(find([inputs], scratch=folder))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(refs) == count == files // 100
    yield "files found a second", f"{files / seconds:,.0f}"
    yield "bytes a file before the first scan (headers and scans)", f"{peak / files:,.0f}"
    yield "bytes a file afterwards (scans)", f"{kept / files:,.0f}"


@contextmanager
def _cluster(cpus: int) -> Iterator[str]:
    """A Ray cluster of one machine that is said to have so many CPUs."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as own:
        os.environ |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN", secrets.token_hex(32)),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_TMPDIR": own,
        }
        from ray.cluster_utils import Cluster

        node = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": 100 << 20}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            yield cluster.address
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=64)
    parser.add_argument("--simulated", type=int, default=100)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    print(where())
    with tempfile.TemporaryDirectory(prefix="b-", dir="/tmp") as name:
        folder = Path(name)
        found = finding(folder, given.files)
        print("\n".join(table(("finding", ""), list(found))), flush=True)
        slept = simulated(folder, given.simulated)
        head: Sequence[str] = ("simulated", "seconds", "efficiency")
        print("\n" + "\n".join(table(head, list(slept))), flush=True)
        real = here(folder, given.series, given.rounds)
        head = ("this machine", "slices a second", "seconds", "seconds to start")
        print("\n" + "\n".join(table(head, list(real))), flush=True)


if __name__ == "__main__":
    main()
