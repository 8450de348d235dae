"""Pictures of the figures: all arms as bars, and quality against the share of images marked."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.accuracy.analysis import Figures, Section
from bench.accuracy.arms import ARMS
from wsseg.imaging.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 150
OUTLINE_SECONDS = 79.0
"""An outline of one object in a photograph takes 54 to 79 s (Bearman et al., ECCV 2016)."""
STROKE_SECONDS = 10.0
"""Assumed for a mark; the time to find the region, which an outline needs as well, left out."""
CURVES = {
    "eroded marks": (
        "wsseg-share-0",
        "wsseg-share-5",
        "wsseg-share-10",
        "wsseg-share-25",
        "wsseg-8",
    ),
    "centre discs": (
        "wsseg-share-0",
        "wsseg-share-5-disc",
        "wsseg-share-10-disc",
        "wsseg-share-25-disc",
        "wsseg-disc-8",
    ),
}


def draw_bars(measured: dict[Section, list[Figures]], path: Path) -> None:
    """IoU of every arm with its interval, one panel a section."""
    from matplotlib.figure import Figure

    tallest = max(len(arms) for arms in measured.values())
    figure = Figure((5.5 * len(measured), 1.2 + 0.3 * tallest), layout="constrained")
    panels = figure.subplots(1, len(measured), squeeze=False)[0]
    for panel, (section, arms) in zip(panels, measured.items(), strict=True):
        places = range(len(arms))
        values = [arm.iou for arm in arms]
        panel.barh(places, values, xerr=_errors(values, [a.interval for a in arms]), color="C0")
        panel.set_yticks(places, [arm.arm for arm in arms])
        panel.invert_yaxis()
        panel.set(xlim=(0, 1), xlabel="IoU per image", title=_title(section))
    _save(figure, path)


def draw_budget(measured: dict[Section, list[Figures]], path: Path) -> bool:
    """IoU over full supervision's against the share of images marked; whether there is any."""
    from matplotlib.figure import Figure

    shown = {section: arms for section, arms in measured.items() if any(_curves(arms).values())}
    if not shown:
        return False
    figure = Figure((5.5 * len(shown), 4.2), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for panel, (section, arms) in zip(panels, shown.items(), strict=True):
        _draw_curves(panel, arms)
        panel.set_title(_title(section))
    _save(figure, path)
    return True


def _curves(arms: Sequence[Figures]) -> dict[str, list[Figures]]:
    """The points of each curve that has at least two."""
    measured = {arm.arm: arm for arm in arms if arm.of_full is not None}
    points = {name: [measured[arm] for arm in c if arm in measured] for name, c in CURVES.items()}
    return {name: found for name, found in points.items() if len(found) > 1}


def _draw_curves(panel: "Axes", arms: Sequence[Figures]) -> None:
    # Even steps: on a linear axis the interesting end, few marks, would be one spot.
    shares = sorted({ARMS[name].share for curve in CURVES.values() for name in curve})
    for name, curve in _curves(arms).items():
        places = [shares.index(ARMS[arm.arm].share) for arm in curve]
        values = [arm.of_full or 0.0 for arm in curve]
        errors = _errors(values, [arm.of_full_interval or (0.0, 0.0) for arm in curve])
        panel.errorbar(places, values, yerr=errors, marker="o", capsize=3, label=name)
    panel.axhline(1.0, color="grey", linestyle="--", label="full masks on every image")
    panel.set_xticks(range(len(shares)), [_tick(share) for share in shares])
    panel.set(
        xlabel="images marked, and minutes of marking per 100 images\n"
        f"(at {STROKE_SECONDS:g} s a mark; full masks, {OUTLINE_SECONDS:g} s an outline: "
        f"{100 * OUTLINE_SECONDS / 60:.0f} min)",
        ylabel="IoU, of full supervision's",
    )
    panel.legend(loc="lower right")
    panel.grid(alpha=0.3)


def _tick(share: float) -> str:
    return f"{share:g} %\n{share * STROKE_SECONDS / 60:.1f} min"


def _errors(
    values: Sequence[float], intervals: Sequence[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """Lengths below and above each value, as matplotlib wants them."""
    below = [max(0.0, value - low) for value, (low, _) in zip(values, intervals, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(values, intervals, strict=True)]
    return below, above


def _title(section: Section) -> str:
    return f"{section.dataset}, {section.network}, {section.size} px"


def _save(figure: object, path: Path) -> None:
    from matplotlib.figure import Figure

    if not isinstance(figure, Figure):
        raise AssertionError("a figure was drawn")
    with atomic(path) as partial:
        figure.savefig(partial, dpi=DPI)
