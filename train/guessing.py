"""Where classes may lie in the training cases that do not locate them, for first targets."""

import logging

import numpy as np
from numpy.typing import NDArray

from wsseg.train.dataset import CaseDataset
from wsseg.train.targets.evidence import Evidence
from wsseg.train.targets.guess import Guess, guesses, small

log = logging.getLogger(__name__)

WORDS = {-1: "darker", 1: "brighter"}


def guess_places(cases: CaseDataset) -> dict[int, tuple[Guess | None, ...]]:
    """For the classes that some case does not locate: where each may lie, by position of the case.

    Empty where every case with an area locates its classes. What is guessed and why is logged, and
    of which class nothing could be that no case locates.
    """
    if all(case.locates or not any(case.ratios) for case in cases.cases):
        return {}
    images, areas, marks = [], [], []
    for index in range(len(cases)):
        known = cases.evidence(index)
        images.append(small(known.image))
        areas.append(_exact(known))
        marks.append(_marks(known))
    found: dict[int, dict[int, Guess]] = {}
    for place, name in enumerate(cases.classes):
        marked = {index: mark[place] for index, mark in enumerate(marks) if mark[place].any()}
        answer = guesses(images, [area[place] for area in areas], marked)
        if answer is not None:
            polarity, found[place] = answer
            log.info(
                "where no case says where %s is, it begins with the blob of its area, %s than what "
                "lies around it: %d cases",
                name,
                WORDS[polarity],
                len(found[place]) - len(marked),
            )
        elif not marked:
            log.warning(
                "no case says where %s is, and its areas explain no blobs: mark it in a few cases, "
                "or the network may learn its ratio but not its place",
                name,
            )
    return _by_case(found, len(cases.classes))


def _exact(known: Evidence) -> NDArray[np.floating]:
    """Each class's share of the picture, NaN where it is not known exactly."""
    low, high = known.areas.T
    exact: NDArray[np.floating] = np.where(low == high, low, np.nan)
    return exact


def _marks(known: Evidence) -> list[NDArray[np.float32]]:
    """How far each pixel of the small grid is marked, per class."""
    return [
        small((known.marks == place + 1).astype(np.float32)) for place in range(len(known.areas))
    ]


def _by_case(
    found: dict[int, dict[int, Guess]], classes: int
) -> dict[int, tuple[Guess | None, ...]]:
    positions = {index for guessed in found.values() for index in guessed}
    return {
        index: tuple(found.get(place, {}).get(index) for place in range(classes))
        for index in sorted(positions)
    }
