"""Train and measure every kind of supervision on held-out images.

    python -m bench.accuracy --data DATA --weights WEIGHTS [--size small|full] [--out docs/results]

DATA holds the folders busi, abdomen_ct and cardiac_mr, each with index.csv, images/ and labels/ (or
masks/). Every finished run is a row of OUT/accuracy.csv at once; a run that has its row is passed
over, so that a rerun goes on where the last one stopped. OUT/accuracy.md and the plots beside it
are written anew from all rows at the end.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench.accuracy.arms import ARMS
from bench.accuracy.datasets import DATASETS
from bench.accuracy.jobs import SCALES, Choice, Job, jobs
from bench.accuracy.machine import ROOT
from bench.accuracy.report import write_report
from bench.accuracy.results import key_of, read_rows
from bench.accuracy.task import Task
from wsseg.imaging.errors import SomeFailedError, WssegError

T = TypeVar("T")
FIRST = ("busi", "kidneys", "cardiac")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, run what has no row yet, write the report."""
    asked = _parser().parse_args(arguments)
    try:
        wanted = jobs(SCALES[asked.size], _choice(asked))
        # Rows of other starting weights do not count: their runs are done again.
        same = [row for row in read_rows(asked.out) if row["weights"] == Path(asked.weights).stem]
        standing = set() if asked.redo else {key_of(row) for row in same}
        open_jobs = [job for job in wanted if job not in standing]
        print(f"{len(wanted)} runs, {len(wanted) - len(open_jobs)} of them done")
        if asked.dry_run:
            print(*(job.name for job in open_jobs), sep="\n")
            return
        with ThreadPoolExecutor(asked.at_once) as pool:
            done = list(pool.map(partial(_run, asked=asked), open_jobs))
        failed = [job for job, sound in zip(open_jobs, done, strict=True) if not sound]
        write_report(asked.out)
        if failed:
            raise SomeFailedError(f"failed: {', '.join(job.name for job in failed)}")
    except WssegError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def _run(job: Job, asked: argparse.Namespace) -> bool:
    """Run one job in a process of its own; whether it succeeded. Its message is its own."""
    print(job.name, flush=True)
    weights = Path(asked.weights)
    task = Task(
        job=job,
        scale=asked.size,
        data=str(asked.data.resolve()),
        weights=str(weights.resolve()) if weights.is_file() else asked.weights,
        work=str(asked.work.resolve()),
        out=str(asked.out.resolve()),
    )
    threads = {"OMP_NUM_THREADS": str(asked.threads)} if asked.threads else {}
    done = subprocess.run(
        [sys.executable, "-m", "bench.accuracy.run_one", task.to_json()],
        cwd=ROOT,
        env={**os.environ, **threads},
        check=False,
    )
    return done.returncode == 0


def _choice(asked: argparse.Namespace) -> Choice:
    arms = tuple(ARMS) if asked.arms == ("all",) else asked.arms
    return Choice(asked.datasets, arms, asked.pixels, asked.folds, asked.seeds, asked.epochs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the data sets")
    add("--weights", default="imagenet", help="safetensors file, imagenet (download) or none")
    add("--size", choices=tuple(SCALES), default="small", help="what a run costs")
    add("--out", type=Path, default=Path("docs/results"), help="folder of tables and plots")
    add("--work", type=Path, default=Path("build/accuracy"), help="folder of tables and networks")
    add("--datasets", type=_listed(str), default=FIRST, help=", ".join(DATASETS))
    add("--arms", type=_listed(str), help="names or all; by default those of the size")
    add("--pixels", type=_listed(int), help="sides of the network's input")
    add("--folds", type=_listed(int), default=(0,), help="folds to hold out, each on its own")
    add("--seeds", type=_listed(int), help="by default 0 (small) or 0,1,2 (full)")
    add("--epochs", type=int, help="by default chosen by data set and size")
    add("--at-once", type=int, default=1, help="runs at a time, each in a process of its own")
    add("--threads", type=int, help="computing threads of a run")
    add("--redo", action="store_true", help="run again what has its row")
    add("--dry-run", action="store_true", help="print which runs would go")
    return parser


def _listed(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Reads a list with commas."""

    def read(text: str) -> tuple[T, ...]:
        return tuple(kind(part.strip()) for part in text.split(","))

    read.__name__ = f"list of {kind.__name__}"
    return read


if __name__ == "__main__":
    main()
