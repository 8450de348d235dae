"""What a run leaves behind when its last epoch is done: pictures, samples and its record."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import wsseg
from wsseg.imaging.definitions import Dependence, RatioDefinition, Seen
from wsseg.imaging.display import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    grey_values,
)
from wsseg.imaging.files import atomic
from wsseg.train.calibration import DEFAULT, choose_normalisation, fit_thresholds
from wsseg.train.cases.schema import CaseTable
from wsseg.train.config import TrainConfig
from wsseg.train.data.dataset import CaseDataset
from wsseg.train.distillation import Teacher, compare, described
from wsseg.train.image_dependence import MOST_CASES, dependence_of
from wsseg.train.learner import TOTAL, Learner
from wsseg.train.loop import Data
from wsseg.train.metrics import (
    CaseCounts,
    case_iou,
    mark_recall,
    missed,
    relative_ratio_error,
    summarise,
)
from wsseg.train.networks import Predictor
from wsseg.train.progress import EPOCH, RATE, SECONDS, VALIDATION, Course, Row, write_metrics
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
from wsseg.train.validation import PREDICTIONS, Prediction, evaluate, predict, write_predictions

# Pictures of a run: its curves, and where its predictions succeed and fail.

LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "osD^vPX"
FEW_EPOCHS = 30
"""Up to here every epoch gets a marker; beyond, markers hide the line."""
DPI = 110


@dataclass(frozen=True)
class Example:
    """One predicted case, and the kind it stands for: worst, median or best."""

    kind: str
    prediction: Prediction


def draw_curves(history: Sequence[Row], chosen: int, path: Path) -> None:
    """Draw the objective's parts, the validation figures and the learning rate over epochs.

    chosen: the epoch that is kept, marked by a vertical line. The panel of validation figures is
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
        _draw_lines(axes, history, names, title)
        axes.axvline(chosen, color=BLACK, linestyle=":", linewidth=1)
    axes.set_xlabel(f"epoch (dotted: epoch {chosen}, which is kept)")
    _save(figure, path)


def draw_examples(examples: Sequence[Example], path: Path) -> None:
    """Draw each example twice: the slice with outlines, and the predicted probability.

    Cases are named by their line in the cases file, because file names may tell a patient's.
    """
    columns = 3
    rows = max(1, -(-len(examples) // columns))
    figure = _figure(4.4 * columns, 2.7 * rows + 0.5)
    for number, example in enumerate(examples):
        place = 2 * columns * (number // columns) + 2 * (number % columns) + 1
        _draw_outlines(figure.add_subplot(rows, 2 * columns, place), example)
        _draw_probability(figure.add_subplot(rows, 2 * columns, place + 1), example)
    if not examples:
        figure.text(0.5, 0.5, "no case has a mask, a ratio or marks", ha="center")
    _add_key(figure)
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


def _draw_lines(axes: Any, history: Sequence[Row], names: Sequence[str], title: str) -> None:
    for place, name in enumerate(names):
        points = [(row[EPOCH], row[name]) for row in history if name in row]
        axes.plot(
            *zip(*points, strict=True),
            label=name.removeprefix(VALIDATION).replace("_", " ").replace("iou", "IoU"),
            color=LINES[place % len(LINES)],
            marker=MARKERS[place % len(MARKERS)] if len(history) <= FEW_EPOCHS else None,
            markersize=4,
            linewidth=2 if name == TOTAL else 1.3,
        )
    axes.set_title(title, loc="left", fontsize=10)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)
    if len(names) > 1:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _draw_outlines(axes: Any, example: Example) -> None:
    native = example.prediction.native
    shown = grey_values(native.image.numpy())
    shown = shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1)
    marked = (native.marks.numpy() > 0) & (native.marks.numpy() < 255)
    _outline(axes, marked, YELLOW, "solid")
    if native.mask is not None:
        for mask in native.mask.numpy():
            _outline(axes, mask, SKY, "solid")
    predicted = example.prediction
    for probability, limit in zip(predicted.probability.numpy(), predicted.thresholds, strict=True):
        _outline(axes, probability >= limit, VERMILION, "dashed")
    axes.set_title(f"{example.kind}: row {example.prediction.counts.row}\n", fontsize=8)
    axes.set_axis_off()


def _draw_probability(axes: Any, example: Example) -> None:
    highest = example.prediction.probability.numpy().max(0)
    axes.imshow(highest, cmap="cividis", vmin=0, vmax=1)
    axes.set_title(_verdict(example.prediction.counts), fontsize=8)
    axes.set_axis_off()


def _outline(axes: Any, mask: NDArray[np.bool_], colour: str, style: str) -> None:
    if mask.any():
        # A border of background, so that a mask that touches the edge is closed there.
        closed = np.pad(mask.astype(np.float32), 1)
        rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
        axes.contour(columns, rows, closed, [0.5], colors=colour, linestyles=style, linewidths=1.6)


def _verdict(counts: CaseCounts) -> str:
    words = [] if counts.true is None else [f"IoU {case_iou(counts):.2f}"]
    for found, known in zip(counts.ratio, counts.known, strict=True):
        words.append(f"ratio {found:.3f}" + ("" if np.isnan(known) else f" (known {known:.3f})"))
    return "\n".join(words)


def _add_key(figure: Any) -> None:
    from matplotlib.lines import Line2D

    kinds = (
        ("mark", YELLOW, "solid"),
        ("true mask", SKY, "solid"),
        ("prediction", VERMILION, "dashed"),
    )
    lines = [Line2D([], [], color=colour, linestyle=style) for _, colour, style in kinds]
    figure.legend(
        lines,
        [name for name, _, _ in kinds],
        loc="outside upper left",
        ncols=3,
        facecolor="#404040",  # as dark as most slices, so that the colours look alike
        labelcolor="white",
    )


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
        wsseg_version=wsseg.__version__,
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
