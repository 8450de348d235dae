"""What a run costs beside its engine, and how long a quick engine lies idle.

    python -m bench.overhead [--network mobilenet_v2] [--size 256] [--runs 5]

Series are made on the spot. Time: 20 series of 20 slices of 512 x 512 against the engine alone on
the same slices, with one thread each, as wall time and as processor time (which other programs on
the machine disturb less). Busy: the share of
the time since its first call in which an engine that sleeps 20 ms a batch has a call.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.random_model import write_random_model
from bench.timing import where
from wsseg.cli.demo_data import write_series
from wsseg.imaging.discovery import find
from wsseg.imaging.reading import read
from wsseg.imaging.scan import ScanRef
from wsseg.serve.batching import Limits
from wsseg.serve.empty_slices import skip_empty
from wsseg.serve.engines.base import EngineOptions, Prediction
from wsseg.serve.engines.select import open_engine
from wsseg.serve.infer import infer
from wsseg.serve.manifest import load_model
from wsseg.serve.measure import slice_rows
from wsseg.serve.options import InferOptions
from wsseg.serve.pipeline import Counts, Pipeline, PrefetchLimits
from wsseg.serve.report import Provenance, open_report

BATCH = 8
SLEEP_SECONDS = 0.02
AFFINE = np.diag([0.7, 0.7, 2.0, 1.0])


class Sleeper:
    """An engine whose processor is elsewhere: it sleeps, and notes when it did."""

    name, precision, file, gives_probability = "sleeper", "fp32", "model.onnx", False

    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []

    def __call__(self, pixels: np.ndarray, /) -> Prediction:
        """Empty masks, after a while."""
        began = time.perf_counter()
        time.sleep(SLEEP_SECONDS)
        count, _, rows, columns = pixels.shape
        masks = np.zeros((count, 1, rows, columns), np.uint8)
        areas = np.zeros((count, 1), np.int64)
        self.calls.append((began, time.perf_counter()))
        return Prediction(masks, areas, areas.astype(np.float32))

    def with_probability(self, pixels: np.ndarray, /) -> tuple[Prediction, np.ndarray]:
        """Nothing is on file here."""
        raise NotImplementedError


def make_series(folder: Path, count: int, slices: int, side: int) -> Path:
    """Series of noise, no two slices alike."""
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 255, (slices, side, side), np.uint8)
        write_series(pixels, AFFINE, folder / f"{number:04d}", key=f"series {number}")
    return folder


def run(model: Path, scans: Path) -> None:
    """All of wsseg-infer but its command line."""
    report = scans.parent / "ratios.csv"
    infer(
        [scans],
        InferOptions(
            model=model,
            report=report,
            device="cpu",
            engine="onnxruntime",
            threads=1,
            batch=BATCH,
            overwrite=True,
        ),
    )


def engine_alone(model: Path, scans: Path) -> Callable[[], None]:
    """The engine on batches that were read before."""
    manifest, folder = load_model(model)
    engine = open_engine(folder, manifest, EngineOptions("cpu", "fp32", 1, "onnxruntime"))
    refs = [ref for ref in find([scans], scratch=scans.parent) if isinstance(ref, ScanRef)]
    pixels = np.concatenate([read(ref).pixels for ref in refs])[:, None]

    def compute() -> None:
        for start in range(0, len(pixels), BATCH):
            engine(pixels[start : start + BATCH])

    return compute


def time_ratios(model: Path, scans: Path, runs: int) -> tuple[str, str]:
    """Whole run over the engine alone, in turn: medians of wall and of processor time."""
    compute = engine_alone(model, scans)
    walls, processors = [], []
    for _ in range(runs):
        whole, alone = _times(lambda: run(model, scans)), _times(compute)
        walls.append(whole[0] / alone[0])
        processors.append(whole[1] / alone[1])
    return _median(walls), _median(processors)


def busy_share(model: Path, scans: Path) -> float:
    """Share of the time between its first call and its last in which the sleeper had a call."""
    manifest, _ = load_model(model)
    engine = Sleeper()
    pipeline = Pipeline(
        engine,
        manifest,
        Limits(slices=BATCH),
        reading=PrefetchLimits(threads=2, results=8, nbytes=1 << 28),
        writing=PrefetchLimits(),
        skip=skip_empty(manifest.window),
    )
    provenance = Provenance("random", "", engine.name, engine.precision, "")
    with open_report(scans.parent / "busy.csv") as report:
        for outcome in pipeline(find([scans], scratch=scans.parent), Counts(lambda *_: None)):
            if outcome.measured:
                report.slices(slice_rows(outcome.measured, manifest, provenance))
    spent = sum(end - began for began, end in engine.calls)
    return spent / (engine.calls[-1][1] - engine.calls[0][0])


def _times(action: Callable[[], object]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - processor


def _median(figures: Sequence[float]) -> str:
    return f"{statistics.median(figures):.2f} (min {min(figures):.2f}, max {max(figures):.2f})"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=("mobilenet_v2", "resnet50"), default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{where()}; {arguments.network} at {arguments.size}, warm cache\n")
    with tempfile.TemporaryDirectory() as scratch:
        report(arguments, Path(scratch))


def report(arguments: argparse.Namespace, scratch: Path) -> None:
    """Measure and print, one figure after the other."""
    model = write_random_model(scratch / "model", arguments.network, arguments.size)
    scans = make_series(scratch / "time" / "scans", 20, 20, 512)
    print("| figure | value |\n|---|---|")
    wall, processor = time_ratios(model, scans, arguments.runs)
    print(f"| run / engine alone, wall time | {wall} |", flush=True)
    print(f"| run / engine alone, processor time | {processor} |", flush=True)
    share = busy_share(model, scans)
    print(f"| busy share of an engine that sleeps | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
