"""A table of cases with masks becomes one with simulated weak marks."""

import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from wsseg.imaging.definitions import PixelCounts, area_ratios
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic_folder, lock_output, named_file
from wsseg.imaging.label_values import Label
from wsseg.imaging.tables import DEFAULT_OPTIONS, TableOptions, TextTable
from wsseg.train.cases.contradictions import READER_VARIATION, region_box, region_moments
from wsseg.train.cases.files import as_counted, case_mask, label_slice
from wsseg.train.cases.schema import DEFAULT_CLASS, Case, CaseTable, Split, read_columns
from wsseg.train.cases.table import read_cases
from wsseg.train.simulate.draw import (
    MARK_KINDS,
    USUAL_PERCENT,
    Kind,
    Labels,
    MarkOptions,
    Mask,
    extremes_of,
    generator,
    marked_rows,
    noisy_ratio,
    paint_marks,
)

TABLE = "cases.csv"
SPLITS: tuple[Split, ...] = get_args(Split)
PATH_COLUMNS = ("image", "marks", "mask")
DECIMALS = 3
Cells = dict[str, str]
Measure = Callable[[Mask], Sequence[object]]

MEASURES: dict[Kind, tuple[tuple[str, ...], Measure]] = {
    "box": (("box",), lambda region: [region_box(region)]),
    "extremes": (("extremes",), lambda region: [extremes_of(region)]),
    "moments": (
        ("centroid", "spread"),
        lambda region: np.round(region_moments(region), DECIMALS).tolist(),
    ),
}
"""The columns of each kind that is written as text, and their values, one a column."""

log = logging.getLogger(__name__)


def columns_of(name: str, text: TextTable, table: CaseTable) -> tuple[str, ...]:
    """Return each class's column of that name: the table's own, or the name that it would have."""
    columns = read_columns(text.header, table.classes)[0].of(name)
    if table.classes == (DEFAULT_CLASS,) and columns[0] not in text.header:
        return (name,)
    return columns


def measured_cells(columns: Sequence[Sequence[str]], labels: Labels, kind: Kind) -> Cells:
    """Return the cells that `kind` writes for each class's region; empty for an empty region.

    columns: for each of the kind's columns, its name for every class.
    """
    _, measure = MEASURES[kind]
    cells = {name: "" for names in columns for name in names}
    for class_index in range(len(columns[0])):
        region = labels == class_index + 1
        if region.any():
            for names, value in zip(columns, measure(region), strict=True):
                cells[names[class_index]] = json.dumps(value)
    return cells


def ratio_cells(
    columns: Sequence[str],
    cells: Cells,
    labels: Labels,
    noise: float,
    seed_and_row: tuple[int, int],
) -> Cells:
    """Return a ratio for each class, with an error of up to `noise` percent.

    A ratio of the table is kept, also where it is stated as unknown.
    """
    counts = PixelCounts.of_labels(labels, len(columns))
    shown = area_ratios(counts, ["image"] * len(columns)).tolist()
    filled = {}
    for label, (column, ratio) in enumerate(zip(columns, shown, strict=True), 1):
        text = cells.get(column, str(ratio))
        if text and noise:
            random = generator(seed_and_row[0], "ratio", seed_and_row[1], label)
            text = str(noisy_ratio(float(text), noise, random))
        filled[column] = text
    return filled


def moved(cells: Cells, before: Path, after: Path) -> Cells:
    """Return the cells with paths relative to the folder `after` in place of `before`."""
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


@dataclass(frozen=True)
class Outcome:
    """The result for one row.

    split: the table's split, empty where it states none. chosen: whether the row belongs to the
    share to mark. marked: whether there was a region to mark. before: whether the table already
    held marks of this kind.
    """

    split: str
    chosen: bool
    marked: bool
    before: bool


def closing(outcomes: Sequence[Outcome], options: MarkOptions) -> str:
    """Return one line on the marked cases, on earlier marks and on the error of ratios."""
    marked = [outcome for outcome in outcomes if outcome.marked]
    splits = Counter(outcome.split for outcome in marked if outcome.split)
    of_each = f" ({', '.join(f'{name} {count}' for name, count in splits.items())})"
    replaced = sum(outcome.chosen and outcome.before for outcome in outcomes)
    kept = sum(outcome.before and not outcome.chosen for outcome in outcomes)
    return "".join(
        (
            f"marked {len(marked)} of {len(outcomes)} cases{of_each if splits else ''}",
            f"; earlier marks of {replaced} replaced" if replaced else "",
            f"; {kept} others keep the marks they had" if kept else "",
            f"; ratios with up to {options.ratio_noise:g} % error" if options.ratio_noise else "",
        )
    )


def doubts(
    outcomes: Sequence[Outcome], options: MarkOptions, percent: float | None
) -> Iterator[str]:
    """Yield warnings about settings that may not be meant; percent: None where it was not given."""
    asked = {"share": options.share, "ratio noise": options.ratio_noise, "percent": percent}
    for name, value in asked.items():
        if value is not None and 0 < value < 1:
            yield (
                f"{name} {value:g} is read as {value:g} percent; "
                f"if the fraction {value:g} is meant, write {100 * value:g}"
            )
    if options.share > 0 and not any(outcome.marked for outcome in outcomes):
        yield "no case was marked: none of those chosen has a pixel of a region; raise the share"


@dataclass(frozen=True)
class _Job:
    """What writing the rows of the new table needs.

    marked: rows of the old table to mark. scratch: the folder that becomes `out`. keep_masks: the
    splits whose masks are kept.
    """

    text: TextTable
    table: CaseTable
    percent: float
    options: MarkOptions
    marked: frozenset[int]
    out: Path
    scratch: Path
    keep_masks: Collection[Split]


def simulate_marks(
    cases_csv: Path,
    out: Path,
    *,
    percent: float | None = None,
    options: MarkOptions | None = None,
    keep_masks: Collection[Split] = SPLITS,
    classes: tuple[str, ...] | None = None,
    labels: Mapping[str, tuple[Label, ...]] | None = None,
    reading: TableOptions = DEFAULT_OPTIONS,
) -> Path:
    """Write weak marks for the cases that have a mask, and the table that uses them.

    `out` becomes a folder with cases.csv: all columns of the old table, paths made relative to the
    new one, the masks' own ratios of the whole image where the old table has no ratio columns, and
    what the kind of the options adds: the columns marks and mark_kind, with marks/NNNN.png (pixel
    value = class number, 255 background, numbered by the order of the table), or the columns box,
    extremes, or centroid and spread. What the old table says in these columns stays in the cases
    outside the share and is replaced in those inside. keep_masks: the
    splits whose masks stay in the table, to judge by. Where only some do and the old table states
    no splits, the new one states those that a training with the default seed would deal out, so
    that it is known whose masks stay. percent: how much of each region is marked, None for what is
    usual of the kind. classes, labels, reading: as for `read_cases`, which checks the old table
    first. With labels, the masks and marks that stay are written anew as class numbers, so that the
    new table needs none. What was marked is logged. Returns the new table.

    Raises WssegError for a folder `out` that holds anything and for a table without a mask,
    TableError for one with faults.
    """
    chosen = options or MarkOptions()
    _require_new(out)
    _require_plausible(chosen, "train" in keep_masks, percent)
    table = read_cases(cases_csv, classes=classes, labels=labels, options=reading)
    if all(case.mask is None for case in table.cases):
        raise WssegError(
            f"{cases_csv.name} has no mask, and marks are made of full outlines: add a column mask "
            "with the paths of label images, 0 outside and the class number inside"
        )
    text = table.text
    amount = USUAL_PERCENT.get(chosen.kind, 100.0) if percent is None else percent
    busy = f"other marks are being written to {out}: name another folder"
    with (
        lock_output(out, busy),
        atomic_folder(out) as folder,
        (folder / TABLE).open("w", encoding="utf-8") as file,
    ):
        _require_new(out)  # again: other marks may have been written meanwhile
        # The share is that of each split that the table states.
        splits: dict[str, list[Case]] = {}
        for row, case in zip(text.rows, table.cases, strict=True):
            if case.mask is not None:
                splits.setdefault(row.cells.get("split", ""), []).append(case)
        rows = (marked_rows(cases, chosen.share, chosen.seed) for cases in splits.values())
        marked = frozenset[int]().union(*rows)
        job = _Job(text, table, amount, chosen, marked, out, folder, keep_masks)
        writer = csv.DictWriter(file, _header(job), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        outcomes = [_write(job, index, writer) for index in range(len(table.cases))]
    log.info("%s", closing(outcomes, chosen))
    for warning in doubts(outcomes, chosen, percent):
        log.warning("%s", warning)
    return out / TABLE


def _require_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WssegError(f"{out} exists and is not empty: name a new folder for the marks")


def _require_plausible(options: MarkOptions, beside_masks: bool, percent: float | None) -> None:
    if percent is not None and options.kind not in USUAL_PERCENT:
        raise WssegError(
            f"{percent:g} percent of a region: marks of kind {options.kind} have no such size, "
            f"only {', '.join(USUAL_PERCENT)} have"
        )
    most = 100 * READER_VARIATION
    if beside_masks and options.ratio_noise > most:
        raise WssegError(
            f"ratios with an error of up to {options.ratio_noise:g} percent contradict their "
            f"masks: drop the masks, or use at most {most:g} percent"
        )


def _header(job: _Job) -> tuple[str, ...]:
    """Return the columns of the old table, then the columns that it lacks."""
    ratios = columns_of("ratio", job.text, job.table)
    stated = ("split",) if 0 < len(job.keep_masks) < len(SPLITS) else ()
    names = dict.fromkeys((*job.text.header, *ratios, *stated, *_added(job)))
    return tuple(name for name in names if job.keep_masks or name != "mask")


def _added(job: _Job) -> tuple[str, ...]:
    """Return the columns that the kind of mark fills."""
    if job.options.kind in MARK_KINDS:
        return ("marks", *columns_of("mark_kind", job.text, job.table))
    return tuple(name for names in _measured_columns(job) for name in names)


def _measured_columns(job: _Job) -> list[tuple[str, ...]]:
    names, _ = MEASURES[job.options.kind]
    return [columns_of(name, job.text, job.table) for name in names]


def _write(job: _Job, index: int, writer: "csv.DictWriter[str]") -> Outcome:
    """Write a row of the new table, after its marks under `scratch`."""
    row, case = job.text.rows[index], job.table.cases[index]
    cells, marked = moved(row.cells, job.table.path.parent, job.out), False
    picture = f"{index + 1:04d}.png"
    drawn = case_mask(case, len(job.table.classes))
    if case.numbering.stored:
        # Label files that stay are rewritten with the labels 1, 2 ...
        if drawn is not None and case.split in job.keep_masks:
            cells["mask"] = _save(job, f"masks/{picture}", as_counted(case, drawn))
        if case.marks is not None:
            labels = label_slice(case.marks, case)
            cells["marks"] = _save(job, f"marks/{picture}", as_counted(case, labels))
    if drawn is not None:
        labels = as_counted(case, drawn)
        ratios = columns_of("ratio", job.text, job.table)
        # Beside a mask for evaluation, a wrong ratio would contradict it.
        errs = case.split not in job.keep_masks or "train" in job.keep_masks
        noise = job.options.ratio_noise if errs else 0.0
        cells |= ratio_cells(ratios, cells, labels, noise, (job.options.seed, case.row))
        kind = job.options.kind
        if case.row in job.marked and kind in MEASURES:
            cells |= measured_cells(_measured_columns(job), labels, kind)
        elif case.row in job.marked:
            marks = paint_marks(labels, job.percent, job.options, case.row)
            cells["marks"] = _save(job, f"marks/{picture}", marks)
            kinds = columns_of("mark_kind", job.text, job.table)
            cells |= dict.fromkeys(kinds, MARK_KINDS[kind])
        marked = case.row in job.marked and bool(labels.any())
    cells["split"] = case.split
    if case.split not in job.keep_masks:
        cells["mask"] = ""
    writer.writerow(cells)
    before = any(row.cells.get(name) for name in _added(job))
    return Outcome(row.cells.get("split", ""), case.row in job.marked, marked, before)


def _save(job: _Job, name: str, labels: Labels) -> str:
    path = job.scratch / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(labels).save(path)
    return name
