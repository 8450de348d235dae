"""Calibration of the final network: batch-norm statistics, and thresholds fitted to known areas."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import update_bn

from wsseg.train.cases.images import spread
from wsseg.train.data.batch import collate
from wsseg.train.data.dataset import CaseDataset
from wsseg.train.learner import Learner
from wsseg.train.metrics import summarise
from wsseg.train.networks import Network, Predictor, build_network
from wsseg.train.progress import TrainingState
from wsseg.train.run_folder import Normalisation
from wsseg.train.validation import Data, Rule, evaluate, score

MOST_IMAGES = 1024
"""Training images of one pass over batch-norm statistics, evenly spread."""
MOST_JUDGED = 256
"""Training cases that decide between statistics where no validation case does."""
DEFAULT = 0.5
CANDIDATES = np.round(np.arange(0.30, 0.701, 0.02), 2)
MOST_FITTED = 512
"""Training cases to which thresholds are fitted, evenly spread."""
AT_ONCE = 16
AS_GOOD = 1.01
"""Errors up to this many times the least one count as equal."""

log = logging.getLogger(__name__)


def choose_normalisation(
    learner: Learner, data: Data, training: TrainingState, last: Mapping[str, Tensor]
) -> Normalisation:
    """Choose between the averaged batch-norm statistics of training and statistics taken anew.

    The averages lag behind the weights: after a few dozen steps they still hold a part of the
    random start, so that the network in `eval()` is not the one that was trained. After thousands
    of steps they are better, because they have seen more images than one pass shows. Statistics
    that lag can let an early epoch win, so the last epoch's weights with new statistics take part.

    The rule of checkpoint selection decides on validation cases; without those, or for the rule
    `last`, masks or weak labels of training cases decide. Equal scores keep the averages. The
    averaged network of `learner` gets the chosen weights and statistics. last: the weights averaged
    until the last epoch.
    """
    epochs = learner.plan.config.epochs
    epoch = training.choice.epoch if training.choice else epochs
    indices = spread(range(len(data.train)), MOST_IMAGES)
    if len(indices) < 2:  # batch norm needs more than one value
        return Normalisation(kept="averaged", epoch=epoch)
    by_val = len(data.val) > 0 and data.rule != "last"
    shown = data.val if by_val else data.train
    judged = spread(range(len(shown)), len(shown) if by_val else MOST_JUDGED)

    def figures(network: Network) -> dict[str, float]:
        predictor = Predictor(learner.preprocess, network).eval()
        device = learner.fabric.device
        return summarise(evaluate(predictor, shown, judged, data.denominators, device))

    averaged = learner.predictor().network
    current = figures(averaged)
    rule: Rule = data.rule if by_val else "mask" if "iou" in current else "weak"
    before = score(rule, current)
    weights = {epoch: averaged.state_dict(), epochs: last} if epoch < epochs else {epoch: last}
    renewed = {
        candidate: with_statistics_anew(learner, own, data.train, indices)
        for candidate, own in weights.items()
    }
    scores = {at: score(rule, figures(network)) for at, network in renewed.items()}
    known = {at: value for at, value in scores.items() if value is not None}
    best = max(known, key=lambda at: known[at], default=epoch)
    after = known.get(best)
    better = before is not None and after is not None and after > before
    if better:
        averaged.load_state_dict(renewed[best].state_dict())
        log.info(
            "epoch %d selected, with batch-norm statistics recomputed over %d training images: "
            "score %.3f, running averages %.3f",
            best,
            len(indices),
            after,
            before,
        )
    return Normalisation(
        kept="anew" if better else "averaged",
        epoch=best if better else epoch,
        split="val" if by_val else "train",
        cases=len(judged),
        averaged_score=before,
        anew_score=after,
    )


def with_statistics_anew(
    learner: Learner, weights: Mapping[str, Tensor], cases: CaseDataset, indices: Sequence[int]
) -> Network:
    """Return a network of these weights, in `eval()`, with the statistics of these training cases.

    The images are not augmented and come in batches of the run's size and in table order, in this
    process alone, so that the number of processes changes nothing. There are at least two cases.
    """
    config = learner.plan.config
    # Batch norms of this process alone, and no dropout: it would widen the statistics.
    with torch.random.fork_rng(devices=[]):
        copy = build_network(
            config.network,
            classes=len(cases.classes),
            channels=learner.preprocess.channels,
            dropout=0.0,
        )
    precision = next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
    copy = copy.to(learner.fabric.device, precision)
    copy.load_state_dict(weights)
    # A last batch that is not full is left out: all batches weigh alike.
    size = min(config.batch, len(indices))
    batches = (
        learner.preprocess.normalise(images.to(learner.fabric.device))
        for first in range(0, len(indices) - size + 1, size)
        for images in [collate([cases.item(at) for at in indices[first : first + size]]).image]
    )
    with torch.no_grad():
        update_bn(batches, copy)
    return copy.eval()


def fit_thresholds(learner: Learner, cases: CaseDataset) -> tuple[float, ...]:
    """Return for each class the threshold, 0.3 to 0.7, with the least error of training areas.

    The error is the mean absolute difference between the predicted and the known area ratio, over
    training cases with an exact ratio of the whole image; DEFAULT without such a case. Masks are
    not used. Call it with the weights that are kept.
    """
    indices = spread(range(len(cases)), MOST_FITTED)
    network, areas, known = learner.predictor().network, [], []
    for first in range(0, len(indices), AT_ONCE):
        batch = collate([cases.item(index) for index in indices[first : first + AT_ONCE]])
        images = learner.preprocess.normalise(batch.image.to(learner.fabric.device))
        with torch.no_grad():
            maps = network(images).logits.sigmoid()
        shares = [(maps >= limit).float().mean((2, 3)) for limit in CANDIDATES.tolist()]
        areas.append(torch.stack(shares, -1).cpu().numpy())
        known.append(torch.where(cases.of_image, batch.ratio, torch.nan).numpy())
    return best_thresholds(np.concatenate(areas), np.concatenate(known))


def best_thresholds(areas: NDArray[np.floating], known: NDArray[np.floating]) -> tuple[float, ...]:
    """Return for each class the candidate with the least error, the nearest to DEFAULT of several.

    areas: area ratio of each case and class at each of CANDIDATES (n, k, candidates). known: known
    ratios (n, k), NaN where unknown.
    """
    chosen = []
    for own, ratios in zip(areas.swapaxes(0, 1), known.T, strict=True):
        is_known = ~np.isnan(ratios)
        if not is_known.any():
            chosen.append(DEFAULT)
            continue
        errors = np.abs(own[is_known] - ratios[is_known, None]).mean(0)
        good = CANDIDATES[errors <= AS_GOOD * errors.min()]
        chosen.append(float(good[np.abs(good - DEFAULT).argmin()]))
    return tuple(chosen)
