"""What the journal of a run costs: a run of many small series, with and without it, in pairs.

    python -m bench.reliability.journal [--series 1000] [--pairs 7] [--masks] [--without disk]

Each series has three slices of 128 x 128 pixels. Both commands are whole processes, in alternation;
the ratios are of one pair each. The machine may have other work, which the CPU time shows less.
`--without disk` compares a run that waits for its label maps to be on the disk with one that does
not.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.random_model import write_random_model
from bench.reliability.scans import write_series
from bench.timing import where

SLICES, SIDE = 3, 128


def main() -> None:
    """Time the pairs and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--masks", action="store_true", help="write label maps too")
    parser.add_argument("--without", choices=("journal", "disk"), default="journal")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        variant, model, inputs, out = chosen.run
        _run(variant, Path(model), Path(inputs), Path(out), masks=chosen.masks)
        return
    print(where())
    with tempfile.TemporaryDirectory(prefix="wsseg-bench-") as scratch:
        folder = Path(scratch)
        write_random_model(folder / "model", "mobilenet_v2", SIDE)
        write_series(folder / "inputs", chosen.series, slices=SLICES, side=SIDE)
        pairs = [
            [_timed(variant, folder, masks=chosen.masks) for variant in order]
            for order in [("with", f"without-{chosen.without}")] * (chosen.pairs + 1)
        ][1:]
    what = f"{chosen.series} series of {SLICES} slices{', label maps' if chosen.masks else ''}"
    print(f"{what}; with and without {chosen.without}, median of {chosen.pairs} pairs")
    for at, name in enumerate(("wall", "CPU")):
        ratios = [own[at] / other[at] for own, other in pairs]
        own = statistics.median(pair[0][at] for pair in pairs)
        print(
            f"{name}: {own:.2f} s; ratio {statistics.median(ratios):.4f} "
            f"(min {min(ratios):.4f}, max {max(ratios):.4f})"
        )


def _timed(variant: str, folder: Path, *, masks: bool) -> tuple[float, float]:
    """Seconds of wall and CPU of one run, as the system accounts for the process."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, "-m", __spec__.name, *(["--masks"] if masks else [])]
        arguments = ["--run", variant, str(folder / "model"), str(folder / "inputs"), out]
        began = time.monotonic()
        process = subprocess.Popen([*command, *arguments], stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"the run {variant} ended with exit code {process.returncode}")
        return wall, usage.ru_utime + usage.ru_stime


def _run(variant: str, model: Path, inputs: Path, out: Path, *, masks: bool) -> None:
    """One run as `wsseg-infer` makes it, without the part that the variant names."""
    from wsseg.cli.main import infer_main
    from wsseg.serve import journal, pipeline

    if variant == "without-journal":

        @contextmanager
        def opened(_: journal.Journal, **__: object) -> Iterator[None]:
            yield

        for name, replacement in (
            ("opened", opened),
            ("key", lambda *_: ""),
            ("add", lambda *_: None),
            ("keep", lambda *_: None),
        ):
            setattr(journal.Journal, name, replacement)
        vars(pipeline)["file_state"] = lambda path: (str(path), 0, 0)
    elif variant == "without-disk":
        vars(journal)["sync_files"] = lambda _: None
    options = ["--masks", str(out / "masks")] if masks else []
    sys.argv = ["wsseg-infer", str(inputs), "--model", str(model), "--device", "cpu", "--json-log"]
    sys.argv += ["--report", str(out / "ratios.csv"), *options]
    infer_main()


if __name__ == "__main__":
    main()
