"""Validation: predictions at each image's own resolution, counted against what is known."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsseg.imaging.definitions import Denominator, PixelCounts, area_ratios
from wsseg.train.case import Case
from wsseg.train.config import TrainConfig
from wsseg.train.dataset import CaseDataset, Native
from wsseg.train.metrics import CaseCounts, mark_masks, pixels

THRESHOLD = 0.5

Predict = Callable[[Tensor], Tensor]
"""Raw pixels (1, c, row, column) to probabilities (1, k, row, column), as a `Predictor` does."""


@dataclass(frozen=True)
class Prediction:
    """One case at its own resolution: what was read, what is predicted, how they agree.

    thresholds: from which probability on a pixel counts, one a class.
    """

    native: Native
    probability: Float[Tensor, "k rows columns"]
    counts: CaseCounts
    thresholds: tuple[float, ...]


@torch.no_grad()
def predict(
    predictor: Predict,
    cases: CaseDataset,
    position: int,
    denominators: tuple[Denominator, ...],
    device: torch.device,
    thresholds: tuple[float, ...] | None = None,
) -> Prediction:
    """The case at `position`; `predictor` must be on `device` and in `eval()`.

    thresholds: as in `count`.
    """
    native = cases.native(position)
    probability = predictor(native.image[None].to(device))[0].cpu()
    limits = thresholds or (THRESHOLD,) * len(probability)
    counts = count(cases.cases[position], native, probability, denominators, limits)
    return Prediction(native, probability, counts, limits)


def count(
    case: Case,
    native: Native,
    probability: Float[Tensor, "k rows columns"],
    denominators: tuple[Denominator, ...],
    thresholds: tuple[float, ...] | None = None,
) -> CaseCounts:
    """Pixel counts of a prediction.

    thresholds: the probability from which on a pixel belongs to a class, one a class; 0.5 for
    all, by which an epoch is chosen, without them.
    """
    limits = thresholds or (THRESHOLD,) * len(probability)
    predicted = probability >= torch.tensor(limits)[:, None, None]
    marked = mark_masks(native.marks, len(predicted))
    return CaseCounts(
        row=case.row,
        predicted=pixels(predicted),
        marked=pixels(marked),
        found=pixels(marked & predicted),
        ratio=area_ratios(PixelCounts.of_masks(predicted.numpy()), denominators),
        known=np.array([np.nan if ratio is None else ratio for ratio in case.ratios]),
        true=None if native.mask is None else pixels(native.mask),
        overlap=None if native.mask is None else pixels(native.mask & predicted),
    )


def evaluate(
    predictor: Predict,
    cases: CaseDataset,
    positions: Iterable[int],
    denominators: tuple[Denominator, ...],
    device: torch.device,
    thresholds: tuple[float, ...] | None = None,
) -> list[CaseCounts]:
    """Pixel counts of the cases at these positions, in their order; thresholds as in `count`."""
    return [
        predict(predictor, cases, position, denominators, device, thresholds).counts
        for position in positions
    ]


def validation_interval(validated: int, trained: int) -> int:
    """Epochs from one validation to the next.

    Every epoch, unless one validation would look at more than twice the cases an epoch trains on:
    a case costs about a third of what it costs in training.
    """
    return max(1, round(validated / (2 * trained)))


def is_due(epoch: int, interval: int, config: TrainConfig) -> bool:
    """Whether `epoch` (from 1) is validated: every `interval`-th, and the last."""
    return epoch % interval == 0 or epoch == config.epochs


def weakly_labelled(cases: Sequence[Case]) -> int:
    """Number of cases with a ratio or a mark."""
    return sum(
        case.marks is not None or bool(case.points) or any(r is not None for r in case.ratios)
        for case in cases
    )
