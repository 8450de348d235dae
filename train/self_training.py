"""Self-training: before some epochs the averaged network renews the targets of the cases."""

import logging
import math
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from wsseg.imaging.files import atomic
from wsseg.train.config import TrainConfig
from wsseg.train.data.batch import collate
from wsseg.train.data.dataset import CaseDataset
from wsseg.train.distributed import gathered, rank, world_size
from wsseg.train.learner import Learner, self_training_epochs
from wsseg.train.targets.pseudo_labels import (
    NO_LABEL,
    PseudoLabel,
    agreement,
    boxes_allow,
    certainty,
    size_matched_label,
)

log = logging.getLogger(__name__)

AT_ONCE = 16
FILES = "pseudo-labels-*.npz"
"""In the run folder, named by the epoch that began with them."""
SETTLED = 0.98
"""Mean IoU of two rounds' pseudo-labels at or above which further rounds are left out."""

PseudoLabels = dict[int, PseudoLabel]


class SelfTrainer:
    """Renews the targets of a run's cases, and keeps them in the run folder for resuming.

    first: the epoch that is trained next; the last targets that were renewed before it are loaded.
    """

    def __init__(self, cases: CaseDataset, config: TrainConfig, out: Path, first: int) -> None:
        self._cases = cases
        self._out = out
        wanted = config.learns_targets and cases.targets.growth is not None
        self._rounds = (
            self_training_epochs(config.self_training, config.epochs) if wanted else set()
        )
        cases.targets.pseudo_labels, self._agreement = (
            _load(out, first) if wanted else ({}, math.nan)
        )

    def due(self, epoch: int) -> bool:
        """Return whether the targets are renewed before `epoch`; not once two rounds agree."""
        return epoch in self._rounds and not self._agreement >= SETTLED

    def renew(self, learner: Learner, epoch: int) -> None:
        """Renew the targets for `epoch`, and keep them for resuming."""
        self._agreement = retarget(learner, self._cases)
        pseudo_labels = self._cases.targets.pseudo_labels
        if learner.fabric.is_global_zero:
            _save(pseudo_labels, self._agreement, self._out / FILES.replace("*", str(epoch)))
        if not pseudo_labels:
            log.info("every target is final: none is renewed")
            return
        log.info(
            "epoch %d begins with targets from the network's own maps of %d cases%s",
            epoch,
            len(pseudo_labels),
            "" if math.isnan(self._agreement) else f", IoU {self._agreement:.3f} with the last",
        )


def retarget(learner: Learner, cases: CaseDataset) -> float:
    """Renew the cuts of all cases that can be cut; returns their mean agreement with the last.

    What is cut (see `targets.selftrain.cut`) is the mean of the averaged network's maps of the
    image and, if training mirrors images, of its mirror image. Each process predicts a part of the
    cases; all get the cuts of all. The agreement is NaN in the first round, 1
    where nothing can be cut.
    """
    mine = [
        index
        for index in range(rank(), len(cases), world_size())
        if not np.isnan(cases.areas(index)).all()
    ]
    found = dict(sorted(gathered(list(_new_labels(learner, cases, mine))), key=itemgetter(0)))
    last = cases.targets.pseudo_labels
    agreed = [
        agreement(last[index].inside, new.inside) for index, new in found.items() if index in last
    ]
    cases.targets.pseudo_labels = found
    if not found:
        return 1.0
    # A case whose cuts are empty in both rounds has no agreement.
    known = [value for value in agreed if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _new_labels(
    learner: Learner, cases: CaseDataset, mine: list[int]
) -> Iterator[tuple[int, PseudoLabel]]:
    for first in range(0, len(mine), AT_ONCE):
        indices = mine[first : first + AT_ONCE]
        batch = collate([cases.item(index) for index in indices])
        maps = _maps(learner, batch.image)
        parts = zip(indices, batch.marks.numpy(), batch.box.numpy(), maps, strict=True)
        for index, marks, box, probability in parts:
            free = boxes_allow(box, marks.shape[-1]) & ~cases.taken(index)
            found = size_matched_label(
                probability, marks.astype(np.uint8), cases.areas(index), free
            )
            sure = certainty(probability, found)
            yield index, PseudoLabel(torch.from_numpy(found), torch.from_numpy(sure))


@torch.no_grad()
def _maps(learner: Learner, image: Float[Tensor, "b c s s"]) -> NDArray[np.float32]:
    """Probabilities (b, k, row, column) of the averaged network."""
    network = learner.predictor().network
    image = learner.preprocess.normalise(image.to(learner.fabric.device))
    maps = network(image).logits.sigmoid()
    if learner.plan.config.augmentation.flip_horizontal > 0:
        maps = (maps + network(image.flip(3)).logits.sigmoid().flip(3)) / 2
    found: NDArray[np.float32] = maps.cpu().numpy()
    return found


def _save(pseudo_labels: PseudoLabels, agreed: float, path: Path) -> None:
    """Two bits a pixel."""
    stack = np.array([found.inside.numpy() for found in pseudo_labels.values()])
    with atomic(path) as scratch, scratch.open("wb") as file:
        np.savez(
            file,
            agreement=agreed,
            indices=np.array(list(pseudo_labels), np.int64),
            shape=np.array(stack.shape),
            certainty=np.array([found.certainty.numpy() for found in pseudo_labels.values()]),
            inside=np.packbits(stack == 1),
            unknown=np.packbits(stack == NO_LABEL),
        )


def _load(out: Path, before: int) -> tuple[PseudoLabels, float]:
    """The newest cuts that an epoch earlier than `before` began with, and their agreement."""
    kept = {int(path.stem.rpartition("-")[2]): path for path in out.glob(FILES)}
    earlier = [epoch for epoch in kept if epoch < before]
    if not earlier:
        return {}, math.nan
    with np.load(kept[max(earlier)]) as file:
        shape, count = tuple(file["shape"]), int(np.prod(file["shape"]))
        stack = np.unpackbits(file["inside"], count=count).reshape(shape)
        stack[np.unpackbits(file["unknown"], count=count).reshape(shape) == 1] = NO_LABEL
        parts = zip(torch.from_numpy(stack), torch.from_numpy(file["certainty"]), strict=True)
        pseudo_labels = [PseudoLabel(inside, certainty) for inside, certainty in parts]
        return dict(zip(file["indices"].tolist(), pseudo_labels, strict=True)), float(
            file["agreement"]
        )


def remove_pseudo_labels(out: Path) -> None:
    """Remove what only an unfinished run needs."""
    for path in out.glob(FILES):
        path.unlink()
