"""Checks of a whole table: rows against each other, and every row against its files."""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from wsseg.imaging.definitions import Denominator
from wsseg.imaging.dicom import silence_pydicom
from wsseg.imaging.reading import read_slice, slice_count
from wsseg.imaging.tables import Fault
from wsseg.train.cases.checks import CaseRow, check_case
from wsseg.train.cases.facts import FilesOnce
from wsseg.train.cases.files import scaled
from wsseg.train.cases.schema import Case, Contents, group_key

READERS = min(32, 4 + (os.cpu_count() or 1))
"""Threads that read files: more than cores, because most of the time is spent waiting for disks
and network shares."""
PAIRS_SHOWN = 5
NUMBERS_SHOWN = 8


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
    placed: Mapping[int, frozenset[str]],
    sampled: Sequence[Case] = (),
) -> tuple[tuple[Case, ...], list[Fault]]:
    """The cases with what was seen in their files, and the faults of these.

    placed: of each line, which of `slice` and `volume` it fills in. sampled: cases by which an
    intensity window will be chosen.
    """
    once = FilesOnce(cases)
    sample = {case.row for case in sampled}

    def check(case: Case, first: bool) -> tuple[Contents, list[str]]:
        row = CaseRow(placed[case.row], first, case.row in sample)
        with once.of(case):
            return check_case(case, row, classes=classes, denominators=denominators)

    # Once for all files: to silence a library anew for each takes as long as to open one.
    with silence_pydicom, ThreadPoolExecutor(READERS) as pool:
        looked = list(zip(cases, pool.map(check, cases, _firsts(cases)), strict=True))
    return (
        tuple(replace(case, contents=contents) for case, (contents, _) in looked),
        [Fault(case.row, message) for case, (_, messages) in looked for message in messages],
    )


def _firsts(cases: Sequence[Case]) -> list[bool]:
    """Of each case, whether none before it is of the same file."""
    first = {os.path.normpath(case.image): case.row for case in reversed(cases)}
    return [first[os.path.normpath(case.image)] == case.row for case in cases]


def label_notes(cases: Sequence[Case]) -> Iterator[str]:
    """What label files hold that is allowed, but may not be meant. Checked cases only."""
    turned = [case.row for case in cases if case.contents.turned_alone]
    unnamed = sorted({number for case in cases for number in case.contents.unnamed})
    if turned:
        yield (
            f"{len(turned)} images have an orientation tag (EXIF) that their labels lack, the "
            f"first in line {turned[0]}: label files, points and boxes count as drawn on the "
            f"picture as it is shown"
        )
    if unnamed:
        shown = ", ".join(map(str, unnamed[:NUMBERS_SHOWN]))
        more = ", ..." if len(unnamed) > NUMBERS_SHOWN else ""
        yield (
            f"label numbers {shown}{more} stand for no class in [labels]: they count as background"
        )


def _repeated(cases: Sequence[Case]) -> Iterator[Fault]:
    first: dict[tuple[str, int, int], int] = {}
    for case in cases:
        key = (os.path.normpath(case.image), case.slice_index, case.volume)
        line = first.setdefault(key, case.row)
        if line != case.row:
            yield Fault(case.row, f"the same image and slice as line {line}: remove one of them")


def _crossing(cases: Sequence[Case]) -> Iterator[Fault]:
    # The group's name stays out of the message: it often is the patient's.
    first: dict[tuple[str, str], Case] = {}
    for case in cases:
        other = first.setdefault(group_key(case), case)
        if case.group and other.split != case.split:
            spelt = "" if other.group == case.group else ", spelt otherwise"
            yield Fault(
                case.row,
                f"its group is in {case.split} here and in {other.split} in line {other.row}"
                f"{spelt}: keep all cases of a patient in one split",
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


def copies(cases: Sequence[Case]) -> Iterator[str]:
    """What to say of pictures that are in the table twice, by their lines."""
    pairs = repeated_pictures(cases)
    apart = [(first, later) for first, later in pairs if first.split != later.split]
    if apart:
        yield (
            f"{_count(apart)} of pictures in another split, so that what judges the network is "
            f"what taught it: {_lines(apart)}"
        )
    within = [pair for pair in pairs if pair not in apart]
    if within:
        yield f"{_count(within)} of others in the same split: {_lines(within)}"


def _count(pairs: Sequence[object]) -> str:
    return f"{len(pairs)} {'picture is a copy' if len(pairs) == 1 else 'pictures are copies'}"


def _lines(pairs: Sequence[tuple[Case, Case]]) -> str:
    shown = ", ".join(
        f"line {later.row} copies line {one.row}" for one, later in pairs[:PAIRS_SHOWN]
    )
    return f"{shown}{', ...' if len(pairs) > PAIRS_SHOWN else ''}"


def repeated_pictures(cases: Sequence[Case]) -> tuple[tuple[Case, Case], ...]:
    """Cases whose file has, in whatever format and scale, the pixels of an earlier case's.

    Each after that case.

    Of volumes the middle slice is compared. Each file counts once.
    """
    pairs = _same([case for case in cases if case.contents.fingerprint])
    return tuple(sorted(pairs, key=lambda pair: pair[1].row))


def _same(cases: Sequence[Case]) -> Iterator[tuple[Case, Case]]:
    alike: dict[bytes, list[Case]] = {}
    for case in cases:
        alike.setdefault(case.contents.fingerprint, []).append(case)
    for several in (each for each in alike.values() if len(each) > 1):
        digests = [case.contents.digests.get("image") for case in several]
        # Files of equal bytes need not be read again to be called copies.
        whole = {digest.sha256 if digest else b"" for digest in digests}
        copied = len(whole) == 1 and b"" not in whole
        seen: dict[str, Case] = {}
        for case in several:
            earlier = seen.setdefault("" if copied else _pixels(case), case)
            if earlier is not case:
                yield earlier, case


def _pixels(case: Case) -> str:
    """A digest of the pixels that a case is compared by."""
    middle = slice_count(case.image, case.volume) // 2
    pixels = read_slice(case.image, slice_index=middle, volume=case.volume)
    return hashlib.sha256(scaled(pixels).tobytes()).hexdigest()
