"""Which DICOM files and frames make one scan, and in which order."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsseg.imaging.dicom.geometry import agree, same_size
from wsseg.imaging.dicom.header import Concatenation, Header
from wsseg.imaging.dicom.sop_classes import is_planar
from wsseg.imaging.dicom.stacks import drop_copies, in_order, repeated_numbers, scans_of_stack
from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import FileRef, ScanRef

# Files that are kept apart by their nature, and those that are parts of one object.


@dataclass(frozen=True)
class Unit:
    """Images of files with the same `key` may share a scan. incomplete: a part is missing."""

    key: object
    incomplete: bool = False


def units_of(headers: Sequence[Header]) -> dict[Path, Unit]:
    """The unit of every file: single images share one, a multi-frame object is its own.

    A concatenation is one object in several files, told by its own UID or by the source's. Some
    software gives each part a new one: parts whose numbers complete each other are one as well.
    """
    firsts = {header.file.path: header for header in reversed(headers)}
    units = {
        path: Unit(None if header.frames == 1 and not header.mosaic else path)
        for path, header in firsts.items()
    }
    for parts in _concatenations(list(firsts.values())):
        incomplete = _incomplete(parts)
        key = tuple(sorted(str(header.file.path) for header in parts))
        units |= {header.file.path: Unit(key, incomplete) for header in parts}
    return units


def _concatenations(files: Sequence[Header]) -> list[list[Header]]:
    by_uid: dict[object, list[Header]] = defaultdict(list)
    for header in files:
        if header.concatenation:
            one = header.concatenation
            by_uid[one.source_uid or one.uid or header.file.path].append(header)
    complete: list[list[Header]] = []
    rest: dict[object, list[Header]] = defaultdict(list)
    for parts in by_uid.values():
        if _incomplete(parts):
            rest[_likeness(parts[0])] += parts
        else:
            complete.append(parts)
    for likely in rest.values():
        if _numbers_differ(likely):
            complete.append(likely)
        else:
            complete += [parts for parts in by_uid.values() if parts[0] in likely]
    return complete


def _likeness(header: Header) -> object:
    total = header.concatenation.total if header.concatenation else None
    return (header.sop_class, header.rows, header.columns, header.colour, total)


def _numbers_differ(parts: Sequence[Header]) -> bool:
    numbers = [part.number for part in _said(parts)]
    return len(set(numbers)) == len(numbers)


def _said(parts: Sequence[Header]) -> list[Concatenation]:
    return [header.concatenation for header in parts if header.concatenation]


def _incomplete(parts: Sequence[Header]) -> bool:
    """Whether parts are missing, by their numbers, or by the frames that came before each."""
    said = sorted(_said(parts), key=lambda one: one.number)
    total = next((one.total for one in said if one.total), None) or said[-1].number
    if [one.number for one in said] != list(range(1, total + 1)):
        return True
    before = 0
    for header in sorted(parts, key=lambda h: h.concatenation.number if h.concatenation else 0):
        offset = header.concatenation.offset if header.concatenation else None
        if offset is not None and offset != before:
            return True
        before += header.frames
    return False


_HASH_DIGITS = 8


def group(headers: Iterable[Header]) -> Iterator[ScanRef | Failure]:
    """Turn headers into scans, in slice order; what is passed over comes as Failure.

    Every file ends in scans or in a Failure. Scans of one series are numbered by `part`.
    """
    by_series: dict[tuple[str, str], list[Header]] = defaultdict(list)
    for header in headers:
        by_series[header.series].append(header)
    studies = Counter(series for _, series in by_series)
    for (study, series), members in by_series.items():
        ending = f"-{_hash(study)}" if studies[series] > 1 else ""
        yield from _scans_of_series(members, ending)


def _hash(uid: str) -> str:
    return hashlib.sha256(uid.encode("utf-8", "surrogateescape")).hexdigest()[:_HASH_DIGITS]


def _scans_of_series(series: list[Header], ending: str) -> Iterator[ScanRef | Failure]:
    in_name_order = sorted(series, key=lambda h: (h.file.source, h.frame or 0))
    headers, failures = drop_copies(in_name_order)
    headers, localizers = _set_localizers_apart(headers)
    yield from failures
    yield from localizers
    duplicates = {"DUPLICATE"} if failures else set()
    units = units_of(headers)
    parts: list[tuple[list[Header], set[str]]] = []
    for stack in _alike(headers, units):
        scans, dropped, flags = _scans_of(stack)
        yield from dropped
        cut = {"GAP"} if any(units[header.file.path].incomplete for header in stack) else set()
        parts += [(scan, flags | duplicates | cut) for scan in scans]
    # Pictures that stand for themselves, such as stills, were never to be one scan.
    several = Counter(_alone(scan[0]) for scan, _ in parts)
    parts = [
        (scan, flags | {"SPLIT"} if several[_alone(scan[0])] > 1 else flags)
        for scan, flags in parts
    ]
    whole = Counter(header.file.path for header in headers)
    for part, (scan, flags) in enumerate(parts):
        yield replace(_ref(scan, whole), part=part, flags=tuple(sorted(flags)), name_ending=ending)


def _ref(scan: Sequence[Header], whole: Mapping[Path, int]) -> ScanRef:
    """The scan of headers in slice order; `whole` is the number of headers of each file."""
    frames: dict[Path, list[int]] = defaultdict(list)
    files: dict[Path, FileRef] = {}
    for header in scan:
        path = header.file.path
        files.setdefault(path, replace(header.file, seen=header.uids))
        numbers = range(header.frames) if header.frame is None else (header.frame,)
        frames[path] += numbers
    all_of_one = len(files) == 1 and whole[scan[0].file.path] == len(scan)
    single = all_of_one or all(header.frames == 1 for header in scan)
    return ScanRef(
        "dicom",
        tuple(files.values()),
        frames=() if single else tuple(tuple(frames[path]) for path in files),
        decoded_bytes=sum(header.decoded_bytes for header in scan),
    )


def _set_localizers_apart(headers: list[Header]) -> tuple[list[Header], list[Failure]]:
    """Skip the localizers of a series that also holds the images they were made to plan."""
    planned = [h for h in headers if not h.localizer]
    directions = _Numbered(agree)
    used = {directions.index(h.plane.orientation) for h in planned}
    apart = {
        h.file.path: h.file.source
        for h in headers
        if h.localizer and directions.index(h.plane.orientation) not in used
    }
    # A file that holds other frames too is measured, and these are a scan of their own.
    skipped = {path: apart[path] for path in apart.keys() - {h.file.path for h in planned}}
    if not planned or not skipped:
        return headers, []
    failures = [
        Failure(
            source,
            "localizer",
            f"{source} is a localizer within a series of other images",
            status="skipped",
        )
        for source in sorted(skipped.values())
    ]
    return [h for h in headers if h.file.path not in skipped], failures


def _alike(headers: Sequence[Header], units: Mapping[Path, Unit]) -> list[list[Header]]:
    """Images that could be slices of one scan: same class, grid, spacing, stack, orientation."""
    directions, sizes = _Numbered(agree), _Numbered(same_size)
    stacks = _believed_stacks(headers, units)
    groups: dict[object, list[Header]] = defaultdict(list)
    for header in headers:
        key = (
            units[header.file.path].key,
            _alone(header),
            header.frame_of_reference,
            header.sop_class,
            header.modality,
            (header.rows, header.columns, header.colour),
            sizes.index(header.plane.pixel_mm),
            header.plane.placed,
            header.plane.in_patient,
            directions.index(header.plane.orientation),
            header.stack if units[header.file.path].key in stacks else "",
        )
        groups[key].append(header)
    return list(groups.values())


def _alone(header: Header) -> object:
    """What keeps pictures that stand for themselves apart, and is equal for all else."""
    pictures = is_planar(header.sop_class, header.image_type)
    return header.file.path if pictures and not header.plane.placed else None


def _believed_stacks(headers: Sequence[Header], units: Mapping[Path, Unit]) -> set[object]:
    """Units whose names of stacks tell stacks apart; some number every frame by them instead."""
    sizes: dict[object, Counter[str]] = defaultdict(Counter)
    for header in headers:
        sizes[units[header.file.path].key][header.stack] += 1
    return {key for key, stacks in sizes.items() if max(stacks.values()) > 1}


class _Numbered:
    """Numbers directions or sizes; those that are one, written differently, share a number."""

    def __init__(self, same: Callable[[Sequence[float], Sequence[float]], bool]) -> None:
        self._same = same
        self._seen: list[Sequence[float] | None] = []

    def index(self, value: Sequence[float] | None) -> int:
        for number, seen in enumerate(self._seen):
            if value is seen or (value and seen and self._same(value, seen)):
                return number
        self._seen.append(value)
        return len(self._seen) - 1


def _scans_of(stack: list[Header]) -> tuple[list[list[Header]], list[Failure], set[str]]:
    """Scans in slice order, files dropped as identical, flags for all of them."""
    if stack[0].plane.placed:
        return scans_of_stack(stack)
    order = {"ORDER_BY_NAME"} if repeated_numbers(stack) else set()
    return [sorted(stack, key=in_order)], [], order
