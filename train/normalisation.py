"""Batch-norm statistics taken anew with the final weights, and the choice between them and those
that training averaged.

The averages lag behind the weights: after a few dozen steps they are still partly those of the
random start, and the network in `eval()` is another than the one that was trained. After thousands
of steps they are the better ones, because they have seen more pictures than one pass shows.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from wsseg.train.dataset import CaseDataset, collate
from wsseg.train.learner import Learner
from wsseg.train.networks import Network, build_network

MOST_IMAGES = 1024
"""Training images that one pass looks at, evenly spread."""


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
    copy.load_state_dict(weights)
    copy = copy.to(learner.fabric.device)
    with torch.no_grad():
        update_bn(_batches(learner, cases, places), copy)
    return copy.eval()


def _batches(learner: Learner, cases: CaseDataset, places: Sequence[int]) -> Iterator[Tensor]:
    """Network inputs; a last batch that is not full is left out: all batches count alike."""
    size = min(learner.plan.config.batch, len(places))
    for first in range(0, len(places) - size + 1, size):
        batch = collate([cases.item(place) for place in places[first : first + size]])
        yield learner.front.normalise(batch.image.to(learner.fabric.device))
