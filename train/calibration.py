"""The probability from which on a pixel counts, fitted to the known areas of training images."""

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import update_bn

from wsseg.train.cases.images import spread
from wsseg.train.data.dataset import CaseDataset, collate
from wsseg.train.learner import Learner
from wsseg.train.loop import Data
from wsseg.train.metrics import summarise
from wsseg.train.networks import Network, Predictor, build_network
from wsseg.train.progress import Course
from wsseg.train.run_folder import Normalisation
from wsseg.train.validation import Rule, evaluate, score

# Batch-norm statistics taken anew with the final weights, and the choice between them and those
# that training averaged.
#
# The averages lag behind the weights: after a few dozen steps they are still partly those of the
# random start, and the network in `eval()` is another than the one that was trained. After
# thousands of steps they are the better ones, because they have seen more pictures than one pass
# shows.

MOST_IMAGES = 1024
"""Training images that one pass looks at, evenly spread."""
MOST_JUDGED = 256
"""Training cases that judge, where no validation case does."""

log = logging.getLogger(__name__)


def choose_normalisation(
    learner: Learner, data: Data, course: Course, last: Mapping[str, Tensor]
) -> Normalisation:
    """Give the averaged network, of the chosen epoch, the batch-norm statistics that the run's rule
    prefers, or the weights of the last epoch with statistics taken anew.

    Statistics that lag let an early epoch win, hence the last one's chance. The rule is that which
    chooses epochs, on validation cases; where there are none, or it looks at none, masks or weak
    labels of training cases. Equal scores leave what training averaged. last: the weights averaged
    until the last epoch.
    """
    epochs = learner.plan.config.epochs
    epoch = course.choice.epoch if course.choice else epochs
    places = spread(range(len(data.train)), MOST_IMAGES)
    if len(places) < 2:  # batch norm needs more than one value
        return Normalisation(kept="averaged", epoch=epoch)
    by_val = len(data.val) > 0 and data.rule != "last"
    shown = data.val if by_val else data.train
    judged = spread(range(len(shown)), len(shown) if by_val else MOST_JUDGED)

    def figures(network: Network) -> dict[str, float]:
        predictor = Predictor(learner.front, network).eval()
        device = learner.fabric.device
        return summarise(evaluate(predictor, shown, judged, data.denominators, device))

    averaged = learner.predictor().network
    found = figures(averaged)
    rule: Rule = data.rule if by_val else "mask" if "iou" in found else "weak"
    before = score(rule, found)
    weights = {epoch: averaged.state_dict(), epochs: last} if epoch < epochs else {epoch: last}
    renewed = {
        number: with_statistics_anew(learner, own, data.train, places)
        for number, own in weights.items()
    }
    scores = {number: score(rule, figures(network)) for number, network in renewed.items()}
    known = {number: value for number, value in scores.items() if value is not None}
    best = max(known, key=lambda number: known[number], default=epoch)
    after = known.get(best)
    better = before is not None and after is not None and after > before
    if better:
        averaged.load_state_dict(renewed[best].state_dict())
        log.info(
            "epoch %d kept, its batch-norm statistics taken anew over %d training images: score "
            "%.3f, averaged %.3f",
            best,
            len(places),
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
    learner: Learner, weights: Mapping[str, Tensor], cases: CaseDataset, places: Sequence[int]
) -> Network:
    """A network of these weights, in `eval()`, with the statistics of these training cases.

    Images as they are, in batches of the run's size and in table order, in this process alone: so
    the number of processes changes nothing. There are at least two cases.
    """
    config = learner.plan.config
    # Batch norms of this process alone, and no dropout: it would widen the statistics.
    with torch.random.fork_rng(devices=[]):
        copy = build_network(
            config.network,
            classes=len(cases.classes),
            channels=learner.front.channels,
            dropout=0.0,
        )
    precision = next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
    copy = copy.to(learner.fabric.device, precision)
    copy.load_state_dict(weights)
    with torch.no_grad():
        update_bn(_batches(learner, cases, places), copy)
    return copy.eval()


def _batches(learner: Learner, cases: CaseDataset, places: Sequence[int]) -> Iterator[Tensor]:
    """Network inputs; a last batch that is not full is left out: all batches count alike."""
    size = min(learner.plan.config.batch, len(places))
    for first in range(0, len(places) - size + 1, size):
        batch = collate([cases.item(place) for place in places[first : first + size]])
        yield learner.front.normalise(batch.image.to(learner.fabric.device))


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
