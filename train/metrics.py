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
    """Return the index of each class of which no case has a predicted pixel, with a number.

    The number is that of the cases that show the class: its known ratio is above 0, or a pixel is
    marked or lies in the mask. A class that no case shows is left out.
    """
    classes = []
    for index in range(len(cases[0].predicted) if cases else 0):
        shown = sum(
            bool(case.known[index] > 0 or case.marked[index] > 0)
            or (case.true is not None and bool(case.true[index] > 0))
            for case in cases
        )
        if shown and not any(case.predicted[index] for case in cases):
            classes.append((index, shown))
    return classes


def summarise(cases: Sequence[CaseCounts]) -> dict[str, float]:
    """Return the validation figures, all in 0..1; a figure without evidence is left out.

    iou, dice, ratio_error, relative_ratio_error, mark_recall: means over cases. pooled_iou,
    pooled_dice: of the pixels of all cases together, mean over classes.
    """
    figures = {
        "iou": _mean(np.array([case_iou(case) for case in cases])),
        "dice": _mean(np.array([case_dice(case) for case in cases])),
    }
    masked = [
        (case.overlap, case.predicted, case.true)
        for case in cases
        if case.true is not None and case.overlap is not None
    ]
    if masked:
        overlap, predicted, true = np.array(masked).sum(0)
        figures["pooled_iou"] = float(iou(overlap, predicted, true).mean())
        figures["pooled_dice"] = float(dice(overlap, predicted, true).mean())
    figures |= {
        "ratio_error": _mean(np.array([ratio_error(case) for case in cases])),
        "relative_ratio_error": _mean(np.array([relative_ratio_error(case) for case in cases])),
        "mark_recall": _mean(np.array([mark_recall(case) for case in cases])),
    }
    return {name: figure for name, figure in figures.items() if not np.isnan(figure)}


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
