"""Measure engines, whole commands, memory and peers: python -m bench.speed --data SCANS

Each scenario's rows go into OUT/speed.csv as soon as a size and batch of it is measured, and a
rerun goes on with what has no row of this machine yet. OUT/speed.md and OUT/speed.png are written
anew from all rows at the end. Models, series and slices are made in WORK and kept. Peers take part
that have an environment (`make bench-speed` makes them).
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from bench.accuracy.machine import commit, machine
from bench.speed.against import PEERS
from bench.speed.commands import MEMORY, SCAN, START, WHOLE_COMMAND
from bench.speed.models import trained_runs
from bench.speed.networks import ENGINES, TRAINING
from bench.speed.report import goal_lines, row_lines, write_report
from bench.speed.results import Place, is_done, read_rows, replace_rows
from bench.speed.scenario import Scenario
from bench.speed.setting import SCALES, Setting
from wsseg.imaging.errors import SomeFailedError, WssegError

SCENARIOS = {s.name: s for s in (SCAN, START, ENGINES, TRAINING, WHOLE_COMMAND, MEMORY, PEERS)}
RESULTS = Path("docs/results")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, measure what has no row yet, write the report."""
    asked = _parser().parse_args(arguments)
    # Figures of a quick run must never be taken for results.
    out = asked.out or (asked.work / "quick" if asked.quick else RESULTS)
    setting = _setting(asked)
    try:
        failed = [
            place.title
            for scenario in _chosen(asked.scenarios)
            for place in scenario.places(setting)
            if asked.redo or not is_done(place, read_rows(out), machine())
            if not _measure(scenario, place, setting, out)
        ]
        write_report(out, list(SCENARIOS.values()))
        _show(out)
        if failed:
            raise SomeFailedError(f"failed: {', '.join(failed)}")
    except WssegError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def _setting(asked: argparse.Namespace) -> Setting:
    scale = SCALES["quick" if asked.quick else "full"]
    if asked.sizes:
        known = tuple(pair for pair in scale.batches if pair[0] in asked.sizes)
        scale = replace(scale, batches=known or scale.batches)
    # What a quick run makes is smaller: a full one must not take it for its own.
    work = asked.work / "quick" if asked.quick else asked.work
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peers = asked.peers.absolute()
    return Setting(
        scale,
        asked.data,
        work.resolve(),
        peers,
        device,
        trained=trained_runs(asked.trained),
        calibration=asked.calibration,
    )


def _chosen(names: tuple[str, ...]) -> list[Scenario]:
    wrong = [name for name in names if name not in SCENARIOS]
    if wrong:
        raise WssegError(f"there is no scenario {wrong[0]}: choose {', '.join(SCENARIOS)}")
    return [SCENARIOS[name] for name in names]


def _measure(scenario: Scenario, place: Place, setting: Setting, out: Path) -> bool:
    """Measure a place and keep its rows; whether it worked. One that fails costs no other."""
    print(place.title, flush=True)
    try:
        rows = scenario.measured(setting, place)
    except WssegError as error:
        print(f"  failed: {error}", file=sys.stderr, flush=True)
        return False
    here, code = machine(), commit()
    replace_rows(out, place, [replace(row, machine=here, commit=code) for row in rows], here)
    return True


def _show(out: Path) -> None:
    """Print this machine's tables."""
    rows = [row for row in read_rows(out) if row.machine == machine()]
    for scenario in SCENARIOS.values():
        own = [row for row in rows if row.scenario == scenario.name]
        if own:
            print(f"\n{scenario.title}\n", *row_lines(own, scenario.unit), sep="\n")
    print("", *goal_lines(rows), sep="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--scenarios", type=_names, default=tuple(SCENARIOS), help=", ".join(SCENARIOS))
    add("--data", type=Path, help="folder of scans; by default the template that nilearn ships")
    add("--trained", type=Path, nargs="*", default=(), help="runs whose weights are taken")
    add("--calibration", type=Path, help="cases.csv or folder of images like those of these runs")
    add("--out", type=Path, help=f"folder of table and plot: {RESULTS}; of a quick run WORK/quick")
    add("--work", type=Path, default=Path("build/speed"), help="folder of series and models")
    add("--peers", type=Path, default=Path("build/peers"), help="folder of their environments")
    add("--sizes", type=int, nargs="*", default=(), help="of the networks' input; 256 and 512")
    add("--quick", action="store_true", help="prove that all works; the figures mean little")
    add("--redo", action="store_true", help="measure again what has its rows")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


if __name__ == "__main__":
    main()
