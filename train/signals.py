"""The kinds of weak signal, which of them a case carries, and what of a batch each one fills."""

from collections.abc import Sequence
from typing import Literal

from wsseg.train.batch import MARKED_BACKGROUND
from wsseg.train.case import Case

Signal = Literal[
    "ratio",
    "bounds",
    "present",
    "marks",
    "points",
    "background marks",
    "extremes",
    "box",
    "centroid",
    "spread",
    "mask",
]

FIELDS: dict[Signal, frozenset[str]] = {
    "ratio": frozenset({"ratio"}),
    "bounds": frozenset({"bounds"}),
    "present": frozenset({"present"}),
    "marks": frozenset({"marks", "target"}),
    "points": frozenset({"marks", "target"}),
    "background marks": frozenset({"marks", "target"}),
    "extremes": frozenset({"box", "marks", "target"}),
    "box": frozenset({"box", "target"}),
    "centroid": frozenset({"centroid"}),
    "spread": frozenset({"spread"}),
    "mask": frozenset({"mask", "target"}),
}
"""The labels of `Batch` that a signal alone makes known, in the order in which they are told."""


def class_signals(case: Case, number: int) -> frozenset[Signal]:
    """The signals that a checked case carries for the class of that number, from 1.

    A mask speaks of every class, and so does background that is marked.
    """
    marked = case.contents.marked
    region = case.regions[number - 1]
    own = {(row, column) for row, column, label in case.points if label == number}
    background = any(label == MARKED_BACKGROUND for _, _, label in case.points)
    carried: dict[Signal, bool] = {
        "ratio": case.ratios[number - 1] is not None,
        "bounds": region.low is not None or region.high is not None,
        "present": region.present is not None,
        "marks": number in marked,
        "points": bool(own - set(region.extremes)),
        "background marks": background or MARKED_BACKGROUND in marked,
        "extremes": bool(region.extremes),
        "box": region.box is not None and not region.extremes,
        "centroid": region.centroid is not None,
        "spread": region.spread is not None,
        "mask": case.mask is not None,
    }
    return frozenset(signal for signal, given in carried.items() if given)


def known_fields(cases: Sequence[Case], number: int, *, corrected: bool) -> frozenset[str]:
    """The labels of `Batch` that any of these cases fills for the class of that number, from 1.

    corrected: self-training makes a target of an area too.
    """
    carried = frozenset[Signal]().union(*(class_signals(case, number) for case in cases))
    fields = frozenset[str]().union(*(FIELDS[signal] for signal in carried))
    absent = any(_absent(case, number - 1) for case in cases)
    taught = absent or (corrected and bool(carried & {"ratio", "bounds"}))
    return fields | {"target"} if taught else fields


def _absent(case: Case, place: int) -> bool:
    """Whether a case says that a class is not in its picture, which is a target in itself."""
    region = case.regions[place]
    return region.present is False or case.ratios[place] == 0 or region.high == 0
