"""Which rows judge a network, and what it makes of each: splits.csv and predictions.csv."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from wsseg.imaging.atomic import atomic
from wsseg.imaging.definitions import Denominator, PixelCounts, area_ratios, iou, known
from wsseg.train.case import Case, CaseTable
from wsseg.train.metrics import CaseCounts

SPLITS = "splits.csv"
PREDICTIONS = "predictions.csv"
DIGITS = 6
"""Significant digits of figures in tables."""


@dataclass(frozen=True)
class JudgedCase:
    """Which case: row is its line of the table, image and group as the table writes them."""

    row: int
    image: str
    slice: str
    group: str
    split: str
    fold: int | None


@dataclass(frozen=True)
class JudgedClass:
    """A class of a case, as known and as found at the model's threshold; None where unknown.

    known_ratio: of the table. mask_ratio, iou: of its mask. All ratios by the class's definition.
    """

    class_name: str
    known_ratio: float | None
    mask_ratio: float | None
    predicted_ratio: float | None
    iou: float | None


def write_splits(table: CaseTable, path: Path) -> None:
    """Write one line a case: which split it is in, and in which fold it judges."""
    _write(path, [field.name for field in fields(JudgedCase)], map(astuple, _cases(table).values()))


def write_predictions(
    counts: Sequence[CaseCounts],
    table: CaseTable,
    denominators: tuple[Denominator, ...],
    path: Path,
) -> None:
    """Write one line for each case that was judged and each class.

    counts: by the model's own thresholds.
    """
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
    """What is known of each class of a case beside what was found."""
    drawn: list[float | None] = [None] * len(classes)
    if case.contents.drawn is not None:
        areas = np.array(case.contents.drawn)
        pixels = PixelCounts(areas, areas.sum(), math.prod(case.contents.shape))
        drawn = [known(ratio) for ratio in area_ratios(pixels, denominators)]
    overlaps = [None] * len(classes)
    if counts.true is not None and counts.overlap is not None:
        overlaps = iou(counts.overlap, counts.predicted, counts.true).tolist()
    return [
        JudgedClass(name, case.ratios[place], drawn[place], known(counts.ratio[place]), overlap)
        for place, (name, overlap) in enumerate(zip(classes, overlaps, strict=True))
    ]


def _cases(table: CaseTable) -> dict[int, JudgedCase]:
    """The cases by their line."""
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
            writer.writerow([_text(value) for value in row])


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
