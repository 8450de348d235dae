"""How long two everyday jobs take, as a ratio to an earlier build in the same run.

    git worktree add /tmp/earlier COMMIT
    python -m bench.earlier /tmp/earlier [--runs 7] [--slices 100] [--cases 500]

Finding and reading a DICOM series of 512 x 512 slices, and the whole of `wsseg cases check` on a
table of pictures with marks. Data are made on the spot; the two builds take turns, each in
processes of its own, with one thread. Below 1 means that this build is faster.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from bench.timing import ratio, where
from wsseg.cli.demo_data import write_series

HERE = Path(__file__).resolve().parent.parent
# One process finds and reads the series this often: its start would outweigh a single pass.
PASSES = 10
READ = """
import sys
from pathlib import Path
try:  # as builds before the rooms were rearranged name them
    from wsseg.imaging.find import find
    from wsseg.imaging.read import read
except ModuleNotFoundError:
    from wsseg.imaging.discovery import find
    from wsseg.imaging.reading import read
from wsseg.imaging.scan import ScanRef
folder = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    found = list(find([folder], scratch=folder.parent))
    slices = [len(read(ref).slices) for ref in found if isinstance(ref, ScanRef)]
    assert sum(slices) == int(sys.argv[3]), slices
"""
CHECK = "import sys; from wsseg.cli.main import main; sys.argv = ['wsseg', *sys.argv[1:]]; main()"


def run_in(build: Path, code: str, *arguments: object) -> str:
    """Run Python code on the packages of a checkout, which need not be the installed one.

    Returns what it prints.
    """
    environment = {**os.environ, "PYTHONPATH": str(build / ".typing"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, cwd=build, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{build} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def write_cases(folder: Path, count: int, *, every: int = 1) -> Path:
    """A table of 512 x 512 pictures of a dark disc on noise, with a mark of 8 x 8 pixels each.

    every: of so many pictures only the first has a mark.
    """
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:512, :512]
    for index in range(count):
        row, column = rng.integers(100, 412, 2)
        disc = (rows - row) ** 2 + (columns - column) ** 2 < 60**2
        noise = rng.normal(150, 15, (512, 512)) - 80 * disc
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"p{index}.png")
        mark = np.zeros((512, 512), np.uint8)
        mark[row - 4 : row + 4, column - 4 : column + 4] = 1
        Image.fromarray(mark).save(folder / f"m{index}.png")
    table = folder / "cases.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "ratio", "marks", "group"])
        writer.writerows(
            [f"p{i}.png", "0.0431", "" if i % every else f"m{i}.png", f"g{i}"] for i in range(count)
        )
    return table


def main() -> None:
    """Print one ratio a job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path, help="a checkout of the earlier build")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--cases", type=int, default=500)
    asked = parser.parse_args()
    earlier = asked.build.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        series, pictures = Path(scratch, "series"), Path(scratch, "pictures")
        pictures.mkdir()
        pixels = np.random.default_rng(0).integers(0, 255, (asked.slices, 512, 512), np.uint8)
        write_series(pixels, np.diag([0.7, 0.7, 2.0, 1.0]), series)
        table = write_cases(pictures, asked.cases)

        def reading(build: Path) -> None:
            run_in(build, READ, series, PASSES, asked.slices)

        def checking(build: Path) -> None:
            run_in(build, CHECK, "cases", "check", table)

        print(f"{where()}; earlier build {commit_of(earlier)}; median of {asked.runs} pairs\n")
        print("| job | time / earlier build |\n|---|---|")
        for name, job in (
            (f"find and read {asked.slices} DICOM slices, {PASSES} times", reading),
            (f"wsseg cases check, {asked.cases} rows", checking),
        ):
            figure = ratio(partial(job, HERE), partial(job, earlier), asked.runs)
            print(f"| {name} | {figure} |", flush=True)


def commit_of(build: Path) -> str:
    """The commit that a checkout is of."""
    command = ["git", "-C", str(build), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
