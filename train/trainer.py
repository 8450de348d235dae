"""Training from a table of cases to a run folder: the data, the network and the run itself."""

import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsseg.imaging.definitions import RatioDefinition, Window
from wsseg.imaging.dicom.codes import check_classes
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import lock_output
from wsseg.imaging.tables import TableOptions
from wsseg.train.cases.evidence import known_fields, small_regions
from wsseg.train.cases.files import fingerprints, require_unchanged
from wsseg.train.cases.images import (
    choose_input,
    looks_by_row,
    mixed_origins,
    mixed_planes,
    odd_ones,
    see,
    spread,
    suspects,
)
from wsseg.train.cases.recorded import RECORDED, keep_aside, require_enough, write_recorded
from wsseg.train.cases.schema import Case, CaseTable, class_denominators
from wsseg.train.cases.table import fold_of, read_cases
from wsseg.train.config import TrainConfig
from wsseg.train.data.batch import Batch
from wsseg.train.data.dataset import CaseDataset, TargetStore
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.data.sampler import steps_per_epoch, training_batches
from wsseg.train.distillation import find_teacher, teach, with_teacher
from wsseg.train.distributed import gathered, rank, world_size
from wsseg.train.fabric import Fabric
from wsseg.train.launch import (
    Task,
    fabric_precision,
    is_first_process,
    launched,
    refuse_tasks,
)
from wsseg.train.learner import TOTAL, Learner, Plan, build_learner
from wsseg.train.losses import Objective, build_objective
from wsseg.train.metrics import summarise
from wsseg.train.networks import Network, build_network, set_prior
from wsseg.train.pretrained import load_weights
from wsseg.train.progress import EpochReport, RunLogger, StepReport, TrainingState, row
from wsseg.train.report import describe, finish
from wsseg.train.run_folder import (
    RunFacts,
    RunRecord,
    check_start,
    complete,
    keep_config,
    of_this_run,
    started,
    sweep,
)
from wsseg.train.self_training import SelfTrainer, remove_pseudo_labels
from wsseg.train.targets.case_targets import borders_of, localise_cases
from wsseg.train.targets.evidence import Growth, choose_growth
from wsseg.train.validation import (
    SPLITS,
    Data,
    choose_rule,
    evaluate,
    is_due,
    update,
    validation_interval,
    weakly_labelled,
    write_splits,
)

log = logging.getLogger(__name__)

MOST_LOOKED_AT = 512
"""Validation cases, evenly spread, whose intensity range is checked before the first step."""
PREVIEW_SIZE = 256
"""Rows and columns of the targets that a person looks at before training."""


def choose_facts(table: CaseTable, config: TrainConfig) -> RunFacts:
    """Return the facts of a run that begins, chosen from its training images and its settings.

    How marks grow is added with the training cases, whose files are read for it.
    """
    cases = table.part("train")
    window, channels = choose_input(cases, window=config.window, channels=config.channels)
    return RunFacts(
        cases_sha256=table.sha256,
        window=window,
        channels=channels,
        seen=see(cases, config.modality),
    )


def growth_of(data: CaseDataset, config: TrainConfig) -> Growth | None:
    """Return how marks that bear a shape are grown, by the settings or by the images' borders.

    None if no loss learns targets.
    """
    if not config.learns_targets:
        return None
    if config.growth != "auto":
        return config.growth
    marked = [index for index, case in enumerate(data.cases) if case.marks is not None]
    borders = borders_of(data.evidence, marked)
    growth = choose_growth(borders)
    if borders:
        ways = {"euclidean": "in straight lines", "geodesic": "along the edges of the image"}
        log.info("eroded marks grow %s", ways[growth])
    return growth


def cases_for(path: Path, config: TrainConfig) -> CaseTable:
    """Return the checked table of a run with these settings, split by the run's fold if it has one.

    Raises as `read_cases` and `fold_of` do.
    """
    unlabelled = config.distill is not None
    table = read_cases(
        path,
        ratios=config.ratios,
        labels=config.labels,
        seed=config.seed,
        unlabelled=unlabelled,
        options=TableOptions(config.sheet, config.ignore_columns),
    )
    check_classes(config.codes, table.classes)
    if config.calibrate:
        table = keep_aside(
            table,
            config.calibrate,
            seed=config.seed,
            ratios=config.ratios,
            unlabelled=unlabelled,
        )
    require_enough(table)
    if config.fold is None:
        return table
    return fold_of(
        table,
        config.fold,
        config.folds or 1,
        seed=config.seed,
        ratios=config.ratios,
        unlabelled=unlabelled,
    )


def build_preprocess(config: TrainConfig, facts: RunFacts) -> Preprocess:
    """Return the preprocessing of a run's network, on the CPU."""
    return Preprocess(facts.window, config.size, facts.channels)


def teaching_cases(table: CaseTable, config: TrainConfig, facts: RunFacts) -> CaseDataset:
    """Return the training cases with their first targets."""
    preprocess, targets = build_preprocess(config, facts), TargetStore()
    data = CaseDataset(
        table.part("train"), table.classes, config.ratios, preprocess, targets=targets
    )
    targets.growth = facts.growth or growth_of(data, config)
    if targets.growth is not None and config.localise_from_area:
        targets.proposals = localise_cases(
            data.cases, data.classes, data.denominators, data.thumbnail
        )
    return data


def prepare_data(table: CaseTable, config: TrainConfig, facts: RunFacts) -> Data:
    """Return the training cases, in memory where they fit, and the validation and test cases."""
    train, val = table.part("train"), table.part("val")
    preprocess = build_preprocess(config, facts)
    data = Data(
        train=teaching_cases(table, config, facts),
        val=CaseDataset(val, table.classes, config.ratios, preprocess),
        test=CaseDataset(table.part("test"), table.classes, config.ratios, preprocess),
        denominators=class_denominators(table.classes, config.ratios),
        rule=choose_rule(
            config.select,
            cases=len(val),
            masks=sum(case.mask is not None for case in val),
            weak=weakly_labelled(val),
        ),
    )
    for doubt in small_regions(train, table.classes, data.denominators, config.size):
        log.warning("%s", doubt)
    data.train.fill()
    warn_of_odd(data, preprocess.window)
    for doubt in (*mixed_planes((*train, *val)), *mixed_origins((*train, *val))):
        log.warning("%s", doubt)
    reason = {
        "mask": "the highest mean IoU on validation masks",
        "weak": "the best agreement with validation ratios and marks",
        "last": "the last epoch",
    }
    log.info(
        "%d training and %d validation cases; checkpoint selected by: %s",
        len(train),
        len(val),
        reason[data.rule],
    )
    return data


def warn_of_odd(data: Data, window: Window) -> None:
    """Log which training and validation images lie outside the intensity range of the others.

    Checks the images that training keeps in memory; where they do not fit, some images of each way
    of storing values.
    """
    if window.kind == "image":
        return
    train, val = data.train, data.val.cases
    looks = train.looks or looks_by_row(suspects(train.cases))
    looks = looks | looks_by_row(spread(val, MOST_LOOKED_AT))
    for doubt in odd_ones(looks, (*train.cases, *val), window):
        log.warning("%s", doubt)


def prepare_learner(fabric: Fabric, data: Data, config: TrainConfig, facts: RunFacts) -> Learner:
    """Return the network with first weights drawn from the run's seed, ready for the first step."""
    train = data.train
    steps = config.epochs * steps_per_epoch(train, config)
    objective = build_objective(
        config.loss_terms, train.classes, config.ratios, steps=steps, prior=mean_ratios(data)
    )
    corrected = config.self_training.rounds > 0
    require_evidence(objective, train.cases, train.classes, corrected=corrected)
    network = first_network(data, config, facts.channels)
    if "ratio" in objective.needs:
        # A run that does not learn from the ratios must not start from them either.
        set_prior(network, image_shares(data))
    load_weights(network, config.weights, train.classes)
    plan = Plan(config, objective, rows=tuple(case.row for case in train.cases), steps=steps)
    return build_learner(fabric, network, build_preprocess(config, facts), plan)


def first_network(data: Data, config: TrainConfig, channels: int) -> Network:
    """Return a network with weights drawn from the seed; the caller's random state is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return build_network(
            config.network,
            classes=len(data.train.classes),
            channels=channels,
            dropout=config.dropout,
        )


def mean_ratios(data: Data) -> tuple[float, ...]:
    """Return the mean known ratio of each class in training; NaN where none is known."""
    known = (
        [ratio for ratio in ratios if ratio is not None]
        for ratios in zip(*(case.ratios for case in data.train.cases), strict=True)
    )
    return tuple(float(np.mean(ratios)) if ratios else math.nan for ratios in known)


def image_shares(data: Data) -> tuple[float, ...]:
    """Return the mean ratios of classes that are measured over the image; NaN for the others."""
    means = zip(mean_ratios(data), data.denominators, strict=True)
    return tuple(mean if below == "image" else math.nan for mean, below in means)


def require_evidence(
    objective: Objective, cases: Sequence[Case], classes: Sequence[str], *, corrected: bool
) -> None:
    """Warn of losses that no training case has labels for, and if no loss reads labels.

    corrected: self-training makes targets from known areas. Raises WssegError if nothing teaches
    some class, neither a loss that reads labels nor a teacher: it would be found anywhere.
    """
    known = {
        name: known_fields(cases, number, corrected=corrected)
        for number, name in enumerate(classes, 1)
    }
    labelled = [term for term in objective.terms if term.loss.labels]
    some = frozenset[str]().union(*known.values())
    idle = [term for term in labelled if not term.loss.labels & some]
    if not labelled and "soft" not in objective.needs:
        log.warning(
            "no term learns from the labels of the cases: only first weights, or what is common to "
            "all pictures, can say what to segment"
        )
    if labelled and "soft" not in objective.needs:
        for name, fields in known.items():
            if not any(term.loss.labels & fields for term in labelled):
                whom = "" if len(idle) == len(labelled) else f" for {name}"
                needs = "; ".join(
                    f"{term.name}: {' or '.join(sorted(term.loss.labels))}" for term in labelled
                )
                raise WssegError(
                    f"no training case has what the terms learn from{whom} ({needs}): add a column "
                    "that says it, or choose another preset"
                )
    if idle:
        names = ", ".join(term.name for term in idle)
        log.warning("no training case has labels for the terms: %s", names)


def target_preview(
    table: CaseTable, ratios: tuple[RatioDefinition, ...]
) -> Callable[[Case], NDArray[np.float32]]:
    """Return a function from a training case to its first target (k, s, s), 0..1.

    s is PREVIEW_SIZE. NaN marks pixels that are not taught; a proposal is as strong as it is
    certain. How marks grow and where unmarked classes may lie is chosen as in training.
    """
    config = TrainConfig(preset="wsseg", size=PREVIEW_SIZE, ratios=ratios)
    facts = choose_facts(table, config)
    data = teaching_cases(table, config, facts)
    indices = {case.row: index for index, case in enumerate(data.cases)}

    def target(case: Case) -> NDArray[np.float32]:
        sample = data.item(indices[case.row])
        weight = sample.target_weight.numpy()
        strength = np.where(sample.proposed.numpy()[:, None, None], weight, 1.0)
        shown = np.where(weight > 0, sample.target.numpy() * strength, np.nan)
        return shown.astype(np.float32)

    return target


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

    resume: continue after the last whole epoch of a run in `out`, with exactly the curve and the
    weights of an uninterrupted run; a complete run is left alone. on_step, on_epoch: called in this
    process. With `devices` > 1 further processes are started, unless torchrun did it.
    Raises WssegError for what the user can fix, such as another run at work in `out`.
    """
    if config.folds is not None and config.fold is None:
        raise WssegError("several folds are trained by `train_folds`: call that")
    refuse_tasks()
    busy = f"another training is at work in {out}: wait for it, or give another --out"
    with lock_output(out, busy) if is_first_process() else nullcontext():
        if is_first_process():
            check_start(out, config, resume=resume)
            sweep(out)
        if resume:
            try:
                cases_sha256 = hashlib.sha256(cases.read_bytes()).hexdigest()
            except OSError as error:
                raise WssegError(
                    f"{cases} cannot be read ({error.strerror}): give a cases file"
                ) from error
            record = complete(out, cases, cases_sha256)
            if record is not None:
                return record
        task = Task(cases=cases, out=out, config=config, resume=resume)
        with launched(task) as fabric:
            return _train(fabric, task, on_step, on_epoch)


def _train(
    fabric: Fabric,
    task: Task,
    on_step: Callable[[StepReport], None] | None,
    on_epoch: Callable[[EpochReport], None] | None,
) -> RunRecord:
    """Train as one process of the run."""
    config = task.config
    table = cases_for(task.cases, config)
    for doubt in table.doubts:
        log.warning("%s", doubt)
    teacher = find_teacher(config, table.classes, fabric.device)
    state = started(task.out, task.cases, table.sha256) if task.resume else None
    if state is None:
        training = TrainingState(choose_facts(table, config))
    else:
        with of_this_run(task.out):
            training = TrainingState.restored(state)
    require_unchanged(training.facts.files, table.cases)
    data = prepare_data(table, config, training.facts)
    training.facts = training.facts.model_copy(update={"growth": data.train.targets.growth})
    if teacher is not None:
        training.facts = with_teacher(training.facts, teacher)
        teach(fabric, teacher, data.train, config)
    half = fabric_precision(config.precision, fabric.device) == "bf16-mixed"
    log.info("training on %s in %s", fabric.device.type, "bf16" if half else "fp32")
    learner = prepare_learner(fabric, data, config, training.facts)
    if state is not None:
        with of_this_run(task.out):
            learner.restore(state)
    first = len(training.history) + 1
    self_trainer = SelfTrainer(data.train, config, task.out, first)
    batches = partial(
        training_batches, data.train, config, rank=fabric.global_rank, world=fabric.world_size
    )
    if not fabric.is_global_zero:
        fit(learner, data, self_trainer, batches, training, None)
        return describe(learner, table, training)
    if state is None:
        training.facts = training.facts.model_copy(update={"files": fingerprints(table.cases)})
        keep_config(config, task.out)
    write_splits(table, training.facts.files, task.out / SPLITS)
    write_recorded(table, task.out / RECORDED)
    run_logger = RunLogger(task.out, first=first, on_step=on_step, on_epoch=on_epoch)
    with closing(run_logger):
        fit(learner, data, self_trainer, batches, training, run_logger)
    remove_pseudo_labels(task.out)
    return finish(learner, data, table, training, task.out, teacher=teacher)


def fit(
    learner: Learner,
    data: Data,
    self_trainer: SelfTrainer,
    stream: Callable[[int], Iterator[Batch]],
    training: TrainingState,
    run_logger: RunLogger | None,
) -> None:
    """Train from the epoch after the last one of `training`, and update `training`.

    self_trainer: replaces pseudo-labels before some epochs. stream: yields this process's batches
    from the given epoch on. run_logger: saves and reports every finished epoch; None in all
    processes but the first.
    """
    epochs, first = learner.plan.config.epochs, len(training.history) + 1
    steps = learner.plan.steps // epochs
    batches = stream(first)
    for epoch in range(first, epochs + 1):
        began = time.perf_counter()
        if self_trainer.due(epoch):
            self_trainer.replace(learner, epoch)
            # Reading processes hold the pseudo-labels as they were.
            batches = stream(epoch)
        learner.module.train()
        sums: Counter[str] = Counter()
        for step in range(steps):
            values = learner.step(next(batches), (epoch - 1) * steps + step)
            sums.update(values)
            if run_logger is not None:
                run_logger.step(StepReport(epoch, epochs, step + 1, steps, values[TOTAL]))
        parts = {name: total / steps for name, total in sums.items()}
        figures = validate(learner, data, epoch)
        training.choice = update(training.choice, epoch, data.rule, figures)
        rate = learner.plan.config.learning_rate * learner.rate(epoch * steps - 1)
        seconds = time.perf_counter() - began
        report = EpochReport(epoch, epochs, parts, figures, rate, seconds, training.choice)
        training.history.append(row(report))
        if run_logger is not None:
            run_logger.epoch(learner, training, report)


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
