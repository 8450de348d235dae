"""What a round over a watch folder costs if one series is new, and whether anything grows.

    python -m bench.reliability.follow [--series 1000] [--slices 10] [--rounds 10]

The first round measures all series; each later one finds one new series. An engine that answers at
once takes the place of the network: what is timed is finding, reading, the journal and the tables.
"""

import argparse
import resource
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.random_model import write_random_model
from bench.reliability.scans import write_series
from bench.timing import where
from wsseg.serve.engines.base import Prediction
from wsseg.serve.follow import follow
from wsseg.serve.infer import Summary
from wsseg.serve.options import InferOptions

SETTLE = 0.5
SIDE = 128


def main() -> None:
    """Follow a folder for some rounds and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=10)
    chosen = parser.parse_args()
    print(where())
    print("| round | scans | measured | s | CPU s | MiB | descriptors |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="wsseg-bench-") as scratch:
        folder = Path(scratch)
        model = write_random_model(folder / "model", "mobilenet_v2", SIDE)
        count = chosen.series + chosen.rounds
        write_series(folder / "later", count, slices=chosen.slices, side=SIDE)
        (folder / "inputs").mkdir()
        waiting = sorted((folder / "later").iterdir())
        for series in waiting[: chosen.series]:
            series.rename(folder / "inputs" / series.name)
        left = waiting[chosen.series :]
        began = _used()

        def ended(summary: Summary) -> None:
            nonlocal began
            cpu = _used() - began
            number = chosen.rounds - len(left)
            print(
                f"| {number} | {summary.scans} | {summary.scans - summary.resumed} | "
                f"{summary.seconds:.1f} | {cpu:.1f} | {_resident_mib():.0f} | "
                f"{len(list(Path('/proc/self/fd').iterdir()))} |",
                flush=True,
            )
            if not left:
                raise KeyboardInterrupt
            series = left.pop(0)
            series.rename(folder / "inputs" / series.name)
            began = _used()

        options = InferOptions(
            model=model, report=folder / "ratios.csv", settle=SETTLE, follow=True
        )
        with suppress(KeyboardInterrupt):
            follow([folder / "inputs"], options, engine=_Nothing, on_round=ended)


class _Nothing:
    """An engine that finds nothing, at once."""

    name, precision, file = "none", "fp32", "model.onnx"
    gives_probability = False

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        masks = np.zeros((len(pixels), 1, *pixels.shape[2:]), np.uint8)
        areas = np.zeros((len(pixels), 1), np.int64)
        return Prediction(masks, areas, areas.astype(np.float32))

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        raise NotImplementedError


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


if __name__ == "__main__":
    main()
