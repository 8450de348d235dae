"""One bad file of each kind among sound series: the bombs are real."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.reliability.bad_files import KINDS, Bad
from bench.reliability.command import Done, infer, lost
from bench.reliability.result import Result
from bench.reliability.scans import write_model, write_series
from tests.serve.conftest import failures

SERIES = 20
BOMB_BYTES = 1 << 30
_BASE_RUNS = 3
# A busy machine takes longer for anything: what seems slow is tried again, and the fastest counts.
_SLOW_SECONDS, _TRIES = 1.0, 3


@dataclass(frozen=True)
class Usual:
    """The runs without a bad file: medians, and the report of one of them."""

    seconds: float
    megabytes: float
    report: Path


def hostile(folder: Path) -> Iterator[Result]:
    """A result for each kind of bad file."""
    model, sound = write_model(folder / "model"), write_series(folder / "sound", SERIES)
    usual = _usual(model, sound, folder / "usual")
    for index, (name, bad) in enumerate(KINDS.items()):
        inputs = shutil.copytree(sound, folder / f"with-{index}")
        (inputs / "bad").mkdir()
        bad.write(inputs / "bad" / "bad", BOMB_BYTES)
        yield _result(name, bad, usual, [model, inputs, folder / f"out-{index}"])
        shutil.rmtree(inputs)


def _usual(model: Path, sound: Path, out: Path) -> Usual:
    report = out / "ratios.csv"
    runs = [_run(model, sound, out) for _ in range(_BASE_RUNS)]
    if any(run.code for run in runs):
        raise AssertionError(runs[0].log)
    seconds, megabytes = (median(values) for values in zip(*map(_cost, runs), strict=True))
    return Usual(seconds, megabytes, report)


def _result(name: str, bad: Bad, usual: Usual, paths: list[Path]) -> Result:
    report = paths[2] / "ratios.csv"
    runs = [_run(*paths)]
    while runs[-1].seconds > usual.seconds + _SLOW_SECONDS and len(runs) < _TRIES:
        runs.append(_run(*paths))
    told = failures(report) if report.exists() else []
    as_expected = [row["reason"] in bad.reasons for row in told] == [True]
    code = "/".join(sorted({str(run.code) for run in runs}))
    return Result(
        name,
        len(runs),
        lost(usual.report, report),
        code if as_expected else f"{code}, told as {[row['reason'] for row in told]}",
        max(0.0, min(run.seconds for run in runs) - usual.seconds),
        max(0.0, max(run.megabytes for run in runs) - usual.megabytes),
    )


def _run(model: Path, inputs: Path, out: Path) -> Done:
    options = ("--report", out / "ratios.csv", "--masks", out / "masks", "--overwrite")
    return infer(*options, "--model", model, inputs)


def _cost(run: Done) -> tuple[float, float]:
    return run.seconds, run.megabytes
