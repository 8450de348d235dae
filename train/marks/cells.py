"""Cells of a table that tell of a region: ratios, boxes, extreme points and moments."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wsseg.imaging.definitions import PixelCounts, area_ratios
from wsseg.imaging.file_names import named_file
from wsseg.imaging.table import TextTable
from wsseg.train.case import CaseTable
from wsseg.train.case_columns import DEFAULT_CLASS, read_columns
from wsseg.train.marks.chance import generator, noisy_ratio
from wsseg.train.marks.measures import box_of, extremes_of, moments_of
from wsseg.train.marks.options import Kind
from wsseg.train.marks.paint import Labels
from wsseg.train.marks.region import Mask

PATH_COLUMNS = ("image", "marks", "mask")
DECIMALS = 3
Cells = dict[str, str]
Measure = Callable[[Mask], Sequence[object]]

MEASURES: dict[Kind, tuple[tuple[str, ...], Measure]] = {
    "box": (("box",), lambda region: [box_of(region)]),
    "extremes": (("extremes",), lambda region: [extremes_of(region)]),
    "moments": (
        ("centroid", "spread"),
        lambda region: np.round(moments_of(region), DECIMALS).tolist(),
    ),
}
"""The columns of each kind that is written, and what stands in them, one value a column."""


def columns_of(name: str, text: TextTable, table: CaseTable) -> tuple[str, ...]:
    """Each class's column of that name: the one that the table has, or what it would be called."""
    columns = read_columns(text.header, table.classes)[0].of(name)
    if table.classes == (DEFAULT_CLASS,) and columns[0] not in text.header:
        return (name,)
    return columns


def measured_cells(columns: Sequence[Sequence[str]], labels: Labels, kind: Kind) -> Cells:
    """What `kind` writes of each class's region; empty where a class has no pixel.

    columns: for each of the kind's columns, its name for every class.
    """
    _, measure = MEASURES[kind]
    cells = {name: "" for names in columns for name in names}
    for place in range(len(columns[0])):
        region = labels == place + 1
        if region.any():
            for names, value in zip(columns, measure(region), strict=True):
                cells[names[place]] = json.dumps(value)
    return cells


def ratio_cells(
    columns: Sequence[str], cells: Cells, labels: Labels, noise: float, place: tuple[int, int]
) -> Cells:
    """A ratio for each class, which errs by up to `noise` percent. place: the seed and the row.

    A ratio that the table states stays, even where it says that it is unknown.
    """
    seed, row = place
    counts = PixelCounts.of_labels(labels, len(columns))
    shown = area_ratios(counts, ["image"] * len(columns)).tolist()
    filled = {}
    for number, (column, ratio) in enumerate(zip(columns, shown, strict=True), 1):
        text = cells.get(column, str(ratio))
        if text and noise:
            random = generator(seed, "ratio", row, number)
            text = str(noisy_ratio(float(text), noise, random))
        filled[column] = text
    return filled


def moved(cells: Cells, before: Path, after: Path) -> Cells:
    """The cells with their relative paths, which began in one folder, beginning in another."""
    # Links are followed in the folders only: the file's own name may say what kind it is.
    home = after.resolve()
    changed = dict(cells)
    for column in PATH_COLUMNS:
        cell = cells.get(column, "")
        if cell and not Path(cell).is_absolute():
            path = named_file(before, cell)
            real = path.parent.resolve() / path.name
            changed[column] = Path(os.path.relpath(real, home)).as_posix()
    return changed
