"""Initial targets of cases: their evidence, their localisation by area, and the network's grid."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Denominator
from wsseg.imaging.dicom import silence_pydicom
from wsseg.imaging.stopping import reading_threads
from wsseg.train.cases.files import labelled_numbers
from wsseg.train.cases.schema import MARKED_BACKGROUND, NOT_MARKED, Box, Case
from wsseg.train.data.preprocess import HALF, area_mean, keep_one, shrink_marks
from wsseg.train.targets.evidence import BorderEvidence, Evidence, Growth, Target
from wsseg.train.targets.growing import evidence_of_borders, first_target, seeds
from wsseg.train.targets.localise import (
    LEAST_CASES,
    BlobProposal,
    Proposals,
    Refusal,
    localise_class,
    on_blob_grid,
)

log = logging.getLogger(__name__)

LONGEST_SIDE = 256
"""Of the grid that targets are grown on. A finer one costs time, and errs less by a pixel where
growing errs by many."""
BORDER_CASES = 64
"""Number of cases, evenly spread, whose borders decide how marks are grown."""
FULL = 255
READERS = 4
CONTRASTS = {-1: "darker", 1: "brighter"}
REFUSALS: dict[Refusal, str] = {
    "few": f"localising by area needs {LEAST_CASES} cases with an area, and works better with 100",
    "unexplained": "its areas do not match the blobs in the images",
    "missed": "the blobs of its areas do not cover the marks",
}
"""Why a class cannot be localised, for the log."""


def grid_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the grid on which an image of this shape is grown."""
    scale = min(1.0, LONGEST_SIDE / max(shape))
    rows, columns = (max(1, round(side * scale)) for side in shape)
    return rows, columns


def case_evidence(
    case: Case,
    image: NDArray[np.floating],
    marks: NDArray[np.uint8],
    denominators: tuple[Denominator, ...],
) -> Evidence:
    """Return what is known of a case, on the grid of growth.

    image: 0..1 (c, row, column), at its own resolution. Only a ratio to the whole image determines
    the number of a class's pixels; other ratios do not count.
    """
    original, shape = (image.shape[1], image.shape[2]), grid_shape(image.shape[1:])
    located = []
    for index, region in enumerate(case.regions):
        own = marks == index + 1
        for row, column in region.extremes:
            own[row, column] = False
        located.append(bool(own.any()))
    return Evidence(
        image=area_mean(image[0] if len(image) == 1 else image.mean(0), shape),
        marks=shrink_marks(marks, shape),
        areas=case_areas(case, denominators),
        boxes=tuple(_box(region.box, original, shape) for region in case.regions),
        located=tuple(located),
        kinds=tuple(region.mark_kind for region in case.regions),
    )


def lightened(evidence: Evidence, growth: Growth) -> Evidence:
    """Return evidence for the same target, without the image where nothing grows along it."""
    if seeds(evidence, growth):
        return evidence
    nothing = np.broadcast_to(np.float32(0), evidence.image.shape)
    unmarked = np.broadcast_to(np.uint8(NOT_MARKED), evidence.marks.shape)
    marks = evidence.marks if evidence.marks.any() else unmarked
    return replace(evidence, image=nothing, marks=marks)


def memory_of(evidence: Evidence) -> int:
    """Return the bytes that the pixels of an evidence take."""
    layers = (evidence.image, evidence.marks, *evidence.boxes)
    return sum(layer.nbytes for layer in layers if layer is not None and any(layer.strides))


@dataclass(frozen=True)
class Thumbnail:
    """A case on the grid of blobs: image, exact areas, and coverage of marked classes by index."""

    image: NDArray[np.float32]
    areas: NDArray[np.floating]
    marks: dict[int, NDArray[np.float32]]


def thumbnail_of(evidence: Evidence, masks: NDArray[np.bool_] | None) -> Thumbnail:
    """Return what is known of a case on the grid of blobs; masks: full masks (k, row, column)."""
    image = on_blob_grid(evidence.image)
    if masks is None:
        # Extreme points lie on the border: a good blob need not cover them.
        marked = [index for index, located in enumerate(evidence.located) if located]
        marks = {at: on_blob_grid((evidence.marks == at + 1).astype(np.float32)) for at in marked}
    else:
        marks = {at: area_mean(m.astype(np.float32), image.shape) for at, m in enumerate(masks)}
    low, high = evidence.areas.T
    there = {at: mark for at, mark in marks.items() if mark.any()}
    return Thumbnail(image, np.where(low == high, low, np.nan), there)


def case_areas(case: Case, denominators: tuple[Denominator, ...]) -> NDArray[np.floating]:
    """Return the bounds of each class's share of the image (k, 2): equal if exact, NaN if unknown.

    A lower bound without an upper one does not count. A class that is tagged as absent, or whose
    ratio or upper bound is 0, has the area 0.
    """
    areas = np.full((len(denominators), 2), math.nan)
    for index, (ratio, region) in enumerate(zip(case.ratios, case.regions, strict=True)):
        if case.absent(index):
            areas[index] = 0.0
        elif denominators[index] == "image" and ratio is not None:
            areas[index] = ratio
        elif denominators[index] == "image" and region.high is not None:
            areas[index] = region.low or 0.0, region.high
    return areas


def localise_cases(
    cases: Sequence[Case],
    classes: tuple[str, ...],
    denominators: tuple[Denominator, ...],
    read: Callable[[int, bool], Thumbnail],
) -> dict[int, tuple[BlobProposal | None, ...]]:
    """Return proposals for the classes that a case does not locate, by the index of the case.

    read: returns the thumbnail of a case, given its index and whether it waits for a proposal.
    Empty if every case with an area locates its classes. Logs which classes are localised by their
    areas, and which are not and why.
    """
    with silence_pydicom, reading_threads(READERS) as pool:
        located = np.array(list(pool.map(_located_classes, cases)))
        areas = np.array([case_areas(case, denominators) for case in cases])
        wanted = ~located & (areas[..., 1] > 0) & (areas[..., 0] == areas[..., 1])
        for index, name in enumerate(classes):
            # Of these classes, sizes are only bounds, or ratios to something else than the image.
            sized = any(case.ratios[index] or case.regions[index].high for case in cases)
            if sized and not (located[:, index] | wanted[:, index]).any():
                log.warning(
                    "no case locates %s, and none has its exact ratio to the image to localise it "
                    "by: mark it in a few cases, or its location may not be learnt",
                    name,
                )
        if not wanted.any():
            return {}
        thumbnails = list(pool.map(read, range(len(cases)), wanted.any(1).tolist()))
    proposals: dict[int, list[BlobProposal | None]] = {}
    for index, name in enumerate(classes):
        if wanted[:, index].any():
            several = _localise(name, index, located[:, index], wanted[:, index], thumbnails)
            for at, proposal in several.items():
                proposals.setdefault(at, [None] * len(classes))[index] = proposal
    return {at: tuple(proposals[at]) for at in sorted(proposals)}


def _located_classes(case: Case) -> NDArray[np.bool_]:
    """Return for each class (k) whether the case locates it."""
    located = np.array([region.box is not None or case.mask is not None for region in case.regions])
    located[[label - 1 for label in labelled_numbers(case) if label != MARKED_BACKGROUND]] = True
    return located


def _localise(
    name: str,
    class_index: int,
    located: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
    thumbnails: Sequence[Thumbnail],
) -> dict[int, BlobProposal]:
    """Return proposals for a class by the index of the case, and log the result.

    located, wanted: for each case, whether it locates the class, and whether it needs a proposal.
    """
    marks = {at: t.marks[class_index] for at, t in enumerate(thumbnails) if class_index in t.marks}
    areas = [float(thumbnail.areas[class_index]) for thumbnail in thumbnails]
    result = localise_class([thumbnail.image for thumbnail in thumbnails], areas, marks)
    if isinstance(result, Proposals):
        proposals = {at: proposal for at, proposal in result.by_index.items() if wanted[at]}
        text = (
            "%d cases that do not locate %s start from a blob of its area that is %s than its "
            "surroundings"
        )
        log.info(text, len(proposals), name, CONTRASTS[result.polarity])
        if not marks:
            text = "no mark confirms that these blobs are %s: inspect wsseg cases check --picture"
            log.warning(text, name)
        return proposals
    if not located.any():
        text = (
            "no case locates %s, and %s: mark it in a few cases, or its location may not be learnt"
        )
        log.warning(text, name, REFUSALS[result])
    else:
        text = "cases that do not locate %s start without a pseudo-label: %s"
        log.info(text, name, REFUSALS[result])
    return {}


@dataclass(frozen=True)
class PixelTarget:
    """A `Target` on the network's grid: inside and weight in 255ths, final and guessed (k)."""

    inside: NDArray[np.uint8]
    weight: NDArray[np.uint8]
    fixed: NDArray[np.bool_]
    proposed: NDArray[np.bool_]


def pixel_target(target: Target, size: int) -> PixelTarget:
    """Return a target on the network's grid.

    A cell is taught the weighted mean of its taught pixels, so that pixels that are not taught do
    not count as background. A region that covers less than half of every cell is taught as its
    best-covered cell, so that it is not taught as absent.
    """
    weight = _shrunk(target.weight, size)
    sure = _shrunk(target.weight * target.inside, size)
    inside = np.divide(sure, weight, out=np.zeros_like(sure), where=weight > 0)
    for layer, share in zip(inside, sure, strict=True):
        if layer.max() < HALF:
            layer[keep_one(share)] = 1.0
    return PixelTarget(_in_255ths(inside), _in_255ths(weight), target.fixed, target.proposed)


def mask_target(mask: NDArray[np.bool_], size: int) -> PixelTarget:
    """Return a full mask as a target of full weight."""
    every = np.ones(len(mask), bool)
    return pixel_target(Target(mask, np.ones(mask.shape, np.float32), every, ~every), size)


def borders_of(read: Callable[[int], Evidence], marked: Sequence[int]) -> list[BorderEvidence]:
    """Return what images show about a data set's shape-bearing marks, for `choose_growth`.

    marked: indices of the cases with marks. read: returns the evidence of a case. Empty if no mark
    of the chosen cases bears a shape.
    """
    chosen = marked[:: max(1, len(marked) // BORDER_CASES)]
    with silence_pydicom, reading_threads(READERS) as pool:
        borders = pool.map(lambda position: evidence_of_borders(read(position)), chosen)
        return [border for several in borders for border in several]


def grown(evidence: Evidence, growth: Growth, size: int) -> PixelTarget:
    """Return the initial target of a case on the network's grid."""
    return pixel_target(first_target(evidence, growth), size)


def _shrunk(layers: NDArray[np.floating], size: int) -> NDArray[np.float32]:
    return np.stack([area_mean(layer.astype(np.float32), (size, size)) for layer in layers])


def _box(
    box: Box | None, original: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.bool_] | None:
    if box is None:
        return None
    rows, columns = (new / old for new, old in zip(shape, original, strict=True))
    inside = np.zeros(shape, bool)
    inside[
        math.floor(box.top * rows) : math.ceil(box.bottom * rows),
        math.floor(box.left * columns) : math.ceil(box.right * columns),
    ] = True
    return inside


def _in_255ths(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    steps: NDArray[np.uint8] = np.rint(values.clip(0, 1) * FULL).astype(np.uint8)
    return steps
