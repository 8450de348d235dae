"""Training from a table of cases to a run folder: `train`, the room's front door."""

import hashlib
import logging
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lightning.fabric import Fabric

from wsseg.imaging.errors import WssegError
from wsseg.imaging.locks import held
from wsseg.train.config import TrainConfig
from wsseg.train.fingerprint import fingerprints, require_unchanged
from wsseg.train.folding import cases_for
from wsseg.train.journal import Course, Journal
from wsseg.train.judged import SPLITS, write_splits
from wsseg.train.launch import Task, is_first_process, launched, refuse_tasks
from wsseg.train.loop import fit
from wsseg.train.outputs import describe, finish
from wsseg.train.prepare import choose_given, prepare_data, prepare_learner
from wsseg.train.progress import EpochReport, StepReport
from wsseg.train.record import RunRecord
from wsseg.train.retarget import Renewals, remove_cuts
from wsseg.train.run_folder import check_start, complete, keep_config, started, sweep
from wsseg.train.stream import stream
from wsseg.train.teacher import find_teacher, recognise, teach

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Watchers:
    on_step: Callable[[StepReport], None] | None
    on_epoch: Callable[[EpochReport], None] | None


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
    Raises WssegError for what the user can fix, another run at work in `out` among it.
    """
    if config.folds is not None and config.fold is None:
        raise WssegError("several folds are trained by `train_folds`: call that")
    refuse_tasks()
    busy = f"another training is at work in {out}: wait for it, or give another --out"
    with held(out, busy) if is_first_process() else nullcontext():
        return _started(cases, out, config, resume, _Watchers(on_step, on_epoch))


def _started(
    cases: Path, out: Path, config: TrainConfig, resume: bool, watchers: _Watchers
) -> RunRecord:
    if is_first_process():
        check_start(out, config, resume=resume)
        sweep(out)
    if resume:
        record = complete(out, cases, _sha256(cases))
        if record is not None:
            return record
    task = Task(cases, out, config, resume)
    with launched(task) as fabric:
        return _train(fabric, task, watchers)


def _train(fabric: Fabric, task: Task, watchers: _Watchers) -> RunRecord:
    """The part of a run that every process runs."""
    config = task.config
    table = cases_for(task.cases, config)
    for doubt in table.doubts:
        log.warning("%s", doubt)
    teacher = find_teacher(config, table.classes, fabric.device)
    state = started(task.out, task.cases, table.sha256) if task.resume else None
    course = Course(choose_given(table, config)) if state is None else Course.restored(state)
    require_unchanged(course.given.get("files", {}), table.cases)
    data = prepare_data(table, config, course.given)
    if teacher is not None:
        recognise(teacher, course.given)
        teach(fabric, teacher, data.train, config)
    learner = prepare_learner(fabric, data, config, course.given)
    if state is not None:
        learner.restore(state)
    first = len(course.history) + 1
    renewals = Renewals(data.train, config, task.out, first)
    batches = partial(stream, data.train, config, rank=fabric.global_rank, world=fabric.world_size)
    if not fabric.is_global_zero:
        fit(learner, data, renewals, batches, course, None)
        return describe(learner, table, course)
    write_splits(table, task.out / SPLITS)
    if state is None:
        course.given["files"] = fingerprints(table.cases)
        keep_config(config, task.out)
    journal = Journal(task.out, first=first, on_step=watchers.on_step, on_epoch=watchers.on_epoch)
    with closing(journal):
        fit(learner, data, renewals, batches, course, journal)
    remove_cuts(task.out)
    return finish(learner, data, table, course, task.out, teacher=teacher)


def _sha256(cases: Path) -> str:
    try:
        return hashlib.sha256(cases.read_bytes()).hexdigest()
    except OSError as error:
        raise WssegError(f"{cases} cannot be read ({error.strerror}): give a cases file") from error
