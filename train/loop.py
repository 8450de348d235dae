"""The training loop: epochs of steps, validation, and checkpoint selection."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wsseg.imaging.definitions import Denominator
from wsseg.train.data.batch import Batch
from wsseg.train.data.dataset import CaseDataset
from wsseg.train.distributed import gathered, rank, world_size
from wsseg.train.learner import TOTAL, Learner
from wsseg.train.metrics import summarise
from wsseg.train.progress import EpochReport, RunLogger, StepReport, TrainingState, row
from wsseg.train.self_training import SelfTrainer
from wsseg.train.validation import Rule, evaluate, is_due, update, validation_interval


@dataclass(frozen=True)
class Data:
    """Training, validation and test cases, and the rule of checkpoint selection."""

    train: CaseDataset
    val: CaseDataset
    test: CaseDataset
    denominators: tuple[Denominator, ...]
    rule: Rule


def fit(
    learner: Learner,
    data: Data,
    self_trainer: SelfTrainer,
    stream: Callable[[int], Iterator[Batch]],
    training: TrainingState,
    run_logger: RunLogger | None,
) -> None:
    """Train from the epoch after the last one of `training`, and update `training`.

    self_trainer: renews the targets before some epochs. stream: yields this process's batches from
    the given epoch on. run_logger: saves and reports every finished epoch; None in all processes
    but the first.
    """
    epochs, first = learner.plan.config.epochs, len(training.history) + 1
    steps = learner.plan.steps // epochs
    batches = stream(first)
    for epoch in range(first, epochs + 1):
        began = time.perf_counter()
        if self_trainer.due(epoch):
            self_trainer.renew(learner, epoch)
            # Reading processes hold the targets as they were.
            batches = stream(epoch)
        parts = _train_epoch(learner, batches, epoch, run_logger)
        figures = validate(learner, data, epoch)
        training.choice = update(training.choice, epoch, data.rule, figures)
        rate = learner.plan.config.learning_rate * learner.rate(epoch * steps - 1)
        seconds = time.perf_counter() - began
        report = EpochReport(epoch, epochs, parts, figures, rate, seconds, training.choice)
        training.history.append(row(report))
        if run_logger is not None:
            run_logger.epoch(learner, training, report)


def _train_epoch(
    learner: Learner, batches: Iterator[Batch], epoch: int, run_logger: RunLogger | None
) -> dict[str, float]:
    """Take the steps of one epoch; return the mean of every part of the objective."""
    epochs = learner.plan.config.epochs
    steps = learner.plan.steps // epochs
    learner.module.train()
    sums: Counter[str] = Counter()
    for step in range(steps):
        values = learner.step(next(batches), (epoch - 1) * steps + step)
        sums.update(values)
        if run_logger is not None:
            run_logger.step(StepReport(epoch, epochs, step + 1, steps, values[TOTAL]))
    return {name: total / steps for name, total in sums.items()}


def validate(learner: Learner, data: Data, epoch: int) -> dict[str, float]:
    """Return the figures of the averaged network on the validation cases; empty if none is due.

    Every process predicts a part of the cases; all get the figures of all cases.
    """
    interval = validation_interval(len(data.val), len(data.train))
    if not len(data.val) or not is_due(epoch, interval, learner.plan.config):
        return {}
    predictor = learner.predictor()
    mine = range(rank(), len(data.val), world_size())
    counts = evaluate(predictor, data.val, mine, data.denominators, learner.fabric.device)
    return summarise(sorted(gathered(counts), key=lambda case: case.row))
