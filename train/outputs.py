"""What a run leaves behind when its last epoch is done: pictures, samples and its record."""

import logging
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from wsseg.imaging.atomic import atomic
from wsseg.imaging.definitions import Dependence, RatioDefinition, Seen
from wsseg.train.calibrate import DEFAULT, fit_thresholds
from wsseg.train.case import CaseTable
from wsseg.train.checkpoint import read_weights, save_samples, save_weights
from wsseg.train.config import TrainConfig
from wsseg.train.dataset import CaseDataset
from wsseg.train.dependence import MOST_CASES, dependence_of
from wsseg.train.evaluate import evaluate, predict
from wsseg.train.journal import Course
from wsseg.train.judged import PREDICTIONS, write_predictions
from wsseg.train.learner import Learner
from wsseg.train.logs import VALIDATION, write_metrics
from wsseg.train.loop import Data
from wsseg.train.metrics import (
    CaseCounts,
    case_iou,
    mark_recall,
    missed,
    relative_ratio_error,
    summarise,
)
from wsseg.train.normalisation import choose_normalisation
from wsseg.train.plots import Example, draw_curves, draw_examples
from wsseg.train.predictor import Predictor
from wsseg.train.record import SAMPLES, WEIGHTS, Normalisation, RunRecord, TeacherRecord
from wsseg.train.run_folder import AVERAGED, CURVES, EXAMPLES, METRICS, keep_record
from wsseg.train.teacher import Teacher
from wsseg.train.versus import compare, described

log = logging.getLogger(__name__)

SAMPLE_COUNT = 8
"""Fewer only where there are fewer cases, more where there are more than 8 classes."""
JUDGED = 256
"""Cases, evenly spread over the table, among which examples are chosen, and by which a student is
compared with its teacher."""
FEWEST_JUDGED = 6
"""Validation cases, below which training cases tell whether masks depend on the image."""
PER_KIND = 3


def finish(
    learner: Learner,
    data: Data,
    table: CaseTable,
    course: Course,
    out: Path,
    *,
    teacher: Teacher | None = None,
) -> RunRecord:
    """Write everything but the weights, the record last, from the weights that were kept.

    teacher: that the learner is compared with on the cases that it is judged by.
    """
    source = out / AVERAGED if (out / AVERAGED).exists() else out / WEIGHTS
    last = {name: t.clone() for name, t in learner.average.module.state_dict().items()}
    read_weights(learner.average.module, source)
    normalisation = choose_normalisation(learner, data, course, last)
    if normalisation.kept == "anew":
        _replace_weights(learner, out)
    thresholds = fit_thresholds(learner, data.train)
    record = describe(learner, table, course, thresholds, normalisation)
    shown = data.val if len(data.val) else data.train
    write_metrics(course.history, out / METRICS)
    draw_curves(course.history, record.chosen_epoch, out / CURVES)
    counts = _counts(learner, data, shown, thresholds)
    warn_of_missed(counts, record)
    draw_examples(_examples(learner, data, shown, counts, thresholds), out / EXAMPLES)
    places = spread(len(shown), JUDGED)
    kept = [places[position] for position in choose_samples(counts)]
    save_samples([shown.native(place).image.numpy() for place in kept], out / SAMPLES)
    if teacher is not None:
        beside = _beside(learner.predictor(), teacher, shown, thresholds)
        record = record.model_copy(update={"teacher": beside})
    counted = _judged(learner, data, record)
    write_predictions(counted, table, data.denominators, out / PREDICTIONS)
    metrics = summarise(counted[: len(data.val)]) if len(data.val) else {}
    dependence = _dependence(learner, data, thresholds)
    record = record.model_copy(update={"metrics": metrics, "dependence": dependence})
    keep_record(record, out)
    (out / AVERAGED).unlink(missing_ok=True)
    return record


def _judged(learner: Learner, data: Data, record: RunRecord) -> list[CaseCounts]:
    """All validation cases, then all test cases, at the thresholds of the model."""
    counts = []
    for part in (data.val, data.test):
        counts += evaluate(
            learner.predictor(),
            part,
            range(len(part)),
            data.denominators,
            learner.fabric.device,
            record.thresholds,
        )
    return counts


def _replace_weights(learner: Learner, out: Path) -> None:
    """Keep the weights as they were until the record is there: a killed end begins again."""
    if not (out / AVERAGED).exists():
        with atomic(out / AVERAGED) as partial:
            shutil.copyfile(out / WEIGHTS, partial)
    save_weights(learner.average.module, out / WEIGHTS)


def _dependence(learner: Learner, data: Data, thresholds: tuple[float, ...]) -> Dependence:
    """Whether masks depend on the image; said where they do not."""
    shown = data.val if len(data.val) >= FEWEST_JUDGED else data.train
    places = spread(len(shown), MOST_CASES)
    device: torch.device = learner.fabric.device
    found = dependence_of(learner.predictor(), shown, places, thresholds, device)
    if found.warning:
        log.warning(
            "%s: see wsseg cases check --picture for what it was taught, and train it with more "
            "steps, more marks or another preset",
            found.warning,
        )
    return found


def describe(
    learner: Learner,
    table: CaseTable,
    course: Course,
    thresholds: tuple[float, ...] = (),
    normalisation: Normalisation | None = None,
) -> RunRecord:
    """The record of a run whose last epoch is done; only the first process judges its network.

    metrics: of the chosen epoch, at a threshold of 0.5.
    """
    config, front, choice = learner.plan.config, learner.front, course.choice
    if choice is None:
        raise AssertionError("a run has at least one epoch")
    chosen, seen = course.history[choice.epoch - 1], course.given.get("seen")
    return RunRecord(
        classes=table.classes,
        ratios=reported_ratios(config, table.classes),
        labels=config.labels,
        channels=1 if front.channels == 1 else 3,
        window=front.window,
        size=front.size,
        network=config.network,
        preset=config.recipe,
        initial_weights=Path(config.weights).name,
        cases=len(table.cases),
        cases_sha256=table.sha256,
        epochs=config.epochs,
        chosen_epoch=normalisation.epoch if normalisation else choice.epoch,
        chosen_by=choice.rule,
        seed=config.seed,
        metrics={
            name.removeprefix(VALIDATION): figure
            for name, figure in chosen.items()
            if name.startswith(VALIDATION)
        },
        thresholds=thresholds or (DEFAULT,) * len(table.classes),
        normalisation=normalisation,
        seen=None if seen is None else Seen.model_validate(seen),
        wsseg_version=version("wsseg"),
    )


def _beside(
    student: Predictor, teacher: Teacher, shown: CaseDataset, thresholds: tuple[float, ...]
) -> TeacherRecord:
    compared = compare(
        student,
        teacher.predictor,
        shown,
        spread(len(shown), JUDGED),
        (thresholds, teacher.thresholds),
    )
    log.info("%s", described(teacher.run, compared))
    return TeacherRecord(
        run=teacher.run,
        network=teacher.network.name,
        weights_sha256=teacher.sha256,
        comparison=compared,
    )


def reported_ratios(config: TrainConfig, classes: tuple[str, ...]) -> tuple[RatioDefinition, ...]:
    """The ratios that the model reports: those of the settings, or each class over the image."""
    return config.ratios or tuple(RatioDefinition(name=name, numerator=name) for name in classes)


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` places of 0..count-1, evenly spread, first and last among them."""
    places: list[int] = np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()
    return places


def choose_samples(counts: Sequence[CaseCounts]) -> list[int]:
    """Positions of at most SAMPLE_COUNT cases that exports are proved on.

    Half of them show a class, as many for each, so that no engine is published that loses a rare
    one; the rest are evenly spread.
    """
    classes = len(counts[0].predicted)
    chosen: set[int] = set()
    for place in range(classes):
        showing = [number for number, case in enumerate(counts) if case.predicted[place] > 0]
        wanted = max(1, SAMPLE_COUNT // (2 * classes))
        chosen.update(showing[at] for at in spread(len(showing), wanted))
    others = [number for number in range(len(counts)) if number not in chosen]
    free = max(0, SAMPLE_COUNT - len(chosen))
    return sorted(chosen.union(others[at] for at in spread(len(others), free)))


def agreement(case: CaseCounts) -> float:
    """0..1, how good a prediction is by the best evidence there is: mask, then ratio, then marks.

    NaN for a case without any.
    """
    known = (case_iou(case), 1 - relative_ratio_error(case), mark_recall(case))
    return next((value for value in known if not np.isnan(value)), float("nan"))


def choose_examples(counts: list[CaseCounts]) -> list[tuple[str, int]]:
    """Kind (worst, median, best) and place of up to three cases each, every case at most once."""
    ranked = sorted(
        (place for place in range(len(counts)) if not np.isnan(agreement(counts[place]))),
        key=lambda place: agreement(counts[place]),
    )
    if len(ranked) <= 3 * PER_KIND:
        low = (len(ranked) + 1) // 3
        parts = ranked[:low], ranked[low : len(ranked) - low], ranked[len(ranked) - low :]
    else:
        middle = (len(ranked) - PER_KIND) // 2
        parts = ranked[:PER_KIND], ranked[middle : middle + PER_KIND], ranked[-PER_KIND:]
    kinds = zip(("worst", "median", "best"), parts, strict=True)
    return [(kind, place) for kind, part in kinds for place in part[:PER_KIND]]


def warn_of_missed(counts: Sequence[CaseCounts], record: RunRecord) -> None:
    """Say which classes the network finds nowhere; counts: at the record's thresholds."""
    for place, cases in missed(counts):
        log.warning(
            "the network finds no pixel of %s in any of %d images that have some (at a probability "
            "of %g): train it with more steps (--epochs, a smaller --batch) or a higher "
            "--learning-rate, and see wsseg cases check --picture for what it was taught",
            record.classes[place],
            cases,
            record.thresholds[place],
        )


def _counts(
    learner: Learner, data: Data, shown: CaseDataset, thresholds: tuple[float, ...]
) -> list[CaseCounts]:
    places = spread(len(shown), JUDGED)
    device: torch.device = learner.fabric.device
    return evaluate(learner.predictor(), shown, places, data.denominators, device, thresholds)


def _examples(
    learner: Learner,
    data: Data,
    shown: CaseDataset,
    counts: list[CaseCounts],
    thresholds: tuple[float, ...],
) -> list[Example]:
    """counts: of the cases at `spread(len(shown), JUDGED)`."""
    predictor = learner.predictor()
    device: torch.device = learner.fabric.device
    places = spread(len(shown), JUDGED)
    return [
        Example(kind, predict(predictor, shown, places[at], data.denominators, device, thresholds))
        for kind, at in choose_examples(counts)
    ]
