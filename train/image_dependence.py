"""Whether a network's masks depend on the image, or whether it ignores the image."""

import math
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
    judged = []
    for index in indices:
        prediction = predict(predictor, cases, index, cases.denominators, device, thresholds)
        native = prediction.native
        rows, columns = native.marks.shape
        marked = []
        for label in range(1, len(thresholds) + 1):
            row, column = (native.marks == label).nonzero(as_tuple=True)
            marked.append(np.unique((row * GRID // rows * GRID + column * GRID // columns).numpy()))
        limits = torch.tensor(thresholds)[:, None, None]
        judged.append(
            _Case(
                counts=prediction.counts,
                predicted=_on_grid(prediction.probability >= limits),
                true=None if native.mask is None else _on_grid(native.mask),
                marked=tuple(marked),
            )
        )
    evidence, ignored = {}, []
    for class_index, name in enumerate(cases.classes if len(judged) >= LEAST_CASES else ()):
        known = {k: v for k, v in _figures(judged, class_index).items() if np.isfinite(v)}
        evidence[name] = known
        signs = []  # that the network follows the image
        if "ratio_error" in known:
            near = known["ratio_error"] < BETTER_THAN_CONSTANT * known["constant_error"]
            signs.append(near or known["ratio_correlation"] >= CORRELATED)
        if "mark_recall" in known:
            signs.append(known["mark_recall"] - known["swapped_recall"] >= RECALL_GAIN)
        if "mask_iou" in known:
            signs.append(known["mask_iou"] - known["swapped_iou"] >= IOU_GAIN)
        if signs and not any(signs) and known["masks_alike"] >= ALIKE:
            ignored.append(name)
    return Dependence(cases=len(judged), ignored=tuple(ignored), evidence=evidence)


def _on_grid(masks: Bool[torch.Tensor, "k rows columns"]) -> NDArray[np.bool_]:
    resized = F.interpolate(masks[None].float(), size=(GRID, GRID), mode="nearest-exact")[0]
    grids: NDArray[np.bool_] = (resized > 0).flatten(1).numpy()
    return grids


def _figures(judged: Sequence[_Case], class_index: int) -> dict[str, float]:
    """Return all figures of one class; NaN or absent where the cases hold no evidence."""
    masks = np.stack([case.predicted[class_index] for case in judged]).astype(np.float32)
    others = _overlaps(masks, masks)[~np.eye(len(masks), dtype=bool)]
    figures = {"masks_alike": float(others.mean())}

    marked = [index for index, case in enumerate(judged) if len(case.marked[class_index])]
    marks = np.zeros((len(marked), masks.shape[1]), np.float32)
    for row, index in enumerate(marked):
        marks[row, judged[index].marked[class_index]] = 1
    recall = _own_and_swapped(_shares(marks, marks), _shares(marks, masks[marked]))
    figures |= zip(("mark_recall", "swapped_recall"), recall, strict=True)

    drawn = [index for index, case in enumerate(judged) if case.true is not None]
    own = [case.true[class_index] for case in judged if case.true is not None]
    true = np.array(own, np.float32).reshape(-1, masks.shape[1])
    overlap = _own_and_swapped(_overlaps(true, true), _overlaps(true, masks[drawn]))
    figures |= zip(("mask_iou", "swapped_iou"), overlap, strict=True)

    pairs = []
    for case in judged:
        pair = case.counts.ratio[class_index], case.counts.known[class_index]
        if case.true is not None and not np.isfinite(pair[1]):
            pair = case.predicted[class_index].mean(), case.true[class_index].mean()
        if np.isfinite(pair).all():
            pairs.append(pair)
    measured, known = np.array(pairs).reshape(-1, 2).T
    # Ratios that hardly differ are met by a constant, too, and say nothing.
    if len(known) < LEAST_CASES or known.std() <= 0.1 * known.mean():
        return figures
    varied = measured.std() > VARIED * known.std()
    return figures | {
        "ratio_error": float(np.abs(measured - known).mean()),
        "constant_error": float(np.abs(np.median(known) - known).mean()),
        "ratio_correlation": float(np.corrcoef(measured, known)[0, 1]) if varied else 0.0,
    }


def _own_and_swapped(among: NDArray[np.floating], met: NDArray[np.floating]) -> tuple[float, float]:
    """Return how well labels are met by the masks of their own images, and by those of others.

    among, met: overlap (n, n) of each label with every label, and with the mask of every image.
    NaN for too few labels, and for labels so alike that every mask near them meets them.
    """
    own = np.eye(len(met), dtype=bool)
    if len(met) < LEAST_CASES or among[~own].mean() > SAME:
        return math.nan, math.nan
    return float(met[own].mean()), float(met[~own].mean())


def _shares(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share of every mask (n, cells) that lies in every other (m, cells): (n, m)."""
    shares: NDArray[np.float32] = one @ other.T / one.sum(1)[:, None]
    return shares


def _overlaps(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.floating]:
    """Return the IoU (n, m) of masks (n, cells) with masks (m, cells); 1 if both are empty."""
    both = one @ other.T
    return iou(both, one.sum(1)[:, None], other.sum(1)[None])
