"""Validation: predictions against what is known, checkpoint selection, and tables of both."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsseg.imaging.definitions import Denominator, PixelCounts, area_ratios, iou, known
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic
from wsseg.imaging.parts import count_parts
from wsseg.train.cases.files import Prints, image_sha256
from wsseg.train.cases.schema import Case, CaseTable
from wsseg.train.config import TrainConfig
from wsseg.train.data.dataset import CaseDataset, Native
from wsseg.train.metrics import CaseCounts, mark_masks, pixels

Rule = Literal["mask", "weak", "last"]
"""The rule of checkpoint selection. `mask`: the highest mean IoU on validation masks. `weak`: the
highest `weak_score`, without masks. `last`: the last epoch, whose averaged weights need no
validation."""

USUAL = 0.95
"""Share of the masks that have a usual number of parts."""
PARTS_CASES = 10
"""Fewer masks do not show what number of parts is usual."""
SPLITS = "splits.csv"
IMAGE_SHA256 = "image_sha256"
"""Column of `SPLITS` by which an image is recognised, wherever it lies."""
PREDICTIONS = "predictions.csv"
DIGITS = 6
"""Significant digits of figures in tables."""
THRESHOLD = 0.5


@dataclass(frozen=True)
class Data:
    """Training, validation and test cases, and the rule of checkpoint selection."""

    train: CaseDataset
    val: CaseDataset
    test: CaseDataset
    denominators: tuple[Denominator, ...]
    rule: Rule


Predict = Callable[[Tensor], Tensor]
"""Raw pixels (1, c, row, column) to probabilities (1, k, row, column), as a `Predictor` does."""


@dataclass(frozen=True)
class Choice:
    """The epoch (from 1) that is kept so far, the rule, and the epoch's score (None for `last`)."""

    epoch: int
    rule: Rule
    score: float | None = None


def choose_rule(
    wanted: Literal["auto", "mask", "weak", "last"], *, cases: int, masks: int, weak: int
) -> Rule:
    """Return the rule to use.

    cases, masks, weak: the number of validation cases, of those with a mask, and of those with a
    weak label. `auto` takes the strongest evidence. Raises WssegError where the wanted evidence is
    in no validation case.
    """
    have = {"mask": masks > 0, "weak": weak > 0, "last": True}
    if wanted == "auto":
        return "mask" if have["mask"] else "weak" if have["weak"] else "last"
    if not have[wanted]:
        need = "a mask" if wanted == "mask" else "a ratio or marks"
        raise WssegError(
            f"select = {wanted}: none of the {cases} validation cases has {need}; "
            "give some rows of the cases file split = val, or choose select = auto"
        )
    return wanted


def weak_score(figures: Mapping[str, float]) -> float:
    """Return how well predictions agree with ratios and marks, from -1 to 1 (full agreement).

    Mean mark recall minus mean relative ratio error, both in 0..1 (see `metrics.summarise`). Recall
    rises when everything is predicted, and the ratio error then rises with it, so neither the full
    nor the empty mask scores well. Evidence that no case carries counts 0.
    """
    return figures.get("mark_recall", 0.0) - figures.get("relative_ratio_error", 0.0)


def score(rule: Rule, figures: Mapping[str, float]) -> float | None:
    """Return the score to maximise; None for `last` and for an epoch that was not validated."""
    if rule == "last" or not figures:
        return None
    return figures["iou"] if rule == "mask" else weak_score(figures)


def update(best: Choice | None, epoch: int, rule: Rule, figures: Mapping[str, float]) -> Choice:
    """Return the choice after `epoch`: the best score, the later epoch on a tie.

    An epoch without validation replaces only an epoch without validation.
    """
    value = score(rule, figures)
    if best is None or best.score is None:
        return Choice(epoch, rule, value)
    if value is None or value < best.score:
        return best
    return Choice(epoch, rule, value)


@dataclass(frozen=True)
class Prediction:
    """One case at its own resolution: what was read, what is predicted, and their agreement.

    thresholds: for each class the probability at or above which a pixel belongs to it.
    """

    native: Native
    probability: Float[Tensor, "k rows columns"]
    counts: CaseCounts
    thresholds: tuple[float, ...]


@torch.no_grad()
def predict(
    predictor: Predict,
    cases: CaseDataset,
    position: int,
    denominators: tuple[Denominator, ...],
    device: torch.device,
    thresholds: tuple[float, ...] | None = None,
) -> Prediction:
    """Predict the case at `position`; `predictor` must be on `device` and in `eval()`.

    thresholds: as in `count`.
    """
    native = cases.native(position)
    probability = predictor(native.image[None].to(device))[0].cpu()
    limits = thresholds or (THRESHOLD,) * len(probability)
    counts = count(cases.cases[position], native, probability, denominators, limits)
    return Prediction(native, probability, counts, limits)


def count(
    case: Case,
    native: Native,
    probability: Float[Tensor, "k rows columns"],
    denominators: tuple[Denominator, ...],
    thresholds: tuple[float, ...] | None = None,
) -> CaseCounts:
    """Count the pixels of a prediction.

    thresholds: for each class the probability at or above which a pixel belongs to it; by default
    0.5, the threshold of checkpoint selection.
    """
    limits = thresholds or (THRESHOLD,) * len(probability)
    predicted = probability >= torch.tensor(limits)[:, None, None]
    marked = mark_masks(native.marks, len(predicted))
    return CaseCounts(
        row=case.row,
        predicted=pixels(predicted),
        marked=pixels(marked),
        found=pixels(marked & predicted),
        ratio=area_ratios(PixelCounts.of_masks(predicted.numpy()), denominators),
        known=np.array([np.nan if ratio is None else ratio for ratio in case.ratios]),
        true=None if native.mask is None else pixels(native.mask),
        overlap=None if native.mask is None else pixels(native.mask & predicted),
    )


def evaluate(
    predictor: Predict,
    cases: CaseDataset,
    positions: Iterable[int],
    denominators: tuple[Denominator, ...],
    device: torch.device,
    thresholds: tuple[float, ...] | None = None,
) -> list[CaseCounts]:
    """Count the pixels of the cases at these positions, in order; thresholds as in `count`."""
    return [
        predict(predictor, cases, position, denominators, device, thresholds).counts
        for position in positions
    ]


def usual_parts(
    predictor: Predict,
    cases: CaseDataset,
    positions: Sequence[int],
    thresholds: tuple[float, ...],
    device: torch.device,
) -> dict[str, int]:
    """Return, by class, how many connected parts 19 of 20 of the masks at these positions have.

    Only masks with a pixel count, and a class with fewer than PARTS_CASES of them is left out.
    """
    limits = torch.tensor(thresholds)[:, None, None]
    parts = []
    for position in positions:
        probability = predict(predictor, cases, position, cases.denominators, device).probability
        parts.append([count_parts(mask) for mask in (probability >= limits).numpy()])
    usual = {}
    for name, counts in zip(cases.classes, np.array(parts).reshape(-1, len(limits)).T, strict=True):
        if np.count_nonzero(counts) >= PARTS_CASES:
            usual[name] = int(np.quantile(counts[counts > 0], USUAL, method="higher"))
    return usual


def validation_interval(validated: int, trained: int) -> int:
    """Return the number of epochs from one validation to the next.

    It is 1 unless a validation would predict more than twice the cases that an epoch trains on: a
    case costs about a third of what it costs in training.
    """
    return max(1, round(validated / (2 * trained)))


def is_due(epoch: int, interval: int, config: TrainConfig) -> bool:
    """Return whether `epoch` (from 1) is validated: every `interval`-th one and the last one."""
    return epoch % interval == 0 or epoch == config.epochs


def weakly_labelled(cases: Sequence[Case]) -> int:
    """Return the number of cases with a ratio or a mark."""
    return sum(
        case.marks is not None or bool(case.points) or any(r is not None for r in case.ratios)
        for case in cases
    )


@dataclass(frozen=True)
class JudgedCase:
    """A case by its line in the table (row); image and group are as the table writes them."""

    row: int
    image: str
    slice: str
    group: str
    split: str
    fold: int | None


@dataclass(frozen=True)
class JudgedClass:
    """A class of a case, as known and as predicted at the model's threshold; None where unknown.

    known_ratio: the table's ratio. mask_ratio, iou: from the case's mask. All ratios are by the
    definition of the class's ratio.
    """

    class_name: str
    known_ratio: float | None
    mask_ratio: float | None
    predicted_ratio: float | None
    iou: float | None


def write_splits(table: CaseTable, prints: Prints, path: Path) -> None:
    """Write one line a case: its split, the fold that it judges, and the sha256 of its image.

    prints: of the files that the run uses; other images have none.
    """
    rows = ((*astuple(case), image_sha256(prints, case.row)) for case in _cases(table).values())
    _write(path, [*(field.name for field in fields(JudgedCase)), IMAGE_SHA256], rows)


def write_predictions(
    counts: Sequence[CaseCounts],
    table: CaseTable,
    denominators: tuple[Denominator, ...],
    path: Path,
) -> None:
    """Write one line for each evaluated case and class; counts: at the model's thresholds."""
    named, cases = _cases(table), {case.row: case for case in table.cases}
    rows = (
        (*astuple(named[case.row]), *astuple(judged))
        for case in sorted(counts, key=lambda case: case.row)
        for judged in judge(case, cases[case.row], table.classes, denominators)
    )
    _write(path, [field.name for kind in (JudgedCase, JudgedClass) for field in fields(kind)], rows)


def judge(
    counts: CaseCounts,
    case: Case,
    classes: Sequence[str],
    denominators: tuple[Denominator, ...],
) -> list[JudgedClass]:
    """Return what is known of each class of a case beside what is predicted."""
    drawn: list[float | None] = [None] * len(classes)
    if case.contents.drawn is not None:
        areas = np.array(case.contents.drawn)
        pixels = PixelCounts(areas, areas.sum(), math.prod(case.contents.shape))
        drawn = [known(ratio) for ratio in area_ratios(pixels, denominators)]
    overlaps = [None] * len(classes)
    if counts.true is not None and counts.overlap is not None:
        overlaps = iou(counts.overlap, counts.predicted, counts.true).tolist()
    return [
        JudgedClass(name, case.ratios[index], drawn[index], known(counts.ratio[index]), overlap)
        for index, (name, overlap) in enumerate(zip(classes, overlaps, strict=True))
    ]


def _cases(table: CaseTable) -> dict[int, JudgedCase]:
    """Return the cases by their line."""
    cells = {row.line: row.cells for row in table.text.rows}
    return {
        case.row: JudgedCase(
            case.row,
            cells[case.row].get("image", ""),
            cells[case.row].get("slice", ""),
            case.group,
            case.split,
            case.fold or None,
        )
        for case in table.cases
    }


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(
                [f"{value:.{DIGITS}g}" if isinstance(value, float) else value for value in row]
            )
