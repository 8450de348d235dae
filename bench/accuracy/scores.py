"""How well predictions agree with the true masks of held-out images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from wsseg.imaging.definitions import dice, iou

Mask = Bool[NDArray[np.bool_], "k rows columns"]


@dataclass(frozen=True)
class Counts:
    """Pixels of each class (k,) in one image: predicted, true and both; total: of the image."""

    predicted: NDArray[np.float64]
    true: NDArray[np.float64]
    both: NDArray[np.float64]
    total: int


@dataclass(frozen=True)
class Summary:
    """Figures of one run, each 0..1, the mean over the classes.

    iou_mean, dice_mean: per image, averaged over the images that show the class: those without it
    would count 1 or 0 and hide how well it is outlined. iou_pooled: of the pixels of all images
    together, where what is found in images without the class counts. ratio_mae: mean absolute
    error of the area ratio over all images.
    """

    iou_mean: float
    iou_pooled: float
    dice_mean: float
    ratio_mae: float


def count(predicted: Mask, true: Mask) -> Counts:
    """Compare two masks of an image."""
    return Counts(
        predicted.sum((1, 2), dtype=np.float64),
        true.sum((1, 2), dtype=np.float64),
        (predicted & true).sum((1, 2), dtype=np.float64),
        int(true[0].size),
    )


def summarise(counts: Sequence[Counts]) -> Summary:
    """The figures of all held-out images of a run."""
    predicted, true, both = (
        np.stack([getattr(one, name) for one in counts]) for name in ("predicted", "true", "both")
    )
    total = np.array([one.total for one in counts])[:, None]
    pooled = iou(both.sum(0), predicted.sum(0), true.sum(0))
    return Summary(
        iou_mean=mean_where_shown(iou(both, predicted, true), true > 0),
        iou_pooled=float(pooled.mean()),
        dice_mean=mean_where_shown(dice(both, predicted, true), true > 0),
        ratio_mae=float(np.abs(predicted / total - true / total).mean()),
    )


def mean_where_shown(values: NDArray[np.floating], shown: NDArray[np.bool_]) -> float:
    """Mean over images (rows) that show a class (columns), then over the classes that any shows."""
    return float(np.mean(list(_class_means(values, shown))))


def _class_means(values: NDArray[np.floating], shown: NDArray[np.bool_]) -> Iterable[float]:
    for column, where in zip(values.T, shown.T, strict=True):
        if where.any():
            yield float(column[where].mean())
