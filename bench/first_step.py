"""How long wsseg-train takes to its first optimiser step, as a ratio to an earlier build.

    git worktree add /tmp/earlier COMMIT
    python -m bench.first_step /tmp/earlier [--runs 5] [--cases 500]

Both builds train on the same table of 512 x 512 PNGs, every second one marked, which is made on
the spot. A small network leaves the time to what comes before the step: imports, the check of the
table, statistics of the images, targets. The two builds take turns, each in processes of its own,
with one thread. Below 1 means that this build is faster. How often each file of the table was
opened until then is printed beside it.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from bench.earlier import HERE, commit_of, run_in, write_cases
from bench.timing import ratio, where

TRAIN = """
import json, os, sys
from collections import Counter
folder, cases, out = sys.argv[1:4]
opens = Counter()

def count(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        path = os.fspath(arguments[0])
        if path.startswith(folder):
            opens[os.path.basename(path)] += 1

def stop(*_):
    print(json.dumps(opens), flush=True)
    os._exit(0)

sys.addaudithook(count)
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(stop)
from wsseg.cli.main import train_main
small = ["--network", "mobilenet_v2", "--size", "128", "--batch", "2"]
sys.argv = ["wsseg-train", cases, "--out", out, *small]
train_main()
"""


def train_in(build: Path, table: Path, opens: dict[Path, Mapping[str, int]]) -> None:
    """Train with a build until the first step, and note how often it opened each file."""
    with tempfile.TemporaryDirectory() as out:
        told = run_in(build, TRAIN, table.parent, table, Path(out, "run"))
    opens[build] = json.loads(told.splitlines()[-1])


def shown(opens: Mapping[str, int], start: str) -> str:
    """The fewest and the most openings of the files whose names start so."""
    counts = [count for name, count in opens.items() if name.startswith(start)]
    return f"{min(counts)} to {max(counts)}"


def main() -> None:
    """Print the ratio, and the openings of images and marks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path, help="a checkout of the earlier build")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cases", type=int, default=500)
    asked = parser.parse_args()
    earlier = asked.build.resolve()
    opens: dict[Path, Mapping[str, int]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        table = write_cases(Path(scratch), asked.cases, every=2)
        job = partial(train_in, table=table, opens=opens)
        figure = ratio(partial(job, HERE), partial(job, earlier), asked.runs)
    print(f"{where()}; earlier build {commit_of(earlier)}; median of {asked.runs} pairs\n")
    print(f"| to the first step, {asked.cases} rows | this build | earlier build |\n|---|---|---|")
    print(f"| time / earlier build | {figure} | 1 |")
    for name, start in (("an image", "p"), ("a marks file", "m")):
        here, there = (shown(opens[build], start) for build in (HERE, earlier))
        print(f"| openings of {name} | {here} | {there} |")


if __name__ == "__main__":
    main()
