"""Cases with recorded ratios that training does not use: kept aside, and read for calibration.

From them the export computes how far the model's ratios are off. They need a ratio and, where a
patient has several images, a group; marks and masks are not read.
"""

import csv
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from wsseg.imaging.definitions import RatioDefinition
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic, is_there, named_file
from wsseg.imaging.tables import Fault, Row, TableError, TableOptions, read_table
from wsseg.train.cases.cells import CellError, parse_index, with_fractions
from wsseg.train.cases.evidence import unsupervised_classes
from wsseg.train.cases.schema import (
    KNOWN,
    Case,
    CaseTable,
    Columns,
    class_denominators,
    one_spelling,
    read_columns,
    without_percent,
)
from wsseg.train.cases.table import doubts_of

RECORDED = "calibration.csv"
"""The table of the cases that were kept aside, in the folder of a run."""
FEWEST_GROUPS = 9
"""Groups (patients) that an interval with the default coverage of 0.9 takes."""
# So that the draw does not depend on that of the validation cases, which the seed alone decides.
_STREAM = 1


@dataclass(frozen=True)
class RecordedCases:
    """The rows of a table that record a ratio, in table order.

    without_ratio: number of the other rows. doubts: what may not be meant, one line each.
    """

    sha256: str
    cases: tuple[Case, ...]
    without_ratio: int
    doubts: tuple[str, ...]


def keep_aside(
    table: CaseTable,
    fraction: float,
    *,
    seed: int,
    ratios: tuple[RatioDefinition, ...] = (),
    unlabelled: bool = False,
) -> CaseTable:
    """Move this fraction of the training groups that record a ratio to the split `calibrate`.

    Equal groups, seed and fraction give the same cases. ratios, unlabelled: as for `read_cases`.
    Raises WssegError if these are fewer groups than an interval takes, if none is left for
    training, and if the table has such cases already; TableError for a class that the other cases
    do not describe.
    """
    grouped = list(zip(table.cases, one_spelling(table.cases), strict=True))
    training = [pair for pair in grouped if pair[0].split == "train"]
    able = {group for case, group in training if any(ratio is not None for ratio in case.ratios)}
    names = sorted(able)
    count = round(fraction * len(names))
    _require_share(table, fraction, count=count, groups=len(names))
    order = np.random.default_rng((seed, _STREAM)).permutation(len(names))
    aside = {names[index] for index in order[:count]}
    cases = tuple(
        replace(case, split="calibrate") if case.split == "train" and group in aside else case
        for case, group in grouped
    )
    faults = list(unsupervised_classes(cases, table.classes, unlabelled=unlabelled))
    if faults:
        raise TableError(table.path.name, faults)
    denominators = class_denominators(table.classes, ratios)
    before = set(doubts_of(table.cases, table.classes, denominators))
    others = (doubt for doubt in table.doubts if doubt not in before)
    return replace(
        table, cases=cases, doubts=(*others, *doubts_of(cases, table.classes, denominators))
    )


def _require_share(table: CaseTable, fraction: float, *, count: int, groups: int) -> None:
    """Raise WssegError if the groups that are kept aside are too few, or named in the table."""
    kept = len(table.part("calibrate"))
    if kept:
        raise WssegError(
            f"--calibrate {fraction:g}: the column split keeps {kept} cases aside for it already; "
            "leave the option out, or these cells"
        )
    if count < FEWEST_GROUPS:
        least = math.ceil(100 * FEWEST_GROUPS / groups) / 100 if groups else 1
        remedy = (
            f"give {least:g} or more"
            if least < 1
            else "train without it, and calibrate on another table at export"
        )
        raise WssegError(
            f"--calibrate {fraction:g} keeps {count} of the {groups} training groups (patients) "
            f"with a recorded ratio, and intervals take at least {FEWEST_GROUPS}: {remedy}"
        )


def require_enough(table: CaseTable) -> None:
    """Raise WssegError if the table keeps cases aside, but of fewer groups than intervals take."""
    kept = [case for case in table.part("calibrate") if any(r is not None for r in case.ratios)]
    groups = len(set(one_spelling(kept)))
    if table.part("calibrate") and groups < FEWEST_GROUPS:
        raise WssegError(
            f"{table.path.name} keeps {groups} groups (patients) with a recorded ratio aside for "
            f"calibration (split calibrate), and intervals take at least {FEWEST_GROUPS}: add "
            "such cases, or put these into another split"
        )


def write_recorded(table: CaseTable, path: Path) -> None:
    """Write the cases of the split `calibrate` as a table, with paths relative to its folder.

    A table without such cases is not written.
    """
    cases = table.part("calibrate")
    if not cases:
        return
    folder = path.parent.resolve()
    with atomic(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        ratios = [f"ratio:{name}" for name in table.classes]
        writer.writerow(["image", "slice", "volume", "group", *ratios])
        for case in cases:
            place = [_relative(case.image.resolve(), folder), case.slice_index, case.volume]
            known = ["" if ratio is None else repr(ratio) for ratio in case.ratios]
            writer.writerow([*place, case.group, *known])


def _relative(file: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return str(file)


def read_recorded(
    path: Path,
    classes: tuple[str, ...],
    ratios: tuple[RatioDefinition, ...],
    options: TableOptions,
) -> RecordedCases:
    """Read the rows of a table of cases that record a ratio of any of these classes.

    ratios: definitions of the ratio columns, shares of the whole image by default. Only the columns
    image, slice, volume, group and those of ratios and areas are read. Raises TableError with all
    faults, among them files that do not exist, and WssegError for a file that is no table.
    """
    text, percent, repeated = without_percent(read_table(path, KNOWN, options))
    columns, header_faults = read_columns(text.header, classes, text.line)
    if header_faults or repeated:
        raise TableError(path.name, [*header_faults, *repeated, *text.faults])
    table = with_fractions(text, columns, class_denominators(classes, ratios), percent)
    faults = [*table.text.faults, *table.faults]
    cases = []
    for row in table.text.rows:
        try:
            cases.append(_case(row, table.columns, path.parent))
        except CellError as error:
            faults.append(Fault(row.line, str(error)))
    known = tuple(case for case in cases if any(ratio is not None for ratio in case.ratios))
    faults += _faults(cases)
    if not known and not faults:
        faults.append(Fault(text.line, "no row records a ratio: intervals are calibrated on these"))
    if faults:
        raise TableError(path.name, faults)
    doubts = table.doubts
    if not any(case.group for case in known):
        doubts = (
            *doubts,
            "no group is named, so that each file counts as a patient of its own: if patients have "
            "several files, name them in a column group, or intervals are too short",
        )
    return RecordedCases(text.sha256, known, len(cases) - len(known), doubts)


def _case(row: Row, columns: Columns, folder: Path) -> Case:
    if not row.cells.get("image"):
        raise CellError("image: empty; it holds the path of the picture")
    index = partial(_index, row)
    texts = [row.cells.get(name, "") for name in columns.of("ratio")]
    return Case(
        row=row.line,
        image=named_file(folder, row.cells["image"]),
        ratios=tuple(float(text) if text else None for text in texts),
        group=row.cells.get("group", ""),
        split="calibrate",
        slice_index=index("slice"),
        volume=index("volume"),
    )


def _index(row: Row, column: str) -> int:
    try:
        return parse_index(row.cells.get(column, ""))
    except CellError as error:
        raise CellError(f"{column}: {error}") from error


def _faults(cases: Sequence[Case]) -> Iterator[Fault]:
    """Yield images that do not exist, and images that are repeated."""
    lines: dict[tuple[str, int, int], int] = {}
    for case in cases:
        key = (os.path.normpath(case.image), case.slice_index, case.volume)
        line = lines.setdefault(key, case.row)
        if line != case.row:
            yield Fault(case.row, f"the same image and slice as line {line}: remove one of them")
        elif not is_there(case.image):
            yield Fault(case.row, f"image: there is no file {case.image.name} where it should be")
