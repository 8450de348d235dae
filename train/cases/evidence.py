"""What a table teaches of each class: enough, too little to find it, or nothing at all."""

from collections.abc import Iterator, Sequence
from typing import Literal

from wsseg.imaging.definitions import Denominator
from wsseg.imaging.tables import Fault
from wsseg.train.cases.schema import MARKED_BACKGROUND, Case

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
"""The labels of `Batch` that a kind of supervision alone fills, in the order of reports."""
LOCATING = frozenset[SupervisionKind]({"marks", "points", "extremes", "box", "centroid", "mask"})
"""Kinds that state where in the image a class is."""
LIMITING = frozenset[SupervisionKind]({"box", "extremes", "mask", "spread", "background marks"})
"""Kinds that prevent a class from covering the whole image, besides its size."""


def class_supervision(case: Case, label: int) -> frozenset[SupervisionKind]:
    """Return the kinds of supervision that a checked case has for the class with this label.

    A mask is about every class, and so is marked background.
    """
    marked = case.contents.marked
    region = case.regions[label - 1]
    own = {(row, column) for row, column, other in case.points if other == label}
    background = any(other == MARKED_BACKGROUND for _, _, other in case.points)
    kinds: dict[SupervisionKind, bool] = {
        "ratio": case.ratios[label - 1] is not None,
        "bounds": region.low is not None or region.high is not None,
        "present": region.present is not None,
        "marks": label in marked,
        "points": bool(own - set(region.extremes)),
        "background marks": background or MARKED_BACKGROUND in marked,
        "extremes": bool(region.extremes),
        "box": region.box is not None and not region.extremes,
        "centroid": region.centroid is not None,
        "spread": region.spread is not None,
        "mask": case.mask is not None,
    }
    return frozenset(kind for kind, stated in kinds.items() if stated)


def known_fields(cases: Sequence[Case], label: int, *, corrected: bool) -> frozenset[str]:
    """Return the labels of `Batch` that any of these cases fills for the class with this label.

    corrected: whether self-training makes a target from an area as well.
    """
    kinds = {kind for case in cases for kind in class_supervision(case, label)}
    fields = frozenset(field for kind in kinds for field in FIELDS[kind])
    # The absence of a class is a target in itself.
    absent = any(case.absent(label - 1) for case in cases)
    has_target = absent or (corrected and not kinds.isdisjoint({"ratio", "bounds"}))
    return fields | {"target"} if has_target else fields


def unsupervised_classes(
    cases: Sequence[Case], classes: tuple[str, ...], *, unlabelled: bool
) -> Iterator[Fault]:
    """Yield classes that no training case describes, which the network would find anywhere.

    unlabelled: whether the run has a teacher, who may describe them.
    """
    training = [case for case in cases if case.split == "train"]
    if not training or unlabelled:
        return
    for label, name in enumerate(classes, 1):
        if any(_own_supervision(case, label) for case in training):
            continue
        other = next((case for case in cases if _own_supervision(case, label)), None)
        remedy = "fill in its columns in some rows, or remove them"
        if other is not None:
            remedy = f"line {other.row}, in {other.split}, does: put such cases into train"
        yield Fault(0, f"no training case describes {name}, so it cannot be learnt: {remedy}")


def doubtful_classes(
    cases: Sequence[Case], classes: tuple[str, ...], denominators: tuple[Denominator, ...]
) -> Iterator[str]:
    """Yield classes for which the training cases will hardly teach what is meant."""
    training = [case for case in cases if case.split == "train"]
    limited = _limited_classes(training, denominators)
    for index, name in enumerate(classes):
        described = [case for case in training if _own_supervision(case, index + 1)]
        if not described:
            continue
        if not any(_shows(case, index) for case in described):
            yield (
                f"no training case shows {name}: the table only says that it is absent, so the "
                f"network will never find it"
            )
        elif index not in limited:
            yield (
                f"nothing in the training cases prevents {name} from covering the whole image: "
                f"give a ratio or an upper bound of the image, a box, marks of background, or "
                f"cases without it"
            )
        denominator = denominators[index]
        if denominator == "image" or not any(c.ratios[index] is not None for c in training):
            continue
        parts = [denominator] if isinstance(denominator, int) else range(len(classes))
        whole = classes[denominator] if isinstance(denominator, int) else "the foreground"
        sized = any(
            (denominators[part] == "image" and case.ratios[part] is not None)
            or LOCATING & class_supervision(case, part + 1)
            for case in training
            for part in parts
        )
        if not sized:
            yield (
                f"the ratio of {name} is relative to {whole}, and no training case says where "
                f"{whole} is or how large: give {whole} a ratio of the image, marks or a mask"
            )


def _own_supervision(case: Case, label: int) -> frozenset[SupervisionKind]:
    """Return the kinds of supervision for this class, without those for all of them alike."""
    return class_supervision(case, label) - {"background marks"}


def _shows(case: Case, index: int) -> bool:
    """Return whether a case can show the class, and does more than to state its absence."""
    drawn, region = case.contents.drawn, case.regions[index]
    if drawn is not None and drawn[index]:
        return True
    kinds = _own_supervision(case, index + 1) - {"mask", "ratio", "bounds", "present"}
    return bool(kinds or case.ratios[index] or region.low or region.high or region.present)


def _limited_classes(
    training: Sequence[Case], denominators: tuple[Denominator, ...]
) -> frozenset[int]:
    """Return the indices of classes of which something limits the extent, or states the absence."""
    limited = {
        index
        for index, denominator in enumerate(denominators)
        if any(_is_limited(case, index, denominator) for case in training)
    }
    # A share of a limited class is limited, and one of the foreground if any other class is.
    for _ in denominators:
        for index, denominator in enumerate(denominators):
            whole = (
                denominator in limited - {index}
                if isinstance(denominator, int)
                else denominator == "foreground" and bool(limited - {index})
            )
            if whole and any(case.ratios[index] is not None for case in training):
                limited.add(index)
    return frozenset(limited)


def _is_limited(case: Case, index: int, denominator: Denominator) -> bool:
    """Return whether a case limits the extent of a class in its image."""
    if case.absent(index):
        return True
    if denominator == "image" and (
        case.ratios[index] is not None or case.regions[index].high is not None
    ):
        return True
    others = {*case.contents.marked, *(label for _, _, label in case.points)} - {0, index + 1}
    return bool(others - {MARKED_BACKGROUND} or LIMITING & class_supervision(case, index + 1))


def small_regions(
    cases: Sequence[Case],
    classes: tuple[str, ...],
    denominators: tuple[Denominator, ...],
    size: int,
) -> Iterator[str]:
    """Yield classes of which some regions are smaller than a cell of the size x size grid."""
    for index, name in enumerate(classes):
        small = []
        for case in cases:
            drawn, (rows, columns) = case.contents.drawn, case.contents.shape
            if drawn is not None:
                share = drawn[index] / (rows * columns)
            else:
                share = (case.ratios[index] or 0.0) if denominators[index] == "image" else 0.0
            if 0 < share < 1 / size**2:
                small.append(case.row)
        if small:
            yield (
                f"{len(small)} training cases have less of {name} than one of the {size} x {size} "
                f"cells that the network sees, the first in line {small[0]}: it is learnt as one "
                f"cell there and measured too large; use a larger --size"
            )
