"""Initial targets of cases on the network's grid, and what is known of a case to make them."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Denominator
from wsseg.imaging.dicom import silence_pydicom
from wsseg.train.cases.schema import NOT_MARKED, Box, Case, Region
from wsseg.train.data.preprocess import HALF, area_mean, keep_one, shrink_marks
from wsseg.train.targets.evidence import BorderEvidence, Evidence, Growth, Target
from wsseg.train.targets.growing import evidence_of_borders, first_target, seeds
from wsseg.train.targets.localise import small

LONGEST_SIDE = 256
"""Of the grid that targets are grown on. A finer one costs time, and errs less by a pixel where
growing errs by many."""
BORDER_CASES = 64
"""Number of cases, evenly spread, whose borders decide how marks are grown."""
FULL = 255
READERS = 4


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
    return Evidence(
        image=area_mean(image[0] if len(image) == 1 else image.mean(0), shape),
        marks=shrink_marks(marks, shape),
        areas=case_areas(case, denominators),
        boxes=tuple(_box(region.box, original, shape) for region in case.regions),
        located=tuple(_located(case, marks, index) for index in range(len(case.ratios))),
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
    image = small(evidence.image)
    if masks is None:
        # Extreme points lie on the border: a good blob need not cover them.
        marked = [index for index, located in enumerate(evidence.located) if located]
        marks = {at: small((evidence.marks == at + 1).astype(np.float32)) for at in marked}
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
    return np.array(
        [
            _area(ratio, region, below)
            for ratio, region, below in zip(case.ratios, case.regions, denominators, strict=True)
        ]
    )


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
    with silence_pydicom, ThreadPoolExecutor(READERS) as pool:
        borders = pool.map(lambda position: evidence_of_borders(read(position)), chosen)
        return [border for several in borders for border in several]


def grown(evidence: Evidence, growth: Growth, size: int) -> PixelTarget:
    """Return the initial target of a case on the network's grid."""
    return pixel_target(first_target(evidence, growth), size)


def _area(ratio: float | None, region: Region, below: Denominator) -> tuple[float, float]:
    if region.present is False or ratio == 0 or region.high == 0:
        return 0.0, 0.0
    if below != "image":
        return math.nan, math.nan
    if ratio is not None:
        return ratio, ratio
    return (math.nan, math.nan) if region.high is None else (region.low or 0.0, region.high)


def _located(case: Case, marks: NDArray[np.uint8], class_index: int) -> bool:
    """Return whether a class is marked by more than its extreme points."""
    own = marks == class_index + 1
    for row, column in case.regions[class_index].extremes:
        own[row, column] = False
    return bool(own.any())


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
