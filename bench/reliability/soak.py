"""A long run: memory, file descriptors and temporary files of 2,000 series."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.reliability.command import rows, start
from bench.reliability.result import Result
from bench.reliability.scans import write_model, write_series
from wsseg.serve.journal import journal_path

SERIES = 2000
_SAMPLE_SECONDS = 0.05
_WARM_UP = 0.2
"""The part of the series until which caches and pools of memory may fill."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """The process at one moment. done: bytes of the journal, which grows by each series."""

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
    done = np.array([sample.done for sample in samples]) / max(s.done for s in samples)
    warm = done >= _WARM_UP
    hundreds = done[warm] * series / 100
    megabytes = np.array([sample.nbytes for sample in samples])[warm] / 1e6
    slope = np.polyfit(hundreds, megabytes, 1)[0]
    opened = np.array([sample.descriptors for sample in samples])[warm]
    spread = np.polyfit(hundreds, opened, 1)[0]
    left = len(list(temporary.rglob("*")))
    ratios = 3 * (2 + 1)  # three ratios of two slices and of their series
    yield Result(
        f"soak of {series:,} series: {slope:+.2f} MB and {spread:+.2f} file descriptors a hundred "
        f"series, {left} files left in the temporary folder",
        1,
        series * ratios + 2 - rows(report).total(),
        str(process.returncode),
        seconds,
    )


def _samples(process: "subprocess.Popen[str]", journal: Path) -> Iterator[Sample]:
    """Samples while the process measures."""
    folder = Path("/proc", str(process.pid))
    while process.poll() is None:
        try:
            if journal.exists():
                pages = int((folder / "statm").read_text().split()[1])
                opened = len(list((folder / "fd").iterdir()))
                yield Sample(journal.stat().st_size, pages * _PAGE, opened)
        except OSError:  # it has just ended
            pass
        time.sleep(_SAMPLE_SECONDS)
