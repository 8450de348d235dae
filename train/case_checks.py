"""Checks of a whole table: rows against each other, and every row against its files."""

import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from wsseg.train.case import Case
from wsseg.train.case_faults import Fault
from wsseg.train.label_checks import check_case
from wsseg.train.ratios import Denominator

READERS = min(32, 4 + (os.cpu_count() or 1))
"""Threads that read files: more than cores, because most of the time is spent waiting for disks
and network shares."""


def check_table(cases: Sequence[Case], *, faulty: Collection[int]) -> Iterator[Fault]:
    """Faults between rows. Lines in `faulty` have cells that could not be read, and are left out
    where such a cell would give a fault that is none."""
    if not cases and not faulty:
        yield Fault(0, "no case in the table: expected one row for each picture")
    elif cases and not any(case.split == "train" for case in cases):
        yield Fault(0, "no training case: put train into the split column of some rows")
    sound = [case for case in cases if case.row not in faulty]
    yield from _repeated(sound)
    yield from _crossing(sound)
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
        taught = case.marks or case.points or case.mask
        if case.split == "train" and not taught and all(r is None for r in case.ratios):
            yield Fault(
                case.row, "nothing to learn from: give a ratio, marks, points or a mask, or drop it"
            )
