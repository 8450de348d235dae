"""What a table teaches of each class: enough, too little to find it, or nothing at all."""

from collections.abc import Collection, Iterator, Sequence
from typing import Literal

from wsseg.imaging.definitions import Denominator
from wsseg.imaging.tables import Fault
from wsseg.train.cases.schema import MARKED_BACKGROUND, Case

# The kinds of weak signal, which of them a case carries, and what of a batch each one fills.

SupervisionKind = Literal[
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

FIELDS: dict[SupervisionKind, frozenset[str]] = {
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


def class_supervision(case: Case, number: int) -> frozenset[SupervisionKind]:
    """The signals that a checked case carries for the class of that number, from 1.

    A mask speaks of every class, and so does background that is marked.
    """
    marked = case.contents.marked
    region = case.regions[number - 1]
    own = {(row, column) for row, column, label in case.points if label == number}
    background = any(label == MARKED_BACKGROUND for _, _, label in case.points)
    carried: dict[SupervisionKind, bool] = {
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
    carried = frozenset[SupervisionKind]().union(
        *(class_supervision(case, number) for case in cases)
    )
    fields = frozenset[str]().union(*(FIELDS[signal] for signal in carried))
    absent = any(_absent(case, number - 1) for case in cases)
    taught = absent or (corrected and bool(carried & {"ratio", "bounds"}))
    return fields | {"target"} if taught else fields


def _absent(case: Case, place: int) -> bool:
    """Whether a case says that a class is not in its picture, which is a target in itself."""
    region = case.regions[place]
    return region.present is False or case.ratios[place] == 0 or region.high == 0


LOCATING = frozenset[SupervisionKind]({"marks", "points", "extremes", "box", "centroid", "mask"})
"""Signals that say where in the picture a class is."""
LIMITING = frozenset[SupervisionKind]({"box", "extremes", "mask", "spread", "background marks"})
"""Signals that keep a class from being everywhere, besides its size."""


def unsupervised_classes(
    cases: Sequence[Case], classes: tuple[str, ...], *, unlabelled: bool
) -> Iterator[Fault]:
    """Classes that no training case says anything of: the network would find them anywhere.

    unlabelled: whether the run has a teacher, who may speak of them.
    """
    training = [case for case in cases if case.split == "train"]
    for number, name in enumerate(classes, 1):
        said = any(_own_supervision(case, number) for case in training)
        if training and not said and not unlabelled:
            other = next((case for case in cases if _own_supervision(case, number)), None)
            remedy = "fill in its columns in some rows, or remove them"
            if other is not None:
                remedy = f"line {other.row}, in {other.split}, does: put such cases into train"
            yield Fault(
                0,
                f"no training case says anything of {name}, so that nothing would teach it: "
                f"{remedy}",
            )


def doubtful_classes(
    cases: Sequence[Case], classes: tuple[str, ...], denominators: tuple[Denominator, ...]
) -> Iterator[str]:
    """What training cases say of classes that will hardly teach what was meant."""
    training = [case for case in cases if case.split == "train"]
    limited = _limited(training, denominators)
    for place, name in enumerate(classes):
        told = [case for case in training if _own_supervision(case, place + 1)]
        if not told:
            continue
        if not any(_shows(case, place) for case in told):
            yield (
                f"no training case shows {name}: all that is said of it is that it is not there, "
                f"so that it will be found nowhere"
            )
        elif place not in limited:
            yield (
                f"nothing in the training cases keeps {name} from being everywhere: give a ratio "
                f"or an upper bound of the image, a box, marks of background, or cases without it"
            )
        yield from _baseless(training, classes, denominators, place)


def _own_supervision(case: Case, number: int) -> frozenset[SupervisionKind]:
    """What a case says of this class, and not of all of them alike."""
    return class_supervision(case, number) - {"background marks"}


def _shows(case: Case, place: int) -> bool:
    """Whether a case can show the class: anything but that it is not there."""
    drawn, region = case.contents.drawn, case.regions[place]
    if drawn is not None and drawn[place]:
        return True
    said = _own_supervision(case, place + 1) - {"mask", "ratio", "bounds", "present"}
    return bool(said or case.ratios[place] or region.low or region.high or region.present)


def _limited(training: Sequence[Case], denominators: tuple[Denominator, ...]) -> frozenset[int]:
    """The places of classes of which something says how far they reach, or where they are not."""
    found = {
        place
        for place, below in enumerate(denominators)
        if any(_limits(case, place, below) for case in training)
    }
    # A share of a limited class is limited; of the foreground, if any other class is.
    for _ in denominators:
        found |= {
            place
            for place, below in enumerate(denominators)
            if any(case.ratios[place] is not None for case in training)
            and _known_whole(below, found - {place})
        }
    return frozenset(found)


def _known_whole(below: Denominator, limited: Collection[int]) -> bool:
    return below in limited if isinstance(below, int) else below == "foreground" and bool(limited)


def _limits(case: Case, place: int, below: Denominator) -> bool:
    region = case.regions[place]
    if region.present is False or case.ratios[place] == 0 or region.high == 0:
        return True
    if below == "image" and (case.ratios[place] is not None or region.high is not None):
        return True
    others = {*case.contents.marked, *(number for _, _, number in case.points)} - {0, place + 1}
    signals = class_supervision(case, place + 1)
    return bool(others - {MARKED_BACKGROUND} or LIMITING & signals)


def _baseless(
    training: Sequence[Case],
    classes: tuple[str, ...],
    denominators: tuple[Denominator, ...],
    place: int,
) -> Iterator[str]:
    """A ratio to something of which nothing says where, or how large, it is."""
    below = denominators[place]
    if below == "image" or not any(case.ratios[place] is not None for case in training):
        return
    parts = [below] if isinstance(below, int) else range(len(classes))
    named = classes[below] if isinstance(below, int) else "the foreground"
    if not any(_sized(case, part, denominators[part]) for case in training for part in parts):
        yield (
            f"{classes[place]} is known as a share of {named}, of which no training case says "
            f"where or how large it is: give {named} a ratio of the image, marks or a mask"
        )


def _sized(case: Case, place: int, below: Denominator) -> bool:
    ratio = below == "image" and case.ratios[place] is not None
    return ratio or bool(LOCATING & class_supervision(case, place + 1))


def small_regions(
    cases: Sequence[Case],
    classes: tuple[str, ...],
    denominators: tuple[Denominator, ...],
    size: int,
) -> Iterator[str]:
    """Classes of which some regions cover less than a cell of the network's grid, size x size."""
    cell = 1 / size**2
    for place, name in enumerate(classes):
        shares = [_share(case, place, denominators[place]) for case in cases]
        small = [c.row for c, share in zip(cases, shares, strict=True) if 0 < share < cell]
        if small:
            yield (
                f"{len(small)} training cases have less of {name} than one of the {size} x {size} "
                f"cells that the network sees, the first in line {small[0]}: it is taught as one "
                f"cell there, and found too large; a larger --size shows more of it"
            )


def _share(case: Case, place: int, below: Denominator) -> float:
    """A class's share of its picture, by its mask or its ratio; 0 where unknown."""
    drawn, (rows, columns) = case.contents.drawn, case.contents.shape
    if drawn is not None:
        return drawn[place] / (rows * columns)
    return (case.ratios[place] or 0.0) if below == "image" else 0.0
