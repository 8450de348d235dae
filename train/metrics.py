"""How well predicted masks agree with what is known of validation cases."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from wsseg.imaging.definitions import dice, iou


@dataclass(frozen=True)
class CaseCounts:
    """Pixel counts of one case on its own grid, each array with one value a class.

    row: line of the cases file. true and overlap (predicted and true) are None without a mask.
    marked: pixels marked as the class; found: those of them that are predicted.
    ratio: area ratio of the prediction; known: area ratio of the table; NaN where there is none.
    """

    row: int
    predicted: NDArray[np.float64]
    marked: NDArray[np.float64]
    found: NDArray[np.float64]
    ratio: NDArray[np.float64]
    known: NDArray[np.float64]
    true: NDArray[np.float64] | None = None
    overlap: NDArray[np.float64] | None = None


def pixels(mask: Bool[Tensor, "k h w"]) -> NDArray[np.float64]:
    """Number of true pixels per class."""
    counts: NDArray[np.float64] = mask.flatten(1).sum(1).cpu().numpy().astype(np.float64)
    return counts


def mark_masks(marks: Int[Tensor, "h w"], classes: int) -> Bool[Tensor, "k h w"]:
    """Pixels marked as each class, from a label map of marks."""
    return marks == marks.new_tensor(range(1, classes + 1))[:, None, None]


def ratio_error(case: CaseCounts) -> float:
    """Mean absolute error of the case's area ratios; NaN if none is known."""
    return _mean(_errors(case))


def relative_ratio_error(case: CaseCounts) -> float:
    """Mean of |predicted - known| / max(predicted, known), 0..1; NaN if no ratio is known.

    Over the larger of the two, so that an empty prediction and one of any excess are bounded.
    """
    larger = np.maximum(np.maximum(case.ratio, case.known), np.finfo(np.float64).tiny)
    return _mean(_errors(case) / np.where(np.isnan(case.ratio), 1.0, larger))


def _errors(case: CaseCounts) -> NDArray[np.float64]:
    """Absolute error per class; NaN where the ratio is not known.

    A known ratio that the prediction lacks, because its denominator is empty, errs by 1: as
    nothing, it would let an empty prediction pass for a perfect one.
    """
    lacking = np.isnan(case.ratio) & ~np.isnan(case.known)
    return np.where(lacking, 1.0, np.abs(case.ratio - case.known))


def case_iou(case: CaseCounts) -> float:
    """Mean IoU over classes; NaN without a mask."""
    if case.true is None or case.overlap is None:
        return float("nan")
    return float(iou(case.overlap, case.predicted, case.true).mean())


def case_dice(case: CaseCounts) -> float:
    """Mean Dice coefficient over classes; NaN without a mask."""
    if case.true is None or case.overlap is None:
        return float("nan")
    return float(dice(case.overlap, case.predicted, case.true).mean())


def mark_recall(case: CaseCounts) -> float:
    """Mean over the marked classes of the fraction of marked pixels predicted; NaN unmarked."""
    there = case.marked > 0
    return _mean(case.found[there] / case.marked[there])


def missed(cases: Sequence[CaseCounts]) -> list[tuple[int, int]]:
    """Classes of which no case has a predicted pixel: place, and in how many it should be.

    It should be where the known ratio is above 0, or some pixel is marked or lies in the mask.
    """
    found = []
    for place in range(len(cases[0].predicted) if cases else 0):
        there = sum(_is_there(case, place) for case in cases)
        if there and not any(case.predicted[place] for case in cases):
            found.append((place, there))
    return found


def _is_there(case: CaseCounts, place: int) -> bool:
    in_mask = case.true is not None and case.true[place] > 0
    return bool(case.known[place] > 0 or case.marked[place] > 0 or in_mask)


def summarise(cases: Sequence[CaseCounts]) -> dict[str, float]:
    """The validation figures, all in 0..1; a figure that no case has evidence for is left out.

    iou, dice, ratio_error, relative_ratio_error, mark_recall: means over cases. pooled_iou,
    pooled_dice: of the pixels of all cases together, mean over classes.
    """
    figures = {
        "iou": _mean(np.array([case_iou(case) for case in cases])),
        "dice": _mean(np.array([case_dice(case) for case in cases])),
        **_pooled(cases),
        "ratio_error": _mean(np.array([ratio_error(case) for case in cases])),
        "relative_ratio_error": _mean(np.array([relative_ratio_error(case) for case in cases])),
        "mark_recall": _mean(np.array([mark_recall(case) for case in cases])),
    }
    return {name: figure for name, figure in figures.items() if not np.isnan(figure)}


def _pooled(cases: Sequence[CaseCounts]) -> dict[str, float]:
    counts = [
        (case.overlap, case.predicted, case.true)
        for case in cases
        if case.true is not None and case.overlap is not None
    ]
    if not counts:
        return {}
    overlap, predicted, true = np.array(counts).sum(0)
    return {
        "pooled_iou": float(iou(overlap, predicted, true).mean()),
        "pooled_dice": float(dice(overlap, predicted, true).mean()),
    }


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
