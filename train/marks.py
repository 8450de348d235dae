"""Weak marks simulated from full masks, as a reader who marks the sure middle would make them."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from wsseg.imaging.atomic import atomic_folder
from wsseg.imaging.errors import NothingToDoError, WssegError
from wsseg.train.case import CaseTable
from wsseg.train.case_columns import DEFAULT_CLASS, read_columns
from wsseg.train.case_table import TextTable, read_table
from wsseg.train.cases import read_cases
from wsseg.train.label_files import case_mask
from wsseg.train.ratios import Denominator, mask_ratios

TABLE = "cases.csv"
PATH_COLUMNS = ("image", "marks", "mask")
TOUCHING_CORNERS = np.ones((3, 3), dtype=bool)
"""Pixels that touch by a corner belong to one component."""


def erode_mark(
    mask: NDArray[np.bool_], percent: float, *, per_component: bool = False
) -> NDArray[np.bool_]:
    """The innermost `percent` % of a region's pixels (row, column).

    Keeps the pixels with the largest Euclidean distance to the outside, the nearest whole number
    of them and at least one of a region that is not empty. What lies beyond the border of the
    picture counts as outside, so a region that the frame cuts is not marked at its cut. Pixels at
    equal distance are taken in reading order, which makes the number exact and the mark repeatable.

    per_component: each component (pixels that touch by a side or corner) on its own, at least one
    pixel each; otherwise a small component beside a large one may lose its mark. percent in
    (0, 100]; WssegError otherwise.
    """
    if not 0 < percent <= 100:
        raise WssegError(f"{percent:g} percent of a region cannot be marked: give 0 to 100")
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    if not per_component:
        return _innermost(mask, distance, percent)
    components, count = ndimage.label(mask, structure=TOUCHING_CORNERS)
    mark = np.zeros_like(mask)
    for number in range(1, count + 1):
        mark |= _innermost(components == number, distance, percent)
    return mark


def _innermost(
    region: NDArray[np.bool_], distance: NDArray[np.float64], percent: float
) -> NDArray[np.bool_]:
    places = np.flatnonzero(region)
    kept = min(places.size, max(1, round(percent / 100 * places.size)))
    deepest_first = np.argsort(-distance.ravel()[places], kind="stable")
    mark = np.zeros(region.shape, dtype=bool)
    mark.ravel()[places[deepest_first[:kept]]] = True
    return mark


@dataclass(frozen=True)
class Erosion:
    """How marks are made of masks; the arguments of `erode_mark`."""

    percent: float
    per_component: bool = False

    def marks(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A label map of marks from a label map of masks, each class on its own."""
        marks = np.zeros_like(labels)
        for number in range(1, int(labels.max(initial=0)) + 1):
            region = labels == number
            marks[erode_mark(region, self.percent, per_component=self.per_component)] = number
        return marks


def simulate_marks(
    cases_csv: Path,
    out: Path,
    *,
    percent: float,
    per_component: bool = False,
    keep_mask: bool = True,
    classes: tuple[str, ...] | None = None,
) -> Path:
    """Write weak marks for every case that has a mask, and the table that uses them.

    `out` becomes a folder with marks/NNNN.png (pixel value = class number, numbered by the order
    of the table) and cases.csv: all columns of the old table, paths made relative to the new one,
    the column marks, and the masks' own ratios of the whole image where the old table has no ratio
    columns. The masks stay in the table, for evaluation, unless `keep_mask` is false. classes: as
    for `read_cases`, which checks the old table first. Returns the new table.

    Raises WssegError for a folder `out` that holds anything, CasesError for a table with faults,
    NothingToDoError for one without a mask.
    """
    erosion = Erosion(percent, per_component)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WssegError(f"{out} exists and is not empty: name a new folder for the marks")
    table = read_cases(cases_csv, classes=classes)
    if all(case.mask is None for case in table.cases):
        raise NothingToDoError(f"{cases_csv.name} has no mask to make marks of: add a column mask")
    text = read_table(cases_csv)
    names = dict.fromkeys((*text.header, *_ratio_columns(text.header, table.classes), "marks"))
    header = [name for name in names if keep_mask or name != "mask"]
    with atomic_folder(out) as folder, (folder / TABLE).open("w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_marked_rows(text, table, erosion, scratch=folder, out=out))
    return out / TABLE


def _marked_rows(
    text: TextTable, table: CaseTable, erosion: Erosion, *, scratch: Path, out: Path
) -> Iterator[dict[str, str]]:
    """The rows of the new table, each after its marks were written under `scratch`."""
    (scratch / "marks").mkdir()
    columns = _ratio_columns(text.header, table.classes)
    share: Denominator = "image"
    for number, (row, case) in enumerate(zip(text.rows, table.cases, strict=True), 1):
        cells = _moved(row.cells, table.path.parent, out)
        labels = case_mask(case, len(table.classes))
        if labels is not None:
            name = f"marks/{number:04d}.png"
            Image.fromarray(erosion.marks(labels)).save(scratch / name)
            ratios = mask_ratios(labels, (share,) * len(table.classes))
            filled = dict(zip(columns, map(str, ratios), strict=True))
            # A ratio that the table states stays, even where it says that it is unknown.
            cells = {**filled, **cells, "marks": name}
        yield cells


def _ratio_columns(header: tuple[str, ...], classes: tuple[str, ...]) -> tuple[str, ...]:
    """Each class's ratio column: the one that the table has, or what it would be called."""
    columns, _ = read_columns(header, classes)
    if classes == (DEFAULT_CLASS,) and columns.ratio[0] not in header:
        return ("ratio",)
    return columns.ratio


def _moved(cells: dict[str, str], before: Path, after: Path) -> dict[str, str]:
    """The cells with their relative paths, which began in one folder, beginning in another."""
    # Links are followed in the folders only: the file's own name may say what kind it is.
    home = after.resolve()
    moved = dict(cells)
    for column in PATH_COLUMNS:
        cell = cells.get(column, "")
        if cell and not Path(cell).is_absolute():
            path = before / cell
            real = path.parent.resolve() / path.name
            moved[column] = Path(os.path.relpath(real, home)).as_posix()
    return moved
