"""Training from a table of cases to a run folder: `train`, the room's front door."""

import hashlib
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric

from wsseg.imaging.definitions import Window
from wsseg.imaging.errors import WssegError
from wsseg.train.case import Case, CaseTable
from wsseg.train.cases import read_cases
from wsseg.train.config import TrainConfig
from wsseg.train.dataset import CaseDataset
from wsseg.train.evaluate import weakly_labelled
from wsseg.train.front import Front
from wsseg.train.journal import Course, Journal
from wsseg.train.launch import Task, is_first_process, launched
from wsseg.train.learner import Learner, build_learner
from wsseg.train.loop import Data, fit
from wsseg.train.networks import Network, build_network, set_prior
from wsseg.train.objective import build_objective
from wsseg.train.outputs import describe, finish
from wsseg.train.pretrained import load_weights
from wsseg.train.progress import EpochReport, StepReport
from wsseg.train.ratios import class_denominators
from wsseg.train.record import RunRecord
from wsseg.train.run_folder import check_start, complete, started
from wsseg.train.select import choose_rule
from wsseg.train.stream import steps_per_epoch, stream
from wsseg.train.window import choose_input

log = logging.getLogger(__name__)


def train(
    cases: Path,
    out: Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> RunRecord:
    """Train on the table `cases` and leave the run in the folder `out`; returns its record.

    resume: go on after the last whole epoch of a run in `out`, to the very curve and weights it
    would have had; a complete run is said to be so and left alone. on_step, on_epoch: called in
    this process. With `devices` > 1 further processes are started, unless torchrun did it.
    Raises WssegError for what the user can fix.
    """
    if is_first_process():
        check_start(out, config, resume=resume)
    if resume:
        record = complete(out, cases, _sha256(cases))
        if record is not None:
            return record
    with launched(Task(cases, out, config, resume)) as fabric:
        return _train(fabric, Task(cases, out, config, resume), on_step, on_epoch)


def _train(
    fabric: Fabric,
    task: Task,
    on_step: Callable[[StepReport], None] | None,
    on_epoch: Callable[[EpochReport], None] | None,
) -> RunRecord:
    config = task.config
    table = read_cases(task.cases, ratios=config.ratios, seed=config.seed)
    state = started(task.out, task.cases, table.sha256) if task.resume else None
    course = Course(_given(table, config)) if state is None else Course.restored(state)
    data = _data(table, config, course.given)
    learner = _learner(fabric, table, data, config, course)
    if state is not None:
        learner.restore(state)
    first = len(course.history) + 1
    batches = stream(
        data.train, config, first=first, rank=fabric.global_rank, world=fabric.world_size
    )
    if not is_first_process():
        fit(learner, data, batches, course, None)
        return describe(learner, table, course)
    with Journal(task.out, first=first, on_step=on_step, on_epoch=on_epoch) as journal:
        fit(learner, data, batches, course, journal)
    return finish(learner, data, table, course, task.out)
