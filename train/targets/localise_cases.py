"""Localisation from areas for the training cases that do not locate their classes."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.dicom import silence_pydicom
from wsseg.train.cases.files import labelled_numbers
from wsseg.train.cases.schema import MARKED_BACKGROUND, Case
from wsseg.train.data.dataset import READERS, CaseDataset
from wsseg.train.targets.case_targets import Thumbnail, case_areas
from wsseg.train.targets.localise import (
    LEAST_CASES,
    BlobProposal,
    Proposals,
    Refusal,
    localise_class,
)

log = logging.getLogger(__name__)

WORDS = {-1: "darker", 1: "brighter"}
WHY: dict[Refusal, str] = {
    "few": f"a guess from areas needs {LEAST_CASES} cases with one, and does better with 100",
    "unexplained": "its areas explain no blobs in the images",
    "missed": "the blobs of its areas miss the marks",
}


def localise_cases(cases: CaseDataset) -> dict[int, tuple[BlobProposal | None, ...]]:
    """Return proposals for the classes that a case does not locate, by the index of the case.

    Empty where every case with an area locates its classes. Logs which classes are localised from
    their areas, and which are not and why.
    """
    with silence_pydicom, ThreadPoolExecutor(READERS) as pool:
        places = list(pool.map(lambda case: _places(case, cases), cases.cases))
        _warn_of_unplaced(cases, places)
        if not any(each.wanted.any() for each in places):
            return {}
        waiting = [bool(each.wanted.any()) for each in places]
        seen = list(pool.map(lambda at: cases.thumbnail(at, waits=waiting[at]), range(len(cases))))
    found = {}
    for number in range(len(cases.classes)):
        if any(each.wanted[number] for each in places):
            found[number] = _of_class(cases.classes[number], number, places, seen)
    return _by_case(found, len(cases.classes))


class _Places(NamedTuple):
    """For each class (k): whether a case locates it, and whether it needs a proposal."""

    located: NDArray[np.bool_]
    wanted: NDArray[np.bool_]


def _warn_of_unplaced(cases: CaseDataset, places: Sequence[_Places]) -> None:
    """Warn of classes that no case locates and that cannot be localised from their sizes.

    Such sizes are bounds, or ratios to something else than the image.
    """
    for number, name in enumerate(cases.classes):
        sized = any(c.ratios[number] or c.regions[number].high for c in cases.cases)
        if sized and not any(each.located[number] or each.wanted[number] for each in places):
            log.warning(
                "no case says where %s is, and none has its exact ratio to the image to guess its "
                "place by: mark it in a few, or its place may not be learnt",
                name,
            )


def _of_class(
    name: str, number: int, places: Sequence[_Places], seen: Sequence[Thumbnail]
) -> dict[int, BlobProposal]:
    marks = {at: each.marks[number] for at, each in enumerate(seen) if number in each.marks}
    answer = localise_class([s.image for s in seen], [float(s.areas[number]) for s in seen], marks)
    located = any(each.located[number] for each in places)
    if isinstance(answer, Proposals):
        wanted = {at: one for at, one in answer.by_index.items() if places[at].wanted[number]}
        text = (
            "%d cases that do not say where %s is begin with the blob of its area, %s than around"
        )
        log.info(text, len(wanted), name, WORDS[answer.polarity])
        if not marks:
            text = "no mark confirms that these blobs are %s: look at wsseg cases check --picture"
            log.warning(text, name)
        return wanted
    if not located:
        text = "no case says where %s is, and %s: mark it in a few, or its place may not be learnt"
        log.warning(text, name, WHY[answer])
    else:
        log.info("cases that do not say where %s is begin without a target: %s", name, WHY[answer])
    return {}


def _places(case: Case, cases: CaseDataset) -> _Places:
    located = np.array([region.box is not None for region in case.regions])
    located |= case.mask is not None
    located[[n - 1 for n in labelled_numbers(case) if n != MARKED_BACKGROUND]] = True
    low, high = case_areas(case, cases.denominators).T
    unknown_place = ~located & (high > 0) & (low == high)
    return _Places(located, unknown_place)


def _by_case(
    found: dict[int, dict[int, BlobProposal]], classes: int
) -> dict[int, tuple[BlobProposal | None, ...]]:
    positions = {index for proposed in found.values() for index in proposed}
    return {
        index: tuple(found.get(place, {}).get(index) for place in range(classes))
        for index in sorted(positions)
    }
