"""The batches of a run, which depend on seed and epoch and on nothing that happened before."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from wsseg.imaging.errors import WssegError
from wsseg.train.config import TrainConfig
from wsseg.train.data.augment import augment
from wsseg.train.data.batch import Batch
from wsseg.train.data.dataset import CaseDataset, Sample, collate
from wsseg.train.learner import self_training_epochs

# In which order, and in which process, the cases of an epoch are seen.

T = TypeVar("T")


def epoch_indices(
    count: int, seed: int, epoch: int, *, located: Sequence[int] = (), least: float = 0.0
) -> list[int]:
    """The places 0..count-1 in the order of one epoch; the same for the same seed and epoch.

    least: share of the epoch that the places `located` make up, if there are too few of them: they
    are then repeated, and as many of the others left out.
    """
    random = np.random.default_rng((seed, epoch))
    order: list[int] = random.permutation(count).tolist()
    wanted = round(least * count)
    if not 0 < len(located) < wanted:
        return order
    there = set(located)
    others = [place for place in order if place not in there][: count - wanted]
    passes = [random.permutation(located) for _ in range(-(-wanted // len(located)))]
    mixed: list[int] = random.permutation([*np.concatenate(passes)[:wanted], *others]).tolist()
    return mixed


def with_repeats(order: Sequence[int]) -> list[tuple[int, int]]:
    """Each place of an order, with how often it came before."""
    seen: Counter[int] = Counter()
    numbered = []
    for place in order:
        numbered.append((place, seen[place]))
        seen[place] += 1
    return numbered


def batch_shares(order: Sequence[T], size: int, rank: int = 0, world: int = 1) -> Iterator[list[T]]:
    """The share of process `rank` of `world` in every batch of `size` places, in order.

    Shares are contiguous and of one length. The last places that fill no batch are left out (the
    next epoch's order takes them up); an order shorter than one batch is repeated to fill it.
    Raises WssegError where the batch cannot be shared out or is too small for batch norm.
    """
    if size % world or size < 2:
        raise WssegError(
            f"a batch of {size} over {world} processes: the batch must be at least 2, because "
            f"batch norm compares images, and a multiple of the processes; change batch or devices"
        )
    if not order:
        raise WssegError("no training case: give the table rows whose split is train")
    repeated = [order[place % len(order)] for place in range(max(size, len(order)))]
    share = size // world
    for start in range(0, len(repeated) - size + 1, size):
        first = start + rank * share
        yield repeated[first : first + share]


Place = tuple[int, int, int]
"""(epoch, position of the case in the table's training split, how often it came before in it)."""


@dataclass(frozen=True)
class AugmentedCases(Dataset[Sample]):
    """The training cases as each epoch sees them."""

    cases: CaseDataset
    config: TrainConfig

    def __getitem__(self, place: Place) -> Sample:
        """The case at a position, changed as the epoch changes it, each time otherwise."""
        epoch, position, repeat = place
        sample = self.cases.item(position)
        if not self.config.reads_shapes:
            # What no term reads must not keep the picture from being turned.
            sample = replace(sample, region_labels=sample.region_labels.free)
        return augment(
            sample,
            self.config.augmentation,
            self.cases.of_image,
            seed=self.config.seed,
            epoch=epoch,
            repeat=repeat,
        )


def steps_per_epoch(cases: CaseDataset, config: TrainConfig) -> int:
    """Optimiser steps of one epoch; the cases that fill no batch wait for another epoch."""
    return max(1, len(cases) // config.batch)


def training_batches(
    cases: CaseDataset, config: TrainConfig, first: int, *, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """This process's share of every batch from epoch `first` (from 1) to the last, in order.

    One stream for all epochs, so that reading processes start once and read ahead over the end of
    an epoch.
    """
    plan = [
        [(epoch, position, repeat) for position, repeat in share]
        for epoch in range(first, config.epochs + 1)
        for share in batch_shares(
            with_repeats(_order(cases, config, epoch)), config.batch, rank, world
        )
    ]
    loader: DataLoader[Batch] = DataLoader(
        AugmentedCases(cases, config),  # type: ignore[arg-type]
        batch_sampler=plan,
        num_workers=config.workers,
        collate_fn=collate,
        # Its own generator: otherwise the loader draws from, and moves, the global one.
        generator=torch.Generator().manual_seed(config.seed),
    )
    return iter(loader)


def _order(cases: CaseDataset, config: TrainConfig, epoch: int) -> list[int]:
    """The cases of an epoch: with targets to learn, enough of those that say where."""
    if not config.learns_targets:
        return epoch_indices(len(cases), config.seed, epoch)
    settings = config.self_training
    first = min(self_training_epochs(settings, config.epochs), default=config.epochs + 1)
    least = settings.located if epoch < first else settings.located_later
    return epoch_indices(len(cases), config.seed, epoch, located=cases.located, least=least)
