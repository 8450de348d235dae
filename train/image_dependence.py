"""Whether a network's masks depend on the image, or whether it ignores the image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch.nn import functional as F

from wsseg.imaging.definitions import Dependence, iou
from wsseg.train.data.dataset import CaseDataset
from wsseg.train.metrics import CaseCounts
from wsseg.train.validation import Predict, predict

LEAST_CASES = 4
"""With fewer, masks that are alike by chance cannot be told from masks that always are."""
MOST_CASES = 64
GRID = 128
"""Rows and columns on which masks of images of different sizes are laid over each other."""
ALIKE = 0.5
"""Mean IoU of the masks of different images from which on they may be one mask. Two discs whose
centres are a third of a diameter apart have it."""
BETTER_THAN_CONSTANT = 0.8
"""Error of the ratio, relative to that of the best constant: below it, images are told apart."""
CORRELATED, VARIED = 0.5, 0.25
"""Correlation of measured and known ratios, and spread relative to that of the known ones, that a
network needs which is far off but follows the image."""
RECALL_GAIN = 0.1
"""By so much a network finds an image's own marks more often than another image's mask does."""
IOU_GAIN = 0.05
"""The same for its IoU with the image's own mask."""
SAME = 0.8
"""Overlap of the labels of different images from which on they cannot tell images apart."""

Grids = NDArray[np.bool_]
"""(case, row, column) on the common grid."""


@dataclass(frozen=True)
class _Case:
    counts: CaseCounts
    predicted: NDArray[np.bool_]
    true: NDArray[np.bool_] | None
    marked: tuple[NDArray[np.int64], ...]


@torch.no_grad()
def dependence_of(
    predictor: Predict,
    cases: CaseDataset,
    indices: Sequence[int],
    thresholds: tuple[float, ...],
    device: torch.device,
) -> Dependence:
    """Compare the masks of these cases with each other and with what is known of the cases.

    A class counts as ignored if the masks of different images are alike (ALIKE) and no evidence
    speaks for the network: its ratios err as much as a constant and do not follow the known ratios,
    and the masks of other images match an image's marks and mask as well as its own. A class
    without evidence that differs from image to image is not judged.
    """
    judged = [_case(predictor, cases, index, thresholds, device) for index in indices]
    evidence, ignored = {}, []
    for class_index, name in enumerate(cases.classes):
        if len(judged) < LEAST_CASES:
            continue
        figures = _figures(judged, class_index)
        evidence[name] = {what: value for what, value in figures.items() if np.isfinite(value)}
        if _is_ignored(evidence[name]):
            ignored.append(name)
    return Dependence(cases=len(judged), ignored=tuple(ignored), evidence=evidence)


def _case(
    predictor: Predict,
    cases: CaseDataset,
    index: int,
    thresholds: tuple[float, ...],
    device: torch.device,
) -> _Case:
    prediction = predict(predictor, cases, index, cases.denominators, device, thresholds)
    limits = torch.tensor(thresholds)[:, None, None]
    native = prediction.native
    rows, columns = native.marks.shape
    marked = []
    for label in range(1, len(thresholds) + 1):
        row, column = (native.marks == label).nonzero(as_tuple=True)
        marked.append(np.unique((row * GRID // rows * GRID + column * GRID // columns).numpy()))
    return _Case(
        counts=prediction.counts,
        predicted=_on_grid(prediction.probability >= limits),
        true=None if native.mask is None else _on_grid(native.mask),
        marked=tuple(marked),
    )


def _on_grid(masks: Bool[torch.Tensor, "k rows columns"]) -> NDArray[np.bool_]:
    resized = F.interpolate(masks[None].float(), size=(GRID, GRID), mode="nearest-exact")[0]
    grids: NDArray[np.bool_] = (resized > 0).flatten(1).numpy()
    return grids


def _figures(judged: Sequence[_Case], class_index: int) -> dict[str, float]:
    """Return all figures of one class; NaN or absent where the cases hold no evidence."""
    masks = np.stack([case.predicted[class_index] for case in judged]).astype(np.float32)
    others = _overlaps(masks, masks)
    figures = {"masks_alike": float(others[~np.eye(len(masks), dtype=bool)].mean())}
    figures |= _of_marks(judged, masks, class_index) | _of_masks(judged, masks, class_index)
    return figures | _of_ratios(*zip(*(_ratios(case, class_index) for case in judged), strict=True))


def _ratios(case: _Case, class_index: int) -> tuple[float, float]:
    """Return the measured and the known ratio, from the masks where the table has no ratio."""
    measured, known = case.counts.ratio[class_index], case.counts.known[class_index]
    if np.isfinite(known) or case.true is None:
        return float(measured), float(known)
    return float(case.predicted[class_index].mean()), float(case.true[class_index].mean())


def _of_masks(
    judged: Sequence[_Case], masks: NDArray[np.float32], class_index: int
) -> dict[str, float]:
    indices = [at for at, case in enumerate(judged) if case.true is not None]
    if len(indices) < LEAST_CASES:
        return {}
    true = np.stack([case.true[class_index] for case in judged if case.true is not None])
    true = true.astype(np.float32)
    own = np.eye(len(indices), dtype=bool)
    if _overlaps(true, true)[~own].mean() > SAME:
        return {}
    met = _overlaps(true, masks[indices])
    return {"mask_iou": float(met[own].mean()), "swapped_iou": float(met[~own].mean())}


def _of_ratios(measured: Sequence[float], stated: Sequence[float]) -> dict[str, float]:
    found, known = np.array(measured), np.array(stated)
    there = np.isfinite(found) & np.isfinite(known)
    found, known = found[there], known[there]
    # Ratios that hardly differ are met by a constant, too, and say nothing.
    if len(known) < LEAST_CASES or known.std() <= 0.1 * known.mean():
        return {}
    varied = found.std() > VARIED * known.std()
    return {
        "ratio_error": float(np.abs(found - known).mean()),
        "constant_error": float(np.abs(np.median(known) - known).mean()),
        "ratio_correlation": float(np.corrcoef(found, known)[0, 1]) if varied else 0.0,
    }


def _of_marks(
    judged: Sequence[_Case], masks: NDArray[np.float32], class_index: int
) -> dict[str, float]:
    marked = [at for at, case in enumerate(judged) if len(case.marked[class_index])]
    if len(marked) < LEAST_CASES:
        return {}
    marks = np.zeros((len(marked), masks.shape[1]), np.float32)
    for number, at in enumerate(marked):
        marks[number, judged[at].marked[class_index]] = 1
    within = _shares(marks, marks)
    own = np.eye(len(marked), dtype=bool)
    # Marks in one class_index are met by every mask that is anywhere near it.
    if within[~own].mean() > SAME:
        return {}
    met = _shares(marks, masks[marked])
    return {"mark_recall": float(met[own].mean()), "swapped_recall": float(met[~own].mean())}


def _shares(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share of every mask (n, cells) that lies in every other (m, cells): (n, m)."""
    shares: NDArray[np.float32] = one @ other.T / one.sum(1)[:, None]
    return shares


def _overlaps(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.floating]:
    """Return the IoU (n, m) of masks (n, cells) with masks (m, cells); 1 if both are empty."""
    both = one @ other.T
    return iou(both, one.sum(1)[:, None], other.sum(1)[None])


def _is_ignored(figures: dict[str, float]) -> bool:
    signs = []
    if "ratio_error" in figures:
        near = figures["ratio_error"] < BETTER_THAN_CONSTANT * figures["constant_error"]
        signs.append(near or figures["ratio_correlation"] >= CORRELATED)
    if "mark_recall" in figures:
        signs.append(figures["mark_recall"] - figures["swapped_recall"] >= RECALL_GAIN)
    if "mask_iou" in figures:
        signs.append(figures["mask_iou"] - figures["swapped_iou"] >= IOU_GAIN)
    return bool(signs) and not any(signs) and figures["masks_alike"] >= ALIKE
