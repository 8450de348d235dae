"""What a run leaves behind after its last epoch: its record, tables, pictures and samples."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import wsseg
from wsseg.imaging.definitions import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    RatioDefinition,
    grey_values,
)
from wsseg.imaging.files import atomic
from wsseg.train.calibration import DEFAULT, choose_normalisation, fit_thresholds
from wsseg.train.cases.images import spread
from wsseg.train.cases.schema import CaseTable
from wsseg.train.config import TrainConfig
from wsseg.train.distillation import Teacher, compare, described
from wsseg.train.image_dependence import MOST_CASES, dependence_of
from wsseg.train.learner import TOTAL, Learner
from wsseg.train.metrics import (
    CaseCounts,
    case_iou,
    mark_recall,
    missed,
    relative_ratio_error,
    summarise,
)
from wsseg.train.progress import EPOCH, RATE, SECONDS, VALIDATION, Row, TrainingState, write_metrics
from wsseg.train.run_folder import (
    AVERAGED,
    CURVES,
    EXAMPLES,
    METRICS,
    SAMPLES,
    WEIGHTS,
    Normalisation,
    RunRecord,
    TeacherRecord,
    keep_record,
    read_weights,
    save_samples,
    save_weights,
)
from wsseg.train.validation import (
    PREDICTIONS,
    Data,
    Prediction,
    evaluate,
    predict,
    usual_parts,
    write_predictions,
)

LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "osD^vPX"
OUTLINES = {
    "mark": (YELLOW, "solid"),
    "true mask": (SKY, "solid"),
    "prediction": (VERMILION, "dashed"),
}
"""Colour and style of the outlines of an example."""
FEW_EPOCHS = 30
"""Up to here every epoch gets a marker; beyond, markers hide the line."""
DPI = 110
SAMPLE_COUNT = 8
"""Fewer only where there are fewer cases, more where there are more than 8 classes."""
JUDGED = 256
"""Number of cases, evenly spread over the table, from which examples are chosen and on which a
student is compared with its teacher."""
FEWEST_JUDGED = 6
"""With fewer validation cases, training cases decide whether masks depend on the image."""
PER_KIND = 3
"""Examples of each kind: worst, median, best."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One predicted case, and the kind it stands for: worst, median or best."""

    kind: str
    prediction: Prediction


def draw_curves(history: Sequence[Row], chosen: int, path: Path) -> None:
    """Draw the objective's parts, the validation figures and the learning rate over epochs.

    chosen: the selected epoch, marked by a vertical line. The panel of validation figures is
    left out where there are none.
    """
    named = dict.fromkeys(name for row in history for name in row)
    parts = [name for name in named if not name.startswith(VALIDATION)]
    parts = [name for name in parts if name not in (EPOCH, RATE, SECONDS, TOTAL)]
    figures = [name for name in named if name.startswith(VALIDATION)]
    panels = [("objective (weighted parts)", [TOTAL, *parts]), ("learning rate", [RATE])]
    if figures:
        panels.insert(1, ("validation", figures))
    figure = _figure(8.0, 2.9 * len(panels))
    for number, (title, names) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, number)
        for line, name in enumerate(names):
            points = [(row[EPOCH], row[name]) for row in history if name in row]
            axes.plot(
                *zip(*points, strict=True),
                label=name.removeprefix(VALIDATION).replace("_", " ").replace("iou", "IoU"),
                color=LINES[line % len(LINES)],
                marker=MARKERS[line % len(MARKERS)] if len(history) <= FEW_EPOCHS else None,
                markersize=4,
                linewidth=2 if name == TOTAL else 1.3,
            )
        axes.set_title(title, loc="left", fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
        if len(names) > 1:
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        axes.axvline(chosen, color=BLACK, linestyle=":", linewidth=1)
    axes.set_xlabel(f"epoch (dotted: epoch {chosen}, which is selected)")
    _save(figure, path)


def draw_examples(examples: Sequence[Example], path: Path) -> None:
    """Draw each example twice: the slice with outlines, and the predicted probability.

    Cases are named by their line in the cases file, because file names may tell a patient's.
    """
    from matplotlib.lines import Line2D

    columns = 3
    rows = max(1, -(-len(examples) // columns))
    figure = _figure(4.4 * columns, 2.7 * rows + 0.5)
    for number, example in enumerate(examples):
        place = 2 * columns * (number // columns) + 2 * (number % columns) + 1
        _draw_outlines(figure.add_subplot(rows, 2 * columns, place), example)
        beside = figure.add_subplot(rows, 2 * columns, place + 1)
        highest = example.prediction.probability.numpy().max(0)
        beside.imshow(highest, cmap="cividis", vmin=0, vmax=1)
        counts = example.prediction.counts
        words = [] if counts.true is None else [f"IoU {case_iou(counts):.2f}"]
        for ratio, known in zip(counts.ratio, counts.known, strict=True):
            stated = "" if np.isnan(known) else f" (known {known:.3f})"
            words.append(f"ratio {ratio:.3f}{stated}")
        beside.set_title("\n".join(words), fontsize=8)
        beside.set_axis_off()
    if not examples:
        figure.text(0.5, 0.5, "no case has a mask, a ratio or marks", ha="center")
    figure.legend(
        [Line2D([], [], color=colour, linestyle=style) for colour, style in OUTLINES.values()],
        list(OUTLINES),
        loc="outside upper left",
        ncols=3,
        facecolor="#404040",  # as dark as most slices, so that the colours look alike
        labelcolor="white",
    )
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    """An empty figure, in inches, outside of pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    with atomic(path) as partial:
        figure.savefig(partial, dpi=DPI)


def _draw_outlines(axes: Any, example: Example) -> None:
    native = example.prediction.native
    shown = grey_values(native.image.numpy())
    shown = shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1)
    marked = (native.marks.numpy() > 0) & (native.marks.numpy() < 255)
    _outline(axes, marked, "mark")
    if native.mask is not None:
        for mask in native.mask.numpy():
            _outline(axes, mask, "true mask")
    predicted = example.prediction
    for probability, limit in zip(predicted.probability.numpy(), predicted.thresholds, strict=True):
        _outline(axes, probability >= limit, "prediction")
    axes.set_title(f"{example.kind}: row {example.prediction.counts.row}\n", fontsize=8)
    axes.set_axis_off()


def _outline(axes: Any, mask: NDArray[np.bool_], kind: str) -> None:
    colour, style = OUTLINES[kind]
    if mask.any():
        # A border of background, so that a mask that touches the edge is closed there.
        closed = np.pad(mask.astype(np.float32), 1)
        rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
        axes.contour(columns, rows, closed, [0.5], colors=colour, linestyles=style, linewidths=1.6)


def finish(
    learner: Learner,
    data: Data,
    table: CaseTable,
    training: TrainingState,
    out: Path,
    *,
    teacher: Teacher | None = None,
) -> RunRecord:
    """Write everything but the weights, the record last, from the weights that were kept.

    teacher: compared with the learner on the cases that judge it.
    """
    averaged = out / AVERAGED
    last = {name: t.clone() for name, t in learner.average.module.state_dict().items()}
    read_weights(learner.average.module, averaged if averaged.exists() else out / WEIGHTS)
    normalisation = choose_normalisation(learner, data, training, last)
    if normalisation.kept == "anew":
        # The averaged weights stay until the record is written: a killed end begins again.
        if not averaged.exists():
            with atomic(averaged) as partial:
                shutil.copyfile(out / WEIGHTS, partial)
        save_weights(learner.average.module, out / WEIGHTS)
    thresholds = fit_thresholds(learner, data.train)
    record = describe(learner, table, training, thresholds, normalisation)
    write_metrics(training.history, out / METRICS)
    draw_curves(training.history, record.chosen_epoch, out / CURVES)

    predictor, device = learner.predictor(), learner.fabric.device
    cases = data.val if len(data.val) else data.train
    judged = spread(range(len(cases)), JUDGED)
    counts = evaluate(predictor, cases, judged, data.denominators, device, thresholds)
    warn_of_missed(counts, record)
    examples = [
        Example(
            kind,
            predict(predictor, cases, judged[at], data.denominators, device, thresholds),
        )
        for kind, at in choose_examples(counts)
    ]
    draw_examples(examples, out / EXAMPLES)
    samples = [judged[at] for at in choose_samples(counts)]
    save_samples([cases.native(index).image.numpy() for index in samples], out / SAMPLES)
    if teacher is not None:
        comparison = compare(
            predictor, teacher.predictor, cases, judged, (thresholds, teacher.thresholds)
        )
        log.info("%s", described(teacher.run, comparison))
        taught_by = TeacherRecord(
            run=teacher.run,
            network=teacher.network.name,
            weights_sha256=teacher.sha256,
            comparison=comparison,
        )
        record = record.model_copy(update={"teacher": taught_by})

    counts = [
        counts
        for part in (data.val, data.test)
        for counts in evaluate(
            predictor, part, range(len(part)), data.denominators, device, thresholds
        )
    ]
    write_predictions(counts, table, data.denominators, out / PREDICTIONS)
    metrics = summarise(counts[: len(data.val)]) if len(data.val) else {}
    shown = data.val if len(data.val) >= FEWEST_JUDGED else data.train
    asked = spread(range(len(shown)), MOST_CASES)
    dependence = dependence_of(predictor, shown, asked, thresholds, device)
    if dependence.warning:
        log.warning(
            "%s: check the pseudo-labels with wsseg cases check --picture, and train with more "
            "steps, more marks or another preset",
            dependence.warning,
        )
    parts = usual_parts(predictor, shown, asked, thresholds, device)
    record = record.model_copy(
        update={"metrics": metrics, "dependence": dependence, "parts": parts}
    )
    keep_record(record, out)
    averaged.unlink(missing_ok=True)
    return record


def describe(
    learner: Learner,
    table: CaseTable,
    training: TrainingState,
    thresholds: tuple[float, ...] = (),
    normalisation: Normalisation | None = None,
) -> RunRecord:
    """Return the record of a run after its last epoch, with the metrics of the chosen epoch.

    Those metrics are at a threshold of 0.5; the first process replaces them by `finish`.
    """
    config, preprocess, choice = learner.plan.config, learner.preprocess, training.choice
    if choice is None:
        raise AssertionError("a run has at least one epoch")
    chosen = training.history[choice.epoch - 1]
    return RunRecord(
        classes=table.classes,
        ratios=reported_ratios(config, table.classes),
        labels=config.labels,
        channels=1 if preprocess.channels == 1 else 3,
        window=preprocess.window,
        size=preprocess.size,
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
        seen=training.facts.seen,
        codes=config.codes,
        wsseg_version=wsseg.__version__,
    )


def reported_ratios(config: TrainConfig, classes: tuple[str, ...]) -> tuple[RatioDefinition, ...]:
    """Return the ratios that the model reports: the settings', else each class over the image."""
    return config.ratios or tuple(RatioDefinition(name=name, numerator=name) for name in classes)


def choose_samples(counts: Sequence[CaseCounts]) -> list[int]:
    """Return the indices of at most SAMPLE_COUNT cases on which exports are judged.

    Half of them show a class, equally many for each class, so that no engine is published that
    loses a rare one. The rest are evenly spread.
    """
    classes = len(counts[0].predicted)
    chosen: set[int] = set()
    for class_index in range(classes):
        showing = [at for at, case in enumerate(counts) if case.predicted[class_index] > 0]
        chosen.update(spread(showing, max(1, SAMPLE_COUNT // (2 * classes))))
    others = [at for at in range(len(counts)) if at not in chosen]
    return sorted(chosen.union(spread(others, max(0, SAMPLE_COUNT - len(chosen)))))


def agreement(case: CaseCounts) -> float:
    """Return how good a prediction is, 0..1, by the best evidence: mask, then ratio, then marks.

    NaN for a case without any evidence.
    """
    known = (case_iou(case), 1 - relative_ratio_error(case), mark_recall(case))
    return next((value for value in known if not np.isnan(value)), float("nan"))


def choose_examples(counts: list[CaseCounts]) -> list[tuple[str, int]]:
    """Return kind (worst, median, best) and index of up to three cases of each kind, none twice."""
    scores = [agreement(case) for case in counts]
    ranked = sorted(
        (at for at, value in enumerate(scores) if value == value), key=scores.__getitem__
    )
    if len(ranked) <= 3 * PER_KIND:
        low = (len(ranked) + 1) // 3
        parts = ranked[:low], ranked[low : len(ranked) - low], ranked[len(ranked) - low :]
    else:
        middle = (len(ranked) - PER_KIND) // 2
        parts = ranked[:PER_KIND], ranked[middle : middle + PER_KIND], ranked[-PER_KIND:]
    kinds = zip(("worst", "median", "best"), parts, strict=True)
    return [(kind, at) for kind, part in kinds for at in part[:PER_KIND]]


def warn_of_missed(counts: Sequence[CaseCounts], record: RunRecord) -> None:
    """Log the classes that the network finds in no case; counts: at the record's thresholds."""
    for class_index, cases in missed(counts):
        log.warning(
            "the network finds no pixel of %s in any of the %d images that show it (at a "
            "probability of %g): train with more steps (--epochs, a smaller --batch) or a higher "
            "--learning-rate, and check the pseudo-labels with wsseg cases check --picture",
            record.classes[class_index],
            cases,
            record.thresholds[class_index],
        )
