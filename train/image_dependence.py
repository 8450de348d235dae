"""Whether a network's masks depend on the image, or are those of a network that ignores it."""

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
    places: Sequence[int],
    thresholds: tuple[float, ...],
    device: torch.device,
) -> Dependence:
    """Judge the masks of these cases against each other and against what is known of the cases.

    A class counts as ignored if the masks of different images are alike (ALIKE) and nothing that
    is known speaks for the network: its ratios err as much as a constant's and do not follow the
    known ones, an image's marks and mask are met no better than by the masks of other images. A
    class of which nothing is known that differs from image to image is not judged.
    """
    judged = [_case(predictor, cases, place, thresholds, device) for place in places]
    evidence, ignored = {}, []
    for place, name in enumerate(cases.classes):
        if len(judged) < LEAST_CASES:
            continue
        figures = _figures(judged, place)
        evidence[name] = {what: value for what, value in figures.items() if np.isfinite(value)}
        if _is_ignored(evidence[name]):
            ignored.append(name)
    return Dependence(cases=len(judged), ignored=tuple(ignored), evidence=evidence)


def _case(
    predictor: Predict,
    cases: CaseDataset,
    place: int,
    thresholds: tuple[float, ...],
    device: torch.device,
) -> _Case:
    found = predict(predictor, cases, place, cases.denominators, device, thresholds)
    limits = torch.tensor(thresholds)[:, None, None]
    native = found.native
    rows, columns = native.marks.shape
    marked = []
    for number in range(1, len(thresholds) + 1):
        row, column = (native.marks == number).nonzero(as_tuple=True)
        marked.append(np.unique((row * GRID // rows * GRID + column * GRID // columns).numpy()))
    return _Case(
        counts=found.counts,
        predicted=_on_grid(found.probability >= limits),
        true=None if native.mask is None else _on_grid(native.mask),
        marked=tuple(marked),
    )


def _on_grid(masks: Bool[torch.Tensor, "k rows columns"]) -> NDArray[np.bool_]:
    resized = F.interpolate(masks[None].float(), size=(GRID, GRID), mode="nearest-exact")[0]
    grids: NDArray[np.bool_] = (resized > 0).flatten(1).numpy()
    return grids


def _figures(judged: Sequence[_Case], place: int) -> dict[str, float]:
    """All that is compared for one class; NaN for what the cases do not tell."""
    masks = np.stack([case.predicted[place] for case in judged]).astype(np.float32)
    others = _overlaps(masks, masks)
    figures = {"masks_alike": float(others[~np.eye(len(masks), dtype=bool)].mean())}
    figures |= _of_marks(judged, masks, place) | _of_masks(judged, masks, place)
    return figures | _of_ratios(*zip(*(_ratios(case, place) for case in judged), strict=True))


def _ratios(case: _Case, place: int) -> tuple[float, float]:
    """Measured and known ratio; those of the masks to the image where the table has none."""
    found, known = case.counts.ratio[place], case.counts.known[place]
    if np.isfinite(known) or case.true is None:
        return float(found), float(known)
    return float(case.predicted[place].mean()), float(case.true[place].mean())


def _of_masks(judged: Sequence[_Case], masks: NDArray[np.float32], place: int) -> dict[str, float]:
    places = [at for at, case in enumerate(judged) if case.true is not None]
    if len(places) < LEAST_CASES:
        return {}
    true = np.stack([case.true[place] for case in judged if case.true is not None])
    true = true.astype(np.float32)
    own = np.eye(len(places), dtype=bool)
    if _overlaps(true, true)[~own].mean() > SAME:
        return {}
    met = _overlaps(true, masks[places])
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


def _of_marks(judged: Sequence[_Case], masks: NDArray[np.float32], place: int) -> dict[str, float]:
    marked = [at for at, case in enumerate(judged) if len(case.marked[place])]
    if len(marked) < LEAST_CASES:
        return {}
    marks = np.zeros((len(marked), masks.shape[1]), np.float32)
    for number, at in enumerate(marked):
        marks[number, judged[at].marked[place]] = 1
    within = _shares(marks, marks)
    own = np.eye(len(marked), dtype=bool)
    # Marks in one place are met by every mask that is anywhere near it.
    if within[~own].mean() > SAME:
        return {}
    met = _shares(marks, masks[marked])
    return {"mark_recall": float(met[own].mean()), "swapped_recall": float(met[~own].mean())}


def _shares(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much of every mask (n, cells) lies in every other (m, cells): (n, m)."""
    shares: NDArray[np.float32] = one @ other.T / one.sum(1)[:, None]
    return shares


def _overlaps(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.floating]:
    """IoU of every mask (n, cells) with every other (m, cells): (n, m); 1 where both are empty."""
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
