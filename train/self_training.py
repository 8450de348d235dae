"""Self-training: before some epochs the averaged network replaces the pseudo-labels of cases."""

import logging
import math
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch

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


class SelfTrainer:
    """Replaces the pseudo-labels of a run's cases, and saves them in its folder for resuming.

    first: the epoch that is trained next; the last pseudo-labels before it are loaded.
    """

    def __init__(self, cases: CaseDataset, config: TrainConfig, out: Path, first: int) -> None:
        self._cases = cases
        self._out = out
        self._rounds: set[int] = set()
        self._agreement = math.nan
        cases.targets.pseudo_labels = {}
        if not config.learns_targets or cases.targets.growth is None:
            return
        self._rounds = self_training_epochs(config.self_training, config.epochs)
        saved = {int(path.stem.rpartition("-")[2]): path for path in out.glob(FILES)}
        earlier = [epoch for epoch in saved if epoch < first]
        if not earlier:
            return
        with np.load(saved[max(earlier)]) as file:
            shape, count = tuple(file["shape"]), int(np.prod(file["shape"]))
            stack = np.unpackbits(file["inside"], count=count).reshape(shape)
            stack[np.unpackbits(file["unknown"], count=count).reshape(shape) == 1] = NO_LABEL
            parts = zip(torch.from_numpy(stack), torch.from_numpy(file["certainty"]), strict=True)
            labels = [PseudoLabel(inside, certainty) for inside, certainty in parts]
            cases.targets.pseudo_labels = dict(zip(file["indices"].tolist(), labels, strict=True))
            self._agreement = float(file["agreement"])

    def due(self, epoch: int) -> bool:
        """Return whether pseudo-labels are replaced before `epoch`; not once two rounds agree."""
        return epoch in self._rounds and not self._agreement >= SETTLED

    def replace(self, learner: Learner, epoch: int) -> None:
        """Replace the pseudo-labels for `epoch`, and save them for resuming."""
        self._agreement = replace_pseudo_labels(learner, self._cases)
        pseudo_labels = self._cases.targets.pseudo_labels
        if learner.fabric.is_global_zero:
            stack = np.array([label.inside.numpy() for label in pseudo_labels.values()])
            path = self._out / FILES.replace("*", str(epoch))
            with atomic(path) as scratch, scratch.open("wb") as file:
                np.savez(
                    file,
                    agreement=self._agreement,
                    indices=np.array(list(pseudo_labels), np.int64),
                    shape=np.array(stack.shape),
                    certainty=np.array([x.certainty.numpy() for x in pseudo_labels.values()]),
                    # Two bits per pixel.
                    inside=np.packbits(stack == 1),
                    unknown=np.packbits(stack == NO_LABEL),
                )
        if not pseudo_labels:
            log.info("self-training: every pseudo-label is fixed, none is replaced")
            return
        log.info(
            "epoch %d starts with size-matched pseudo-labels of %d cases%s",
            epoch,
            len(pseudo_labels),
            ""
            if math.isnan(self._agreement)
            else f", IoU {self._agreement:.3f} with the previous round",
        )


def replace_pseudo_labels(learner: Learner, cases: CaseDataset) -> float:
    """Replace the size-matched pseudo-labels of all cases; return their agreement with the last.

    They are made (see `targets.pseudo_labels.size_matched_label`) from the mean of the averaged
    network's maps of the image and, if training mirrors images, of its mirror image. Each process
    predicts a part of the cases; all get all pseudo-labels. The agreement, a mean over the cases,
    is NaN in the first round, and 1 where no case can have one.
    """
    mine = [
        index
        for index in range(rank(), len(cases), world_size())
        if not np.isnan(cases.areas(index)).all()
    ]
    network, labels = learner.predictor().network, []
    for first in range(0, len(mine), AT_ONCE):
        indices = mine[first : first + AT_ONCE]
        batch = collate([cases.item(index) for index in indices])
        with torch.no_grad():
            image = learner.preprocess.normalise(batch.image.to(learner.fabric.device))
            maps = network(image).logits.sigmoid()
            if learner.plan.config.augmentation.flip_horizontal > 0:
                maps = (maps + network(image.flip(3)).logits.sigmoid().flip(3)) / 2
        parts = zip(
            indices, batch.marks.numpy(), batch.box.numpy(), maps.cpu().numpy(), strict=True
        )
        for index, marks, box, probability in parts:
            free = boxes_allow(box, marks.shape[-1]) & ~cases.taken(index)
            inside = size_matched_label(
                probability, marks.astype(np.uint8), cases.areas(index), free
            )
            sure = certainty(probability, inside)
            label = PseudoLabel(torch.from_numpy(inside), torch.from_numpy(sure))
            labels.append((index, label))
    replaced = dict(sorted(gathered(labels), key=itemgetter(0)))
    last = cases.targets.pseudo_labels
    cases.targets.pseudo_labels = replaced
    if not replaced:
        return 1.0
    agreed = [
        agreement(last[index].inside, label.inside)
        for index, label in replaced.items()
        if index in last
    ]
    # A case whose pseudo-labels are empty in both rounds has no agreement.
    known = [value for value in agreed if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def remove_pseudo_labels(out: Path) -> None:
    """Remove what only an unfinished run needs."""
    for path in out.glob(FILES):
        path.unlink()
