"""How long a series takes from Orthanc to the node and its results back, and where the time goes.

`python -m bench.reliability.orthanc` starts a real Orthanc and `wsseg listen` in a network of their
own and prints a table. The model is a threshold, so that hardly any of the time is inference.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import wsseg
from bench.markdown import table
from bench.reliability.scans import write_model
from bench.timing import where
from tests.imaging.conftest import _write_dicom
from tests.serve.conftest import picture
from tests.serve.node.test_orthanc import listening
from tests.serve.orthanc import NODE_AET, Orthanc, orthanc_in
from wsseg.serve.node.options import NodeOptions

SIDE = 512
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Trip:
    """Seconds of one series, in the order in which they pass.

    sending: until the node has acknowledged the last instance. waiting: until the series counts as
    complete. measuring: until its results are written; `inference` of it is what the engine takes
    for the same slices alone. returning: until Orthanc has them.
    """

    sending: float
    waiting: float
    measuring: float
    returning: float
    inference: float

    @property
    def beyond(self) -> float:
        """All but inference."""
        return self.sending + self.waiting + self.measuring + self.returning - self.inference


def main() -> None:
    """Print the median of several trips."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    default = NodeOptions.model_fields["settle_released"].default
    parser.add_argument("--settle-released", type=float, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        trips = list(
            measured(
                Path(scratch),
                slices=given.slices,
                rounds=given.rounds,
                settle_released=given.settle_released,
            )
        )
    print(where())
    print(
        f"{given.slices} slices of {SIDE} x {SIDE}, {given.rounds} trips, "
        f"--settle-released {given.settle_released:g}\n"
    )
    print("\n".join(lines(trips)))


def measured(folder: Path, *, slices: int, rounds: int, settle_released: float) -> Iterator[Trip]:
    """Trips of series of their own; the first one, which warms everything up, is left out."""
    model = write_model(folder / "model")
    spool = folder / "spool"
    with (
        orthanc_in(folder / "orthanc") as orthanc,
        listening(orthanc, model, spool, settle=30, settle_released=settle_released),
    ):
        for number in range(rounds + 1):
            stack = _slices(slices, seed=number)
            names = orthanc.add(*_write(folder / str(number), stack, number))
            trip = _trip(orthanc, spool, names, _inference(model, stack))
            if number:
                yield trip


def lines(trips: Sequence[Trip]) -> Iterator[str]:
    """The table."""
    names = [field.name for field in fields(Trip)]
    columns = [*zip(*map(astuple, trips), strict=True), [trip.beyond for trip in trips]]
    rows = [
        (name, *(f"{value:.2f}" for value in (statistics.median(each), min(each), max(each))))
        for name, each in zip([*names, "all but inference"], columns, strict=True)
    ]
    return table(("part", "median s", "least s", "most s"), rows)


def _trip(orthanc: Orthanc, spool: Path, names: list[str], inference: float) -> Trip:
    before = _count(orthanc)
    moments = [time.monotonic()]
    orthanc.ask(f"/modalities/{NODE_AET}/store", "POST", json.dumps(names).encode())
    moments.append(time.monotonic())
    done = len(list((spool / "done").iterdir()))
    later = ("ready", "measured", "returning", "done")
    for begin, what in enumerate(("complete", "measured")):
        _wait(partial(_holds, spool, later[begin:], done), what)
        moments.append(time.monotonic())
    _wait(lambda: _count(orthanc) >= before + 2, "returned")
    moments.append(time.monotonic())
    _wait(partial(_holds, spool, ("done",), done), "done")
    sending, waiting, measuring, returning = (b - a for a, b in pairwise(moments))
    return Trip(sending, waiting, measuring, returning, inference)


def _inference(model: Path, stack: NDArray[np.float32]) -> float:
    """Seconds that the engine alone takes for these slices, opened and warm."""
    opened = wsseg.load_model(model, device="cpu", engine="onnxruntime")
    engine = opened.open()
    batches = [stack[at : at + 8, None] for at in range(0, len(stack), 8)]
    engine(batches[0])
    begun = time.monotonic()
    for batch in batches:
        engine(batch)
    return time.monotonic() - begun


def _slices(count: int, seed: int) -> NDArray[np.float32]:
    """Noise with two regions, no two slices alike."""
    planes = [picture(index % 5, (SIDE, SIDE)) for index in range(count)]
    noise = np.random.default_rng(seed).integers(0, 20, (count, SIDE, SIDE))
    return np.stack(planes).astype(np.float32) + noise.astype(np.float32)


def _write(folder: Path, stack: NDArray[np.float32], number: int) -> list[Path]:
    """Write a CT series of a study of its own."""
    files = []
    for index, pixels in enumerate(stack.astype(np.int16)):
        files.append(folder / f"{index:03d}.dcm")
        _write_dicom(
            files[-1],
            pixels,
            Rows=SIDE,
            Columns=SIDE,
            Modality="CT",
            StudyInstanceUID=f"1.2.9.{number}",
            SeriesInstanceUID=f"1.2.9.{number}.1",
            SOPInstanceUID=f"1.2.9.{number}.1.{index + 1}",
            InstanceNumber=index + 1,
            ImagePositionPatient=[0.0, 0.0, 2.0 * index],
        )
    return files


def _holds(spool: Path, states: Sequence[str], most: int) -> bool:
    """Whether there are more series than `most` in these states together."""
    return sum(len(list((spool / state).iterdir())) for state in states) > most


def _count(orthanc: Orthanc) -> int:
    return int(orthanc.ask("/statistics")["CountInstances"])


def _wait(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"the series was not {what} within {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
