"""The tables of the study, in Markdown."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from bench.intervals.care import FORMS, care
from bench.intervals.confidence import Reliability
from bench.intervals.held_out import Cases
from bench.intervals.networks import Measured
from bench.intervals.ours import SCALES, ours, quantile_of
from bench.intervals.study import Figures, Method, Pair, divisions, figures
from bench.markdown import table
from wsseg.imaging.errors import WssegError

OURS = "wsseg"
PEER = "CARE for the level, not tempered"
"""Beside which conditions are shown."""
LEVELS = (0.8, 0.9, 0.95)


def methods() -> dict[str, Method]:
    """wsseg's intervals and CARE's, by name."""
    return {
        OURS: ours,
        **{name: partial(care, form, quantile=quantile_of) for name, form in FORMS.items()},
    }


def comparison(pairs: dict[str, list[Pair]]) -> Iterator[str]:
    """Coverage and width of all methods. pairs: by the name of the data."""
    rows = []
    for data, level in ((data, level) for data in pairs for level in LEVELS):
        try:
            found = {name: figures(pairs[data], one, level) for name, one in methods().items()}
        except WssegError as error:
            rows.append([data, f"{level:g}", f"none: {error}", "", "", "", ""])
            continue
        rows += [
            [data, f"{level:g}", name, *_cells(one), f"{found[OURS].width / one.width:.2f}"]
            for name, one in found.items()
        ]
    header = ["data", "level", "method", "coverage", "mean width", "median", "wsseg's / its width"]
    yield from table(header, rows)


def scales(pairs: dict[str, list[Pair]]) -> Iterator[str]:
    """Mean widths of wsseg's intervals by other scales of the error."""
    rows = []
    for name, scale in SCALES.items():
        method = partial(ours, scale=scale)
        widths = [
            "/".join(f"{figures(each, method, level).width:.3f}" for level in LEVELS[:2])
            for each in pairs.values()
        ]
        rows.append([name, *widths])
    levels = " / ".join(f"{level:g}" for level in LEVELS[:2])
    yield from table([f"scale (widths at {levels})", *pairs], rows)


def by_size(pairs: dict[str, list[Pair]], level: float) -> Iterator[str]:
    """Coverage and width by the size of the region, calibrated on all sizes."""
    constant = methods()[PEER]
    rows = []
    for data, each in pairs.items():
        for third, name in enumerate(("smallest third", "middle third", "largest third")):
            cut = [(calibration, _third(test, third)) for calibration, test in each]
            own, other = figures(cut, ours, level), figures(cut, constant, level)
            rows.append(
                [data, name, *_cells(own)[:2], f"{other.coverage:.3f}", f"{other.width:.4f}"]
            )
    header = ["data", "measured ratio", "coverage", "mean width", "CARE's coverage", "CARE's width"]
    yield from table(header, rows)


def _third(cases: Cases, number: int) -> Cases:
    """The smallest (0), middle or largest third of the images by their measured ratio."""
    order = np.argsort(np.argsort(cases.measured, kind="stable"), kind="stable")
    return cases.at(order * 3 // len(cases) == number)


def shifts(networks: Sequence[Measured], level: float, count: int) -> Iterator[str]:
    """Coverage on images unlike those of the calibration, by the same networks."""
    constant = methods()[PEER]
    rows = []
    for name, pairs in _shifted(networks, count).items():
        own, other = figures(pairs, ours, level), figures(pairs, constant, level)
        iou = np.mean([test.iou.mean() for _, test in pairs])
        rows.append(
            [name, f"{iou:.2f}", *_cells(own)[:2], f"{other.coverage:.3f}", f"{other.width:.3f}"]
        )
    header = ["measured on", "IoU", "coverage", "mean width", "CARE's coverage", "CARE's width"]
    yield from table(header, rows)


def _shifted(networks: Sequence[Measured], count: int) -> dict[str, list[Pair]]:
    """Pairs of calibration and test cases, by what is measured."""
    pairs: dict[str, list[Pair]] = {}

    def add(name: str, calibration: Cases, test: Cases) -> None:
        pairs.setdefault(name, []).append((calibration, test))

    for network in networks:
        cases = network.cases
        for calibration, test in divisions(cases, 0.5, count):
            add("the same kind of images", cases.at(calibration), cases.at(test))
            for name, changed in network.changed.items():
                add(name, cases.at(calibration), changed.at(test))
            if network.empty:
                add("images without a lesion", cases.at(calibration), network.empty)
        kinds = {kind: cases.at(cases.kind == kind) for kind in ("benign", "malignant")}
        add("malignant, calibrated on benign", kinds["benign"], kinds["malignant"])
        add("benign, calibrated on malignant", kinds["malignant"], kinds["benign"])
    return pairs


def sureness(curves: dict[str, Reliability]) -> Iterator[str]:
    """How well `confidence` is calibrated."""
    header = ["data", "within a tenth", "Brier score", "of a constant", "calibration error"]
    rows = [
        [name, f"{c.share:.3f}", f"{c.brier:.3f}", f"{c.constant:.3f}", f"{c.error:.3f}"]
        for name, c in curves.items()
    ]
    yield from table(header, rows)


def _cells(one: Figures) -> list[str]:
    return [
        f"{one.coverage:.3f} ({one.coverage_range[0]:.2f}..{one.coverage_range[1]:.2f})",
        f"{one.width:.4f} ({one.width_range[0]:.3f}..{one.width_range[1]:.3f})",
        f"{one.median:.4f}",
    ]
