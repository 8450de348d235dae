"""Checks of a whole table: rows against each other, and every row against its files."""

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from wsseg.train.case import Case
from wsseg.train.case_faults import Fault
from wsseg.train.file_checks import check_case
from wsseg.train.ratios import Denominator

READERS = min(32, 4 + (os.cpu_count() or 1))
"""Threads that read files: more than cores, because most of the time is spent waiting for disks
and network shares."""


def check_table(
    cases: Sequence[Case], *, faulty: Collection[int], unlabelled: bool = False
) -> Iterator[Fault]:
    """Faults between rows. Lines in `faulty` have cells that could not be read, and are left out
    where such a cell would give a fault that is none. `unlabelled`: training cases may say nothing.
    """
    if not cases and not faulty:
        yield Fault(0, "no case in the table: expected one row for each picture")
    elif cases and not any(case.split == "train" for case in cases):
        yield Fault(0, "no training case: put train into the split column of some rows")
    sound = [case for case in cases if case.row not in faulty]
    yield from _repeated(sound)
    yield from _crossing(sound)
    if not unlabelled:
        yield from _unsupervised(sound)


def check_files(
    cases: Sequence[Case],
    classes: tuple[str, ...],
    denominators: tuple[Denominator, ...],
    *,
    unsliced: Collection[int],
) -> Iterator[Fault]:
    """Faults of the files of every case. `unsliced`: lines that name no slice."""
    check = partial(check_case, classes=classes, denominators=denominators)
    with ThreadPoolExecutor(READERS) as pool:
        sliced = [case.row not in unsliced for case in cases]
        for case, messages in zip(cases, pool.map(check, cases, sliced), strict=True):
            yield from (Fault(case.row, message) for message in messages)


def _repeated(cases: Sequence[Case]) -> Iterator[Fault]:
    first: dict[tuple[str, int, int], int] = {}
    for case in cases:
        key = (os.path.normpath(case.image), case.slice_index, case.volume)
        line = first.setdefault(key, case.row)
        if line != case.row:
            yield Fault(case.row, f"the same image and slice as line {line}: remove one of them")


def _crossing(cases: Sequence[Case]) -> Iterator[Fault]:
    # The group's name stays out of the message: it often is the patient's.
    first: dict[str, Case] = {}
    for case in cases:
        other = first.setdefault(case.group, case)
        if case.group and other.split != case.split:
            yield Fault(
                case.row,
                f"its group is in {case.split} here and in {other.split} in line {other.row}: "
                f"keep all cases of a patient in one split",
            )


def _unsupervised(cases: Sequence[Case]) -> Iterator[Fault]:
    for case in cases:
        shown = case.marks or case.points or case.mask
        told = any(ratio is not None for ratio in case.ratios)
        told = told or not all(region.empty for region in case.regions)
        if case.split == "train" and not shown and not told:
            yield Fault(
                case.row,
                "nothing to learn from: give a ratio, its bounds, a tag, marks, points, extremes, "
                "a box, a centroid, a spread or a mask, or drop it",
            )


def repeated_pictures(cases: Sequence[Case]) -> tuple[tuple[Case, Case], ...]:
    """Cases whose image file is, byte for byte, that of an earlier case, after that case.

    Slices of one file are none. Only files of equal size are read.
    """
    first = {os.path.normpath(case.image): case for case in reversed(cases)}
    sizes: dict[int, list[Case]] = {}
    for case in sorted(first.values(), key=lambda case: case.row):
        sizes.setdefault(case.image.stat().st_size, []).append(case)
    pairs, seen = [], dict[str, Case]()
    for case in (case for alike in sizes.values() if len(alike) > 1 for case in alike):
        with case.image.open("rb") as file:
            earlier = seen.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), case)
        if earlier is not case:
            pairs.append((earlier, case))
    return tuple(sorted(pairs, key=lambda pair: pair[1].row))
