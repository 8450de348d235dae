"""A table of cases with masks becomes one with simulated weak marks."""

import csv
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from PIL import Image

from wsseg.imaging.atomic import atomic_folder
from wsseg.imaging.errors import WssegError
from wsseg.imaging.label_numbers import Label
from wsseg.imaging.locks import held
from wsseg.imaging.table import DEFAULT_OPTIONS, TableOptions, TextTable
from wsseg.train.case import Case, CaseTable, Split
from wsseg.train.cases import read_cases
from wsseg.train.label_checks import READER_VARIATION
from wsseg.train.label_files import case_mask, label_slice
from wsseg.train.marks.cells import (
    MEASURES,
    Cells,
    columns_of,
    measured_cells,
    moved,
    ratio_cells,
)
from wsseg.train.marks.chance import marked_rows
from wsseg.train.marks.options import MarkOptions
from wsseg.train.marks.paint import MARK_KINDS, USUAL_PERCENT, Labels, paint_marks
from wsseg.train.marks.tally import Outcome, closing, doubts
from wsseg.train.shown import as_counted

TABLE = "cases.csv"
SPLITS: tuple[Split, ...] = get_args(Split)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """Everything that the rows of the new table are made by. marked: rows of the old table.

    scratch: the folder that becomes `out`. keep_masks: the splits whose masks stay.
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
        held(out, busy),
        atomic_folder(out) as folder,
        (folder / TABLE).open("w", encoding="utf-8") as file,
    ):
        _require_new(out)  # again: other marks may have been written meanwhile
        job = _Job(
            text, table, amount, chosen, _marked(text, table, chosen), out, folder, keep_masks
        )
        writer = csv.DictWriter(file, _header(job), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        outcomes = [_write(job, place, writer) for place in range(len(table.cases))]
    log.info("%s", closing(outcomes, chosen))
    for doubt in doubts(outcomes, chosen, percent):
        log.warning("%s", doubt)
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
            f"ratios that err by up to {options.ratio_noise:g} percent do not pass for those of "
            f"their masks: leave the masks out, or stay within {most:g} percent"
        )


def _marked(text: TextTable, table: CaseTable, options: MarkOptions) -> frozenset[int]:
    """Rows to mark: the share of each split on its own, of the splits that the table states."""
    splits: dict[str, list[Case]] = {}
    for row, case in zip(text.rows, table.cases, strict=True):
        if case.mask is not None:
            splits.setdefault(row.cells.get("split", ""), []).append(case)
    rows = (marked_rows(cases, options.share, options.seed) for cases in splits.values())
    return frozenset().union(*rows)


def _header(job: _Job) -> tuple[str, ...]:
    """The columns of the old table, then those that it lacks."""
    ratios = columns_of("ratio", job.text, job.table)
    stated = ("split",) if 0 < len(job.keep_masks) < len(SPLITS) else ()
    names = dict.fromkeys((*job.text.header, *ratios, *stated, *_added(job)))
    return tuple(name for name in names if job.keep_masks or name != "mask")


def _added(job: _Job) -> tuple[str, ...]:
    """The columns that the kind of mark fills."""
    if job.options.kind in MARK_KINDS:
        return ("marks", *columns_of("mark_kind", job.text, job.table))
    return tuple(name for names in _measured_columns(job) for name in names)


def _measured_columns(job: _Job) -> list[tuple[str, ...]]:
    names, _ = MEASURES[job.options.kind]
    return [columns_of(name, job.text, job.table) for name in names]


def _write(job: _Job, place: int, writer: "csv.DictWriter[str]") -> Outcome:
    """Write the row at `place` of the new table, after its marks under `scratch`."""
    row, case = job.text.rows[place], job.table.cases[place]
    cells, marked = moved(row.cells, job.table.path.parent, job.out), False
    drawn = case_mask(case, len(job.table.classes))
    if case.numbering.stored:
        kept = drawn if case.split in job.keep_masks else None
        cells |= _renumbered(job, place, case, kept)
    if drawn is not None:
        labels = as_counted(case, drawn)
        ratios = columns_of("ratio", job.text, job.table)
        # Beside a mask that judges, a wrong ratio would contradict it.
        errs = case.split not in job.keep_masks or "train" in job.keep_masks
        noise = job.options.ratio_noise if errs else 0.0
        cells |= ratio_cells(ratios, cells, labels, noise, (job.options.seed, case.row))
        if case.row in job.marked:
            cells |= _mark(job, place, case, labels)
            marked = bool(labels.any())
    cells["split"] = case.split
    if case.split not in job.keep_masks:
        cells["mask"] = ""
    writer.writerow(cells)
    before = any(row.cells.get(name) for name in _added(job))
    return Outcome(row.cells.get("split", ""), case.row in job.marked, marked, before)


def _renumbered(job: _Job, place: int, case: Case, mask: Labels | None) -> Cells:
    """The cells of a case's label files that stay, both written as class numbers."""
    marks = None if case.marks is None else label_slice(case.marks, case)
    files = (("mask", "masks", mask), ("marks", "marks", marks))
    return {
        column: _save(job, f"{folder}/{place + 1:04d}.png", as_counted(case, labels))
        for column, folder, labels in files
        if labels is not None
    }


def _save(job: _Job, name: str, labels: Labels) -> str:
    path = job.scratch / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(labels).save(path)
    return name


def _mark(job: _Job, place: int, case: Case, labels: Labels) -> Cells:
    """The cells of a marked case, its marks written if they are painted."""
    kind = job.options.kind
    if kind in MEASURES:
        return measured_cells(_measured_columns(job), labels, kind)
    marks = paint_marks(labels, job.percent, job.options, case.row)
    name = _save(job, f"marks/{place + 1:04d}.png", marks)
    kinds = columns_of("mark_kind", job.text, job.table)
    return {"marks": name, **dict.fromkeys(kinds, MARK_KINDS[kind])}
