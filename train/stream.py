"""The batches of a run, which depend on seed and epoch and on nothing that happened before."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, Dataset

from wsseg.train.augment import augment
from wsseg.train.batch import Batch
from wsseg.train.config import TrainConfig
from wsseg.train.dataset import CaseDataset, Sample, collate
from wsseg.train.order import batches, epoch_order, with_repeats
from wsseg.train.schedule import renewals

Place = tuple[int, int, int]
"""(epoch, position of the case in the table's training split, how often it came before in it)."""


@dataclass(frozen=True)
class Augmented(Dataset[Sample]):
    """The training cases as each epoch sees them."""

    cases: CaseDataset
    config: TrainConfig

    def __getitem__(self, place: Place) -> Sample:
        """The case at a position, changed as the epoch changes it, each time otherwise."""
        epoch, position, repeat = place
        sample = self.cases.item(position)
        if not self.config.reads_shapes:
            # What no term reads must not keep the picture from being turned.
            sample = replace(sample, hints=sample.hints.free)
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


def stream(
    cases: CaseDataset, config: TrainConfig, first: int, *, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """This process's share of every batch from epoch `first` (from 1) to the last, in order.

    One stream for all epochs, so that reading processes start once and read ahead over the end of
    an epoch.
    """
    plan = [
        [(epoch, position, repeat) for position, repeat in share]
        for epoch in range(first, config.epochs + 1)
        for share in batches(with_repeats(_order(cases, config, epoch)), config.batch, rank, world)
    ]
    loader: DataLoader[Batch] = DataLoader(
        Augmented(cases, config),  # type: ignore[arg-type]
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
        return epoch_order(len(cases), config.seed, epoch)
    settings = config.self_training
    first = min(renewals(settings, config.epochs), default=config.epochs + 1)
    least = settings.located if epoch < first else settings.located_later
    return epoch_order(len(cases), config.seed, epoch, located=cases.located, least=least)
