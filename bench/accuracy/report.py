"""accuracy.md: one table a section, made of all rows of accuracy.csv, and the plots beside it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.accuracy.analysis import Figures, Interval, Run, Section, figures, sections
from bench.accuracy.arms import ARMS
from bench.accuracy.goals import WORDS, judged
from bench.accuracy.plots import draw_bars, draw_budget
from bench.accuracy.results import read_rows
from bench.markdown import table
from wsseg.imaging.files import atomic

REPORT = "accuracy.md"
INTRODUCTION = """\
# Accuracy on held-out images

Written by `python -m bench.accuracy` from `accuracy.csv`, which has a row for every run;
`accuracy/` has the figures of each image. Only the arms `full` and `wsseg-masks` see masks, in
training or validation. Every arm uses its last epoch and a threshold of 0.5; the threshold that
training fits is not used. The arms of one table share data, network, starting weights, recipe and
epochs; the line above a table names folds and seeds.

The arms called `paper` use the paper's four losses, with the mark loss averaged over the mark
instead of the image, which is the better reading. They have the same pretrained weights,
augmentation and schedule as every other arm, and the same start as `wsseg`: the bias of the last
layer gives the first maps the mean ratio. `full` and `mark-only` use no ratio and have no such
start. `full` learns hard masks, `wsseg` pseudo-labels with soft borders, and `wsseg-masks` full
masks by the recipe of `wsseg`. The tables state the kind of each mark (column `mark_kind` of
cases.csv). The constants of growing pseudo-labels (docs/method.md) were chosen with the true masks
of an eighth of these lesions, and of a few kidneys and hearts.

- **IoU** (and Dice): per image, averaged over the held-out images that show the class, then over
  the classes. +- is the standard deviation over runs. The interval (95 %) comes from 2000 bootstrap
  samples of whole patients, or of groups of near-duplicates; it does not include the variation
  between seeds.
- **pooled**: IoU of the pixels of all held-out images together, including those without the class.
- **ratio error**: mean absolute error of the area ratio over all held-out images.
- **of full**: IoU relative to the same network trained on full masks, on the same samples."""


def write_report(out: Path) -> None:
    """Write the tables and plots of all rows; nothing where there is no row yet."""
    found = sections(read_rows(out))
    if not found:
        return
    measured = {section: figures(out, runs) for section, runs in found.items()}
    parts = [INTRODUCTION, *_pictures(out, measured)]
    for section, runs in found.items():
        parts.append("\n".join(_section(section, runs, measured[section])))
    with atomic(out / REPORT) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _pictures(out: Path, measured: dict[Section, list[Figures]]) -> Iterator[str]:
    draw_bars(measured, out / "accuracy-bars.png")
    yield "![IoU of every arm](accuracy-bars.png)"
    if draw_budget(measured, out / "accuracy-budget.png"):
        yield "![IoU against the share of images marked](accuracy-budget.png)"


def title(section: Section) -> str:
    """The section in words."""
    return f"{section.dataset}, {section.network}, {section.size} px, {section.epochs} epochs"


def _section(section: Section, runs: Sequence[Run], arms: Sequence[Figures]) -> Iterator[str]:
    yield f"## {title(section)}\n"
    yield f"{_folds(runs)}\n"
    header = ["arm", "marks", "percent", "runs", "IoU", "95 %", "pooled", "Dice"]
    yield from table([*header, "ratio error", "of full", "95 %"], map(_cells, arms))
    goals = judged(section, arms)
    if goals:
        yield ""
        yield from table(
            ["goal", "arm", "wanted", "measured", "met"],
            (
                [
                    WORDS[goal.measure],
                    goal.arm,
                    f"{'at most' if goal.at_most else 'at least'} {goal.bound:g}",
                    f"{value:.3f}",
                    "yes" if goal.reached(value) else "no",
                ]
                for goal, value in goals
            ),
        )


def _folds(runs: Sequence[Run]) -> str:
    """Held-out images, folds, seeds, machines and commits of a section."""
    images = {job.fold: int(row["images"]) for job, row in runs}
    commits = sorted({row["commit"] for _, row in runs})
    machines = sorted({row["machine"] for _, row in runs})
    seeds = sorted({job.seed for job, _ in runs})
    weights = sorted({row["weights"] for _, row in runs})
    return (
        f"{sum(images.values())} held-out images, folds {_listed(sorted(images))} of 5, seeds "
        f"{_listed(seeds)}; starting weights {_listed(weights)}; commits {_listed(commits)}; "
        f"{'; '.join(machines)}."
    )


def _cells(arm: Figures) -> list[str]:
    told = ARMS[arm.arm]
    deviation = "" if arm.deviation is None else f" +- {arm.deviation:.3f}"
    return [
        arm.arm,
        told.words,
        "" if told.percent is None else f"{told.percent:g}",
        str(arm.runs),
        f"{arm.iou:.3f}{deviation}",
        _range(arm.interval),
        f"{arm.pooled:.3f}",
        f"{arm.dice:.3f}",
        f"{arm.ratio_mae:.4f}",
        "" if arm.of_full is None else f"{arm.of_full:.3f}",
        "" if arm.of_full_interval is None else _range(arm.of_full_interval),
    ]


def _range(interval: Interval) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
