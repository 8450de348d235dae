"""The probability from which on a pixel counts, fitted to the known areas of training images."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from wsseg.train.dataset import CaseDataset, collate
from wsseg.train.learner import Learner

DEFAULT = 0.5
CANDIDATES = np.round(np.arange(0.30, 0.701, 0.02), 2)
LOOKED_AT = 512
"""Training cases at most, evenly spread."""
AT_ONCE = 16
AS_GOOD = 1.01
"""An error up to this many times the least one is no reason to leave the middle."""


def fit_thresholds(learner: Learner, cases: CaseDataset) -> tuple[float, ...]:
    """For each class the threshold at which training areas err least, 0.3 to 0.7.

    The error is the mean absolute difference between the area ratio of the mask and the known one,
    over training cases with an exact ratio of the whole image; DEFAULT without such a case. No
    mask is looked at. Call it with the weights that are kept.
    """
    places = np.linspace(0, len(cases) - 1, min(len(cases), LOOKED_AT)).round().astype(int)
    found, known = [], []
    for first in range(0, len(places), AT_ONCE):
        batch = collate([cases.item(int(place)) for place in places[first : first + AT_ONCE]])
        found.append(_areas(learner, batch.image))
        known.append(torch.where(cases.of_image, batch.ratio, torch.nan).numpy())
    return best_thresholds(np.concatenate(found), np.concatenate(known))


def best_thresholds(found: NDArray[np.floating], known: NDArray[np.floating]) -> tuple[float, ...]:
    """The candidates that err least, near DEFAULT where several are as good.

    found: area ratio of each case and class at each of CANDIDATES (n, k, candidates). known: (n,
    k), NaN where unknown.
    """
    chosen = []
    for areas, ratios in zip(found.swapaxes(0, 1), known.T, strict=True):
        there = ~np.isnan(ratios)
        if not there.any():
            chosen.append(DEFAULT)
            continue
        errors = np.abs(areas[there] - ratios[there, None]).mean(0)
        good = CANDIDATES[errors <= AS_GOOD * errors.min()]
        chosen.append(float(good[np.abs(good - DEFAULT).argmin()]))
    return tuple(chosen)


@torch.no_grad()
def _areas(learner: Learner, image: Float[Tensor, "b c s s"]) -> NDArray[np.floating]:
    """Area ratio of each picture and class at each candidate (b, k, candidates)."""
    network, front = learner.predictor().network, learner.front
    maps = network(front.normalise(image.to(learner.fabric.device))).logits.sigmoid()
    shares = [(maps >= limit).float().mean((2, 3)) for limit in CANDIDATES.tolist()]
    areas: NDArray[np.floating] = torch.stack(shares, -1).cpu().numpy()
    return areas
