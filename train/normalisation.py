"""Batch-norm statistics taken anew with the final weights, and the choice between them and those
that training averaged.

The averages lag behind the weights: after a few dozen steps they are still partly those of the
random start, and the network in `eval()` is another than the one that was trained. After thousands
of steps they are the better ones, because they have seen more pictures than one pass shows.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from wsseg.train.dataset import CaseDataset, collate
from wsseg.train.evaluate import evaluate
from wsseg.train.journal import Course
from wsseg.train.learner import Learner
from wsseg.train.loop import Data
from wsseg.train.metrics import summarise
from wsseg.train.networks import Network, build_network
from wsseg.train.predictor import Predictor
from wsseg.train.record import Normalisation
from wsseg.train.seen import spread
from wsseg.train.select import Rule, score

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
