"""Plots of agreement: Bland-Altman, measured against recorded, and quantiles of the differences."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from wsseg.imaging.files import atomic
from wsseg.serve.agreement.estimates import Estimate
from wsseg.serve.agreement.result import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of Okabe and Ito's palette, whose colours differ for every kind of colour vision.
POINTS, LIMITS, TREND = "#0072B2", "#D55E00", "#009E73"
FORMATS = ("png", "svg")
DPI = 150
MANY = 5000
"""Points from which on an SVG shows them as a picture."""


def draw(groups: tuple[Group, ...], folder: Path) -> tuple[Path, ...]:
    """Draw three plots of every group of at least 3 images, each as PNG and SVG, into `folder`.

    Equal figures give equal bytes. Returns the paths.
    """
    kinds: dict[str, Callable[[Axes, Group], None]] = {
        "bland-altman": _bland_altman,
        "scatter": _scatter,
        "qq": _quantiles,
    }
    shown = [group for group in groups if group.images >= 3]
    return tuple(
        path
        for group, name in zip(shown, _names(shown), strict=True)
        for kind, plot in kinds.items()
        for path in _save(plot, group, folder / f"{name}.{kind}")
    )


def _names(groups: list[Group]) -> Iterator[str]:
    """A name for the files of each group, never twice the same."""
    given = set[str]()
    for group in groups:
        parts = (group.ratio_name, group.by, group.group if group.by else "")
        name = ".".join(re.sub(r"[^\w-]+", "-", part).strip("-") for part in parts if part)
        free = name or "ratio"
        count = 2
        while free.casefold() in given:
            free, count = f"{name}-{count}", count + 1
        given.add(free.casefold())
        yield free


@contextmanager
def _reproducible() -> Iterator[None]:
    """Names within an SVG that do not depend on chance, and no settings of the user's."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "wsseg"
        yield


def _save(plot: Callable[["Axes", Group], None], group: Group, stem: Path) -> Iterator[Path]:
    from matplotlib.figure import Figure

    with _reproducible():
        figure = Figure((4.8 if plot is _scatter else 6.4, 4.8), layout="constrained")
        axes = figure.subplots()
        plot(axes, group)
        patients = f", {group.pairs.patients} patients" if group.pairs.several_images else ""
        axes.set_title(f"{group.title} (n = {group.images} images{patients})")
        for suffix in FORMATS:
            path = stem.with_name(f"{stem.name}.{suffix}")
            undated = {"Date": None} if suffix == "svg" else {}
            with atomic(path) as partial:
                figure.savefig(partial, dpi=DPI, metadata=undated)
            yield path


def _points(axes: "Axes", x: Any, y: Any) -> None:
    axes.scatter(
        x, y, s=16, color=POINTS, alpha=0.6, linewidths=0, rasterized=len(x) > MANY, zorder=3
    )


def _bland_altman(axes: "Axes", group: Group) -> None:
    """Differences against means, with bias, limits of agreement and their intervals."""
    pairs, figures = group.pairs, group.figures
    mean = 50 * (pairs.measured + pairs.recorded)
    _points(axes, mean, 100 * pairs.differences)
    axes.axhline(0, color="grey", linewidth=0.8)
    for name, words, colour, dashes in (
        ("bias", "bias", "black", "-"),
        ("limit_low", "lower limit", LIMITS, "--"),
        ("limit_high", "upper limit", LIMITS, "--"),
    ):
        _level(axes, figures[name], words, colour, dashes)  # type: ignore[index]
    trend = figures["proportional_bias"]
    if trend.value is not None and trend.p is not None:
        ends = np.array([mean.min(), mean.max()])
        level = 100 * float(pairs.differences.mean()) + trend.value * (ends - mean.mean())
        label = f"slope {trend.value:.3g}, p = {trend.p:.2g}"
        axes.plot(ends, level, color=TREND, linestyle="-.", label=label, zorder=4)
    axes.set(
        xlabel="mean of measured and recorded ratio (%)",
        ylabel="measured less recorded (percentage points)",
    )
    axes.legend(loc="best", fontsize="small")


def _level(axes: "Axes", found: Estimate, words: str, colour: str, dashes: str) -> None:
    if found.value is None:
        return
    axes.axhline(
        100 * found.value,
        color=colour,
        linestyle=dashes,
        label=f"{words} {100 * found.value:.3g}",
        zorder=4,
    )
    if found.low is not None and found.high is not None:
        axes.axhspan(100 * found.low, 100 * found.high, color=colour, alpha=0.15, linewidth=0)


def _scatter(axes: "Axes", group: Group) -> None:
    """Measured against recorded, with the line on which they are equal."""
    recorded, measured = 100 * group.pairs.recorded, 100 * group.pairs.measured
    _points(axes, recorded, measured)
    top = 1.05 * max(recorded.max(), measured.max(), 1e-6)
    axes.plot([0, top], [0, top], color="black", linewidth=1, label="measured = recorded")
    axes.set(
        xlabel="recorded ratio (%)",
        ylabel="measured ratio (%)",
        xlim=(0, top),
        ylim=(0, top),
        aspect="equal",
    )
    axes.legend(loc="upper left", fontsize="small")


def _quantiles(axes: "Axes", group: Group) -> None:
    """Ordered differences against normal quantiles: on the line if the differences are normal."""
    differences = 100 * group.pairs.differences
    expected, ordered = stats.probplot(differences, fit=False)
    _points(axes, expected, ordered)
    ends = np.array([expected[0], expected[-1]])
    axes.plot(
        ends,
        differences.mean() + differences.std(ddof=1) * ends,
        color="black",
        linewidth=1,
        label="normal, of the same mean and SD",
    )
    axes.set(
        xlabel="quantile of the normal distribution (SD)",
        ylabel="difference (percentage points)",
    )
    axes.legend(loc="upper left", fontsize="small")
