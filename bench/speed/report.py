"""speed.md: the tables of all rows of speed.csv by machine, and the plot beside it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.markdown import table
from bench.speed.goals import judged
from bench.speed.plots import draw
from bench.speed.results import Row, read_rows
from bench.speed.scenario import Scenario
from wsseg.imaging.files import atomic

REPORT = "speed.md"
PICTURE = "speed.png"
INTRODUCTION = """\
# Speed and memory

Written by `make bench-speed` from `speed.csv`. The entrants of a table take turns, A B C A B C.
Rates are medians over the rounds; ratios are medians over pairs of the same round, with their
extremes. A ratio above 1 means faster than the peer (for memory: larger). Ratios of different
machines or days can be compared, rates cannot. Weights are random, except for the networks named
with `--trained`, because time does not depend on them. The int8 rows of random weights therefore
measure speed only: whether a network agrees with PyTorch in 8 bits is decided by its own export.
MB are 10**6 bytes."""
HEADER = ("what", "precision", "size", "batch")


def write_report(out: Path, scenarios: Sequence[Scenario]) -> None:
    """Write tables and plot of all rows; nothing where there is no row yet."""
    rows = read_rows(out)
    if not rows:
        return
    parts = [INTRODUCTION]
    if draw(rows, out / PICTURE):
        parts.append(f"![Engines and whole commands against their peers]({PICTURE})")
    for machine in dict.fromkeys(row.machine for row in rows):
        parts += _machine(machine, [row for row in rows if row.machine == machine], scenarios)
    with atomic(out / REPORT) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _machine(machine: str, rows: Sequence[Row], scenarios: Sequence[Scenario]) -> Iterator[str]:
    commits = ", ".join(sorted({row.commit for row in rows}))
    yield f"## {machine}\n\nCommits: {commits}."
    goals = "\n".join(goal_lines(rows))
    # The goals are of processors: a GPU is measured by its own rates.
    if goals and not any("the card's" in row.peer for row in rows):
        yield f"### Goals\n\n{goals}"
    for scenario in scenarios:
        own = [row for row in rows if row.scenario == scenario.name]
        if own:
            lines = "\n".join(row_lines(own, scenario.unit))
            yield f"### {scenario.title}\n\n{scenario.words}\n\n{lines}"


def goal_lines(rows: Sequence[Row]) -> Iterator[str]:
    """The goals that rows of one machine tell of, met or missed; no line where there is none."""
    found = judged(rows)
    if found:
        yield from table(
            ["goal", "wanted", "measured", "met"],
            (
                [
                    goal.words,
                    f"{'at most' if goal.at_most else 'at least'} {goal.bound:g}",
                    f"{value:.4g}",
                    "yes" if goal.reached(value) else "no",
                ]
                for goal, value in found
            ),
        )


def row_lines(rows: Sequence[Row], unit: str) -> Iterator[str]:
    """A table of one scenario."""
    header = [*HEADER, unit, "peer", "ratio", "extremes", "peak MB", "rounds"]
    yield from table(header, map(_cells, rows))


def _cells(row: Row) -> list[str]:
    low, high = row.ratio_low, row.ratio_high
    return [
        row.what,
        row.precision,
        str(row.size or ""),
        str(row.batch or ""),
        f"{row.per_second:.3g}",
        row.peer,
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if low is None or high is None else f"{low:.2f} to {high:.2f}",
        "" if row.peak_mb is None else f"{row.peak_mb:.0f}",
        str(row.rounds),
    ]
