"""What the method is meant to reach, and whether the figures of a section reach it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.accuracy.analysis import REFERENCE, Figures, Section

Measure = Callable[[Figures, dict[str, Figures]], float | None]


def of_full(figures: Figures, arms: dict[str, Figures]) -> float | None:
    """IoU over that of full supervision."""
    return figures.of_full


def iou_points(figures: Figures, arms: dict[str, Figures]) -> float | None:
    """IoU in percent."""
    return 100 * figures.iou


def points_over_paper(figures: Figures, arms: dict[str, Figures]) -> float | None:
    """IoU in percent above the paper's recipe with 8 % marks."""
    return 100 * (figures.iou - arms["paper-8"].iou) if "paper-8" in arms else None


def ratio_error_of_full(figures: Figures, arms: dict[str, Figures]) -> float | None:
    """Ratio error over that of full supervision."""
    if REFERENCE not in arms or not arms[REFERENCE].ratio_mae:
        return None
    return figures.ratio_mae / arms[REFERENCE].ratio_mae


WORDS: dict[Measure, str] = {
    of_full: "IoU, of full supervision's",
    iou_points: "IoU, percent",
    points_over_paper: "IoU, points above paper-8",
    ratio_error_of_full: "ratio error, of full supervision's",
}


@dataclass(frozen=True)
class Goal:
    """A bound for an arm: at least, or at most. network: the only one that it is meant for."""

    dataset: str
    arm: str
    measure: Measure
    bound: float
    at_most: bool = False
    network: str | None = None

    def reached(self, value: float) -> bool:
        """Whether a measured value keeps to the bound."""
        return value <= self.bound if self.at_most else value >= self.bound


GOALS = (
    Goal("busi", "wsseg-8", iou_points, 70.0, network="resnet50"),
    Goal("busi", "wsseg-8", of_full, 1.0),
    Goal("busi", "wsseg-4", of_full, 0.99),
    Goal("busi", "wsseg-8", points_over_paper, 12.0),
    Goal("busi", "wsseg-disc-8", of_full, 0.95),
    Goal("busi", "wsseg-random-disc-8", of_full, 0.88),
    Goal("busi", "wsseg-point", of_full, 0.88),
    Goal("busi", "wsseg-share-25", of_full, 0.98),
    Goal("busi", "wsseg-share-10", of_full, 0.95),
    Goal("busi", "wsseg-share-5", of_full, 0.91),
    Goal("busi", "wsseg-share-25-disc", of_full, 0.94),
    Goal("busi", "wsseg-share-10-disc", of_full, 0.90),
    Goal("busi", "wsseg-share-5-disc", of_full, 0.86),
    Goal("busi", "wsseg-share-0", iou_points, 41.95),
    Goal("kidneys", "wsseg-8", of_full, 0.97),
    Goal("cardiac", "wsseg-scribble", of_full, 0.94),
    Goal("busi", "wsseg-8", ratio_error_of_full, 1.0, at_most=True),
    Goal("kidneys", "wsseg-8", ratio_error_of_full, 1.0, at_most=True),
    Goal("cardiac", "wsseg-scribble", ratio_error_of_full, 1.0, at_most=True),
)


def judged(section: Section, figures: Sequence[Figures]) -> list[tuple[Goal, float]]:
    """The goals that the section has runs for, each with the measured value."""
    arms = {one.arm: one for one in figures}
    return [
        (goal, value)
        for goal in GOALS
        if goal.dataset == section.dataset and goal.network in (None, section.network)
        if goal.arm in arms
        for value in [goal.measure(arms[goal.arm], arms)]
        if value is not None
    ]
