"""Pictures of a run: its curves, and where its predictions succeed and fail."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.atomic import atomic
from wsseg.imaging.display import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    grey_values,
)
from wsseg.train.evaluate import Prediction
from wsseg.train.learner import TOTAL
from wsseg.train.logs import EPOCH, RATE, SECONDS, VALIDATION, Row
from wsseg.train.metrics import CaseCounts, case_iou

LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "osD^vPX"
FEW_EPOCHS = 30
"""Up to here every epoch gets a marker; beyond, markers hide the line."""
DPI = 110


@dataclass(frozen=True)
class Example:
    """One predicted case, and the kind it stands for: worst, median or best."""

    kind: str
    prediction: Prediction


def draw_curves(history: Sequence[Row], chosen: int, path: Path) -> None:
    """Draw the objective's parts, the validation figures and the learning rate over epochs.

    chosen: the epoch that is kept, marked by a vertical line. The panel of validation figures is
    left out where there are none.
    """
    named = dict.fromkeys(name for row in history for name in row)
    parts = [name for name in named if not name.startswith(VALIDATION)]
    parts = [name for name in parts if name not in (EPOCH, RATE, SECONDS, TOTAL)]
    figures = [name for name in named if name.startswith(VALIDATION)]
    panels = [("objective (weighted parts)", [TOTAL, *parts]), ("learning rate", [RATE])]
    if figures:
        panels.insert(1, ("validation", figures))
    figure = _figure(8.0, 2.9 * len(panels))
    for number, (title, names) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, number)
        _draw_lines(axes, history, names, title)
        axes.axvline(chosen, color=BLACK, linestyle=":", linewidth=1)
    axes.set_xlabel(f"epoch (dotted: epoch {chosen}, which is kept)")
    _save(figure, path)


def draw_examples(examples: Sequence[Example], path: Path) -> None:
    """Draw each example twice: the slice with outlines, and the predicted probability.

    Cases are named by their line in the cases file, because file names may tell a patient's.
    """
    columns = 3
    rows = max(1, -(-len(examples) // columns))
    figure = _figure(4.4 * columns, 2.7 * rows + 0.5)
    for number, example in enumerate(examples):
        place = 2 * columns * (number // columns) + 2 * (number % columns) + 1
        _draw_outlines(figure.add_subplot(rows, 2 * columns, place), example)
        _draw_probability(figure.add_subplot(rows, 2 * columns, place + 1), example)
    if not examples:
        figure.text(0.5, 0.5, "no case has a mask, a ratio or marks", ha="center")
    _add_key(figure)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    """An empty figure, in inches, outside of pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    with atomic(path) as partial:
        figure.savefig(partial, dpi=DPI)


def _draw_lines(axes: Any, history: Sequence[Row], names: Sequence[str], title: str) -> None:
    for place, name in enumerate(names):
        points = [(row[EPOCH], row[name]) for row in history if name in row]
        axes.plot(
            *zip(*points, strict=True),
            label=name.removeprefix(VALIDATION).replace("_", " ").replace("iou", "IoU"),
            color=LINES[place % len(LINES)],
            marker=MARKERS[place % len(MARKERS)] if len(history) <= FEW_EPOCHS else None,
            markersize=4,
            linewidth=2 if name == TOTAL else 1.3,
        )
    axes.set_title(title, loc="left", fontsize=10)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)
    if len(names) > 1:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _draw_outlines(axes: Any, example: Example) -> None:
    native = example.prediction.native
    shown = grey_values(native.image.numpy())
    shown = shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1)
    marked = (native.marks.numpy() > 0) & (native.marks.numpy() < 255)
    _outline(axes, marked, YELLOW, "solid")
    if native.mask is not None:
        for mask in native.mask.numpy():
            _outline(axes, mask, SKY, "solid")
    predicted = example.prediction
    for probability, limit in zip(predicted.probability.numpy(), predicted.thresholds, strict=True):
        _outline(axes, probability >= limit, VERMILION, "dashed")
    axes.set_title(f"{example.kind}: row {example.prediction.counts.row}\n", fontsize=8)
    axes.set_axis_off()


def _draw_probability(axes: Any, example: Example) -> None:
    highest = example.prediction.probability.numpy().max(0)
    axes.imshow(highest, cmap="cividis", vmin=0, vmax=1)
    axes.set_title(_verdict(example.prediction.counts), fontsize=8)
    axes.set_axis_off()


def _outline(axes: Any, mask: NDArray[np.bool_], colour: str, style: str) -> None:
    if mask.any():
        # A border of background, so that a mask that touches the edge is closed there.
        closed = np.pad(mask.astype(np.float32), 1)
        rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
        axes.contour(columns, rows, closed, [0.5], colors=colour, linestyles=style, linewidths=1.6)


def _verdict(counts: CaseCounts) -> str:
    words = [] if counts.true is None else [f"IoU {case_iou(counts):.2f}"]
    for found, known in zip(counts.ratio, counts.known, strict=True):
        words.append(f"ratio {found:.3f}" + ("" if np.isnan(known) else f" (known {known:.3f})"))
    return "\n".join(words)


def _add_key(figure: Any) -> None:
    from matplotlib.lines import Line2D

    kinds = (
        ("mark", YELLOW, "solid"),
        ("true mask", SKY, "solid"),
        ("prediction", VERMILION, "dashed"),
    )
    lines = [Line2D([], [], color=colour, linestyle=style) for _, colour, style in kinds]
    figure.legend(
        lines,
        [name for name, _, _ in kinds],
        loc="outside upper left",
        ncols=3,
        facecolor="#404040",  # as dark as most slices, so that the colours look alike
        labelcolor="white",
    )
