"""Bars of the main figures: engines over eager PyTorch, whole commands side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.speed.commands import BATCH
from bench.speed.results import Row
from wsseg.imaging.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 150
OURS, OTHERS = "C0", "C7"


def draw(rows: Sequence[Row], path: Path) -> bool:
    """A line of panels for each machine; whether there is anything to draw."""
    from matplotlib.figure import Figure

    machines = [
        (machine, engines, commands)
        for machine in dict.fromkeys(row.machine for row in rows)
        for own in [[row for row in rows if row.machine == machine]]
        for engines, commands in [(served_batches(own), whole_commands(own))]
        if engines or commands
    ]
    if not machines:
        return False
    figure = Figure((13, 4.2 * len(machines)), layout="constrained")
    panels = figure.subplots(len(machines), 2, squeeze=False)
    for (machine, engines, commands), (left, right) in zip(machines, panels, strict=True):
        _bars(left, [(_named(row), row.ratio or 0.0, "PyTorch" in row.what) for row in engines])
        left.set(xlabel=f"speed over eager PyTorch in fp32, batches of {BATCH}", title=machine)
        bars = [(_named(row), row.per_second, "wsseg" not in row.what) for row in commands]
        _bars(right, bars)
        right.set(xlabel="slices a second, whole command")
    with atomic(path) as partial:
        figure.savefig(partial, dpi=DPI)
    return True


def served_batches(rows: Sequence[Row]) -> list[Row]:
    """Engines at the smallest size, in the batches of `wsseg-infer`, against eager PyTorch."""
    found = [row for row in rows if row.scenario == "engines" and row.batch == BATCH]
    smallest = min((row.size for row in found), default=0)
    return [r for r in found if r.size == smallest and r.peer.endswith("eager PyTorch fp32")]


def whole_commands(rows: Sequence[Row]) -> list[Row]:
    """Each program once, whatever it was compared to."""
    found = [row for row in rows if row.scenario == "peers" and "alone" not in row.what]
    return list({(row.what, row.precision, row.size): row for row in found}.values())


def _named(row: Row) -> str:
    return f"{row.what} {row.precision} ({row.size})"


def _bars(panel: "Axes", bars: Sequence[tuple[str, float, bool]]) -> None:
    places = range(len(bars))
    values = [value for _, value, _ in bars]
    colours = [OTHERS if other else OURS for _, _, other in bars]
    drawn = panel.barh(places, values, color=colours)
    panel.bar_label(drawn, fmt="%.2g", padding=2, fontsize=8)
    panel.set_yticks(places, [name for name, _, _ in bars], fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.1)  # for the labels
