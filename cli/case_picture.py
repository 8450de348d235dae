"""A contact sheet of cases: the picture, what the table says of it, and what pixels are taught."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import class_colour, grey_values
from wsseg.imaging.files import atomic
from wsseg.imaging.reading import read_slice
from wsseg.train.cases import (
    FIELDS,
    MARKED_BACKGROUND,
    Case,
    Region,
    SupervisionKind,
    case_marks,
    case_mask,
)

MOST = 12
COLUMNS = 4
DPI = 110
BACKGROUND = "#FFFFFF"
TARGET_ALPHA = 0.45
"""Opacity of a pixel that is surely taught as part of the class."""

Signals = tuple[frozenset[SupervisionKind], ...]
Targets = Callable[[Case], NDArray[np.float32]]
"""What a case's pixels are taught, (k, row, column) of any grid over its picture, 0..1, NaN where
nothing."""


def draw_cases(
    cases: Sequence[tuple[Case, Signals]], classes: Sequence[str], path: Path, targets: Targets
) -> None:
    """Draw up to 12 cases, with every combination of signals among them as far as they go.

    Cases are named by their row alone, because file names and groups may tell a patient's.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = choose(cases)
    rows = -(-len(chosen) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 3.4 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (case, signals) in enumerate(chosen, start=1):
        axes = figure.add_subplot(rows, COLUMNS, number)
        _draw_case(axes, case, len(classes), targets(case))
        axes.set_title(_title(case, signals), fontsize=7)
    _add_key(figure, classes)
    with atomic(path) as partial:
        figure.savefig(partial, dpi=DPI)


def choose(cases: Sequence[tuple[Case, Signals]]) -> list[tuple[Case, Signals]]:
    """The first case of every combination of signals, then the second of each, in table order."""
    seen: dict[Signals, int] = {}
    rounds = []
    for _, signals in cases:
        seen[signals] = seen.get(signals, 0) + 1
        rounds.append(seen[signals])
    order = sorted(range(len(cases)), key=lambda place: (rounds[place], place))
    return [cases[place] for place in sorted(order[:MOST])]


def _title(case: Case, signals: Signals) -> str:
    named = [
        f"{signal} {ratio:.3g}" if signal == "ratio" and ratio is not None else signal
        for ratio, carried in zip(case.ratios, signals, strict=True)
        for signal in FIELDS
        if signal in carried
    ]
    return f"row {case.row}, {case.split}\n{', '.join(dict.fromkeys(named))}"


def _draw_case(axes: Any, case: Case, classes: int, target: NDArray[np.float32]) -> None:
    pixels = read_slice(case.image, slice_index=case.slice_index, volume=case.volume)
    axes.imshow(grey_values(pixels), cmap="gray", vmin=0, vmax=1)
    marks, mask = case_marks(case), case_mask(case, classes)
    edges = (-0.5, pixels.shape[1] - 0.5, pixels.shape[0] - 0.5, -0.5)
    for number, region in enumerate(case.regions, start=1):
        colour = class_colour(number - 1)
        axes.imshow(_veil(target[number - 1], colour), interpolation="nearest", extent=edges)
        if mask is not None:
            _outline(axes, mask == number, colour, "dotted")
        if marks is not None:
            _outline(axes, marks == number, colour, "solid")
        _draw_region(axes, region, colour)
    if marks is not None:
        _outline(axes, marks == MARKED_BACKGROUND, BACKGROUND, "solid")
    for row, column, number in case.points:
        colour = BACKGROUND if number == MARKED_BACKGROUND else class_colour(number - 1)
        axes.plot(column, row, "o", color=colour, markersize=3)
    axes.set_axis_off()


def _draw_region(axes: Any, region: Region, colour: str) -> None:
    from matplotlib.patches import Ellipse, Rectangle

    line: dict[str, Any] = {"fill": False, "edgecolor": colour, "linewidth": 1.4}
    if region.box is not None:
        rows, columns = region.box.sides
        corner = (region.box.left - 0.5, region.box.top - 0.5)
        axes.add_patch(Rectangle(corner, columns, rows, linestyle="dashed", **line))
    for row, column in region.extremes:
        axes.plot(column, row, "x", color=colour, markersize=6)
    if region.centroid is None:
        return
    y, x = region.centroid
    axes.plot(x, y, "+", color=colour, markersize=9)
    if region.spread is not None:
        high, wide = (2 * deviation for deviation in region.spread)
        axes.add_patch(Ellipse((x, y), wide, high, linestyle="dashdot", **line))


def _outline(axes: Any, mask: NDArray[np.bool_], colour: str, style: str) -> None:
    if mask.any():
        # A border of background, so that what touches the edge is closed there.
        closed = np.pad(mask.astype(np.float32), 1)
        rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
        axes.contour(columns, rows, closed, [0.5], colors=colour, linestyles=style, linewidths=1.4)


def _veil(target: NDArray[np.float32], colour: str) -> NDArray[np.float32]:
    """A class's targets (row, column) as a coloured, partly transparent picture."""
    from matplotlib.colors import to_rgb

    veil = np.empty((*target.shape, 4), np.float32)
    veil[..., :3] = to_rgb(colour)
    veil[..., 3] = TARGET_ALPHA * np.nan_to_num(target)
    return veil


def _add_key(figure: Any, classes: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    grey = "#BBBBBB"
    lines = {
        "mark": Line2D([], [], color=grey),
        "background mark (white)": Line2D([], [], color=BACKGROUND),
        "true mask": Line2D([], [], color=grey, linestyle="dotted"),
        "box": Line2D([], [], color=grey, linestyle="dashed"),
        "point": Line2D([], [], color=grey, marker="o", markersize=3, linestyle="none"),
        "extremes": Line2D([], [], color=grey, marker="x", linestyle="none"),
        "centroid and spread": Line2D([], [], color=grey, marker="+", linestyle="dashdot"),
    }
    lines |= {
        name: Line2D([], [], color=class_colour(number - 1), linewidth=4)
        for number, name in enumerate(classes, start=1)
    }
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="outside upper left",
        ncols=9,
        fontsize=7,
        facecolor="#404040",  # as dark as most slices, so that the colours look alike
        labelcolor="white",
    )
