"""A long run: memory, file descriptors and temporary files of 2,000 series."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.reliability.command import resident, rows, start
from bench.reliability.result import Result
from bench.reliability.scans import write_model, write_series
from wsseg.serve.journal import journal_path

SERIES = 2000
_SAMPLE_SECONDS = 0.05
_WARM_UP = 0.2
"""The part of the series until which caches and pools of memory may fill."""
_FEWEST = 20
"""Samples of a process that say something of it."""


@dataclass(frozen=True)
class Sample:
    """A process at one moment. done: bytes of the journal, which grows by each series."""

    process: int
    done: int
    nbytes: int
    descriptors: int


def soak(folder: Path, *, series: int = SERIES) -> Iterator[Result]:
    """The slope of memory over the series, and what is left open or on the disk."""
    model = write_model(folder / "model")
    inputs = write_series(folder / "series", series, slices=2)
    temporary, out = folder / "temporary", folder / "out"
    temporary.mkdir()
    report = out / "ratios.csv"
    begun = time.monotonic()
    process = start(
        *("--report", report, "--masks", out / "masks", "--model", model, inputs),
        environment={"TMPDIR": str(temporary)},
    )
    samples = list(_samples(process, journal_path(report)))
    seconds = time.monotonic() - begun
    log = process.communicate()[1]
    if process.returncode:
        raise AssertionError(log)
    end = max(sample.done for sample in samples)
    slopes = [
        _slopes([each for each in samples if each.process == process_id], end, series)
        for process_id in {sample.process for sample in samples}
    ]
    memory, opened = (max(values) for values in zip(*slopes, strict=True))
    left = len(list(temporary.rglob("*")))
    ratios = 3 * (2 + 1)  # three ratios of two slices and of their series
    yield Result(
        f"soak of {series:,} series in {seconds:.0f} s: {memory:+.2f} MB and {opened:+.2f} file "
        f"descriptors a hundred series in a process, {left} files left in the temporary folder",
        1,
        series * ratios + 2 - rows(report).total(),
        str(process.returncode),
    )


def _slopes(samples: Sequence[Sample], end: int, series: int) -> tuple[float, float]:
    """MB and file descriptors of one process for each hundred series, once it has warmed up."""
    warm = [sample for sample in samples if sample.done >= _WARM_UP * end]
    if len(warm) < _FEWEST:
        return 0.0, 0.0
    hundreds = np.array([sample.done for sample in warm]) / end * series / 100
    values = ([s.nbytes / 1e6 for s in warm], [s.descriptors for s in warm])
    memory, opened = (float(np.polyfit(hundreds, each, 1)[0]) for each in values)
    return memory, opened


def _samples(process: "subprocess.Popen[str]", journal: Path) -> Iterator[Sample]:
    """Samples of all processes while they measure."""
    while process.poll() is None:
        done = journal.stat().st_size if journal.exists() else 0
        for process_id, nbytes in resident(process.pid).items() if done else ():
            try:
                opened = len(list(Path(f"/proc/{process_id}/fd").iterdir()))
            except OSError:  # it has just ended
                continue
            yield Sample(process_id, done, nbytes, opened)
        time.sleep(_SAMPLE_SECONDS)
