"""The batches of a run: they depend on seed and epoch alone, so that a resumed run repeats them."""

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
from wsseg.train.data.batch import Batch, Sample, collate
from wsseg.train.data.dataset import CaseDataset
from wsseg.train.learner import self_training_epochs

T = TypeVar("T")
SampleKey = tuple[int, int, int]
"""Epoch, index of the case in the training split, and number of its earlier occurrences."""


def epoch_indices(
    count: int, seed: int, epoch: int, *, located: Sequence[int] = (), least: float = 0.0
) -> list[int]:
    """Return the indices 0..count-1 in the order of one epoch; equal for equal seed and epoch.

    least: smallest share of the epoch that the indices `located` make up. If there are too few of
    them, they are repeated and as many others are left out.
    """
    random = np.random.default_rng((seed, epoch))
    order: list[int] = random.permutation(count).tolist()
    wanted = round(least * count)
    if not 0 < len(located) < wanted:
        return order
    repeated = set(located)
    others = [index for index in order if index not in repeated][: count - wanted]
    passes = [random.permutation(located) for _ in range(-(-wanted // len(located)))]
    mixed: list[int] = random.permutation([*np.concatenate(passes)[:wanted], *others]).tolist()
    return mixed


def with_repeats(order: Sequence[int]) -> list[tuple[int, int]]:
    """Return each index of an order with the number of its earlier occurrences."""
    seen: Counter[int] = Counter()
    numbered = []
    for index in order:
        numbered.append((index, seen[index]))
        seen[index] += 1
    return numbered


def batch_shares(order: Sequence[T], size: int, rank: int = 0, world: int = 1) -> Iterator[list[T]]:
    """Yield the share of process `rank` of `world` in each batch of `size` indices, in order.

    Shares are contiguous and equally long. The last indices, which fill no batch, are left out of
    this epoch; an order shorter than one batch is repeated to fill it. Raises WssegError if the
    batch cannot be divided among the processes or is too small for batch norm.
    """
    if size % world or size < 2:
        raise WssegError(
            f"a batch of {size} over {world} processes: the batch must be at least 2, because "
            f"batch norm compares images, and a multiple of the processes; change batch or devices"
        )
    if not order:
        raise WssegError("no training case: give the table rows whose split is train")
    repeated = [order[index % len(order)] for index in range(max(size, len(order)))]
    share = size // world
    for start in range(0, len(repeated) - size + 1, size):
        first = start + rank * share
        yield repeated[first : first + share]


@dataclass(frozen=True)
class AugmentedCases(Dataset[Sample]):
    """The training cases, augmented."""

    cases: CaseDataset
    config: TrainConfig

    def __getitem__(self, key: SampleKey) -> Sample:
        """Return a case with the augmentation of an epoch and occurrence."""
        epoch, index, repeat = key
        sample = self.cases.item(index)
        if not self.config.reads_shapes:
            # Labels that no loss uses must not prevent rotations.
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
    """Return the optimiser steps of one epoch; cases that fill no batch wait for another epoch."""
    return max(1, len(cases) // config.batch)


def training_batches(
    cases: CaseDataset, config: TrainConfig, first: int, *, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Yield this process's share of each batch from epoch `first` (from 1) to the last, in order.

    Where targets are learnt, each epoch has enough cases that locate a class. All epochs are one
    iterator, so that the processes that read start once and prefetch beyond the end of an epoch.
    """
    rounds = self_training_epochs(config.self_training, config.epochs)
    first_round = min(rounds, default=config.epochs + 1)
    located = cases.located if config.learns_targets else ()
    plan: list[list[SampleKey]] = []
    for epoch in range(first, config.epochs + 1):
        settings = config.self_training
        least = settings.located if epoch < first_round else settings.located_later
        order = epoch_indices(len(cases), config.seed, epoch, located=located, least=least)
        shares = batch_shares(with_repeats(order), config.batch, rank, world)
        plan += [[(epoch, index, repeat) for index, repeat in share] for share in shares]
    loader: DataLoader[Batch] = DataLoader(
        AugmentedCases(cases, config),  # type: ignore[arg-type]
        batch_sampler=plan,
        num_workers=config.workers,
        collate_fn=collate,
        # Its own generator: otherwise the loader draws from, and moves, the global one.
        generator=torch.Generator().manual_seed(config.seed),
    )
    return iter(loader)
