"""Where classes may lie in the training cases that do not locate them, for first targets."""

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsseg.train.batch import MARKED_BACKGROUND, NOT_MARKED
from wsseg.train.case import Case
from wsseg.train.dataset import CaseDataset
from wsseg.train.label_files import case_marks
from wsseg.train.ratios import Denominator
from wsseg.train.targets.cases import case_areas
from wsseg.train.targets.evidence import Evidence
from wsseg.train.targets.guess import Guess, guesses, small

log = logging.getLogger(__name__)

WORDS = {-1: "darker", 1: "brighter"}
GUESSED = (
    "where no case says where %s is, it begins with the blob of its area, %s than what lies around "
    "it: %d cases"
)
NOWHERE = (
    "no case says where %s is, and its areas explain no blobs: mark it in a few cases, or the "
    "network may learn its ratio but not its place"
)


def guess_places(cases: CaseDataset) -> dict[int, tuple[Guess | None, ...]]:
    """For the classes that some case does not locate: where each may lie, by position of the case.

    Empty where every case with an area locates its classes. What is guessed is logged, and of which
    class nothing could be that no case locates.
    """
    unlocated = [_unlocated(case, cases.denominators) for case in cases.cases]
    wanted = np.any(unlocated, axis=0) if unlocated else np.zeros(0, bool)
    if not wanted.any():
        return {}
    known = [_seen(cases.evidence(index)) for index in range(len(cases))]
    found: dict[int, dict[int, Guess]] = {}
    for place in np.flatnonzero(wanted).tolist():
        wanting = {index for index, without in enumerate(unlocated) if without[place]}
        answer = guesses(
            [seen.image for seen in known],
            [float(seen.areas[place]) for seen in known],
            {at: seen.marks[place] for at, seen in enumerate(known) if place in seen.marks},
        )
        if answer is not None:
            polarity, blobs = answer
            found[place] = {at: guess for at, guess in blobs.items() if at in wanting}
            log.info(GUESSED, cases.classes[place], WORDS[polarity], len(found[place]))
        elif len(wanting) == sum(float(seen.areas[place]) > 0 for seen in known):
            log.warning(NOWHERE, cases.classes[place])
    return _by_case(found, len(cases.classes))


class _Seen(NamedTuple):
    """A case on the grid of blobs: image, exact areas, and by class how far pixels are marked."""

    image: NDArray[np.float32]
    areas: NDArray[np.floating]
    marks: dict[int, NDArray[np.float32]]


def _seen(known: Evidence) -> _Seen:
    # Extreme points lie on the border: a good blob need not cover them.
    marked = [place for place, located in enumerate(known.located) if located]
    marks = {place: small((known.marks == place + 1).astype(np.float32)) for place in marked}
    return _Seen(small(known.image), _exact(known.areas), marks)


def _unlocated(case: Case, denominators: tuple[Denominator, ...]) -> NDArray[np.bool_]:
    """The classes (k) of known area that neither a mask, a mark nor a box of the case locates."""
    there = _exact(case_areas(case, denominators)) > 0
    if case.mask is not None or not there.any():
        return np.zeros_like(there)
    there &= [region.box is None for region in case.regions]
    marks = case_marks(case) if case.marks is not None or case.points else None
    if marks is not None:
        there[np.setdiff1d(marks, (NOT_MARKED, MARKED_BACKGROUND)).astype(int) - 1] = False
    return there


def _exact(areas: NDArray[np.floating]) -> NDArray[np.floating]:
    """Each class's share of the picture (k) from its bounds (k, 2); NaN unless they are equal."""
    low, high = areas.T
    exact: NDArray[np.floating] = np.where(low == high, low, np.nan)
    return exact


def _by_case(
    found: dict[int, dict[int, Guess]], classes: int
) -> dict[int, tuple[Guess | None, ...]]:
    positions = {index for guessed in found.values() for index in guessed}
    return {
        index: tuple(found.get(place, {}).get(index) for place in range(classes))
        for index in sorted(positions)
    }
