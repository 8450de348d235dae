"""Grouping: which DICOM files and frames are one scan, and in which order."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsseg.imaging.dicom.geometry import agree, same_size
from wsseg.imaging.dicom.header import Header
from wsseg.imaging.dicom.sop_classes import is_planar
from wsseg.imaging.dicom.stacks import drop_copies, in_order, repeated_numbers, scans_of_stack
from wsseg.imaging.errors import Failure
from wsseg.imaging.hashed_names import real_name
from wsseg.imaging.scan import FileRef, ScanRef

_HASH_DIGITS = 8


def group(headers: Iterable[Header]) -> Iterator[ScanRef | Failure]:
    """Group headers into scans, in slice order; skipped files are returned as Failure.

    Every file ends in scans or in a Failure. Scans of one series are numbered by `part`.
    """
    by_series: dict[tuple[str, str], list[Header]] = defaultdict(list)
    for header in headers:
        by_series[header.series].append(header)
    studies = Counter(series for _, series in by_series)
    for (study, series), members in by_series.items():
        digest = hashlib.sha256(study.encode("utf-8", "surrogateescape")).hexdigest()
        ending = f"-{digest[:_HASH_DIGITS]}" if studies[series] > 1 else ""
        yield from _scans_of_series(members, ending)


def _scans_of_series(series: list[Header], ending: str) -> Iterator[ScanRef | Failure]:
    in_name_order = sorted(series, key=lambda h: (real_name(h.file.source), h.frame or 0))
    headers, failures = drop_copies(in_name_order)
    headers, localizers = _set_localizers_apart(headers)
    yield from failures
    yield from localizers
    duplicates = {"DUPLICATE"} if failures else set()
    units = _units_of(headers)
    parts: list[tuple[list[Header], set[str]]] = []
    for stack in _alike(headers, units):
        if stack[0].plane.placed:
            scans, dropped, flags = scans_of_stack(stack)
            yield from dropped
        else:
            scans = [sorted(stack, key=in_order)]
            flags = {"ORDER_BY_NAME"} if repeated_numbers(stack) else set()
        if any(units[header.file.path].incomplete for header in stack):
            flags = flags | {"GAP"}
        parts += [(scan, flags | duplicates) for scan in scans]
    # Independent pictures, such as stills, were never to be one scan.
    several = Counter(_independent(scan[0]) for scan, _ in parts)
    whole = Counter(header.file.path for header in headers)
    for part, (scan, flags) in enumerate(parts):
        split = {"SPLIT"} if several[_independent(scan[0])] > 1 else set()
        yield replace(
            _ref(scan, whole), part=part, flags=tuple(sorted(flags | split)), name_ending=ending
        )


def _ref(scan: Sequence[Header], whole: Mapping[Path, int]) -> ScanRef:
    """The scan of headers in slice order; `whole` is the number of headers of each file."""
    frames: dict[Path, list[int]] = defaultdict(list)
    files: dict[Path, FileRef] = {}
    for header in scan:
        path = header.file.path
        files.setdefault(path, replace(header.file, seen=header.uids))
        frames[path] += range(header.frames) if header.frame is None else (header.frame,)
    all_of_one = len(files) == 1 and whole[scan[0].file.path] == len(scan)
    single = all_of_one or all(header.frames == 1 for header in scan)
    return ScanRef(
        "dicom",
        tuple(files.values()),
        frames=() if single else tuple(tuple(frames[path]) for path in files),
        decoded_bytes=sum(header.decoded_bytes for header in scan),
    )


@dataclass(frozen=True)
class _Unit:
    """Images of files with the same `key` may share a scan. incomplete: a part is missing."""

    key: object
    incomplete: bool = False


def _units_of(headers: Sequence[Header]) -> dict[Path, _Unit]:
    """The unit of every file: single images share one, a multi-frame object has its own.

    A concatenation is one object in several files, identified by its own UID or by the source's.
    Some software gives each part a new one: parts whose numbers complete each other are one too.
    """
    firsts = {header.file.path: header for header in reversed(headers)}
    units = {
        path: _Unit(None if header.frames == 1 and not header.mosaic else path)
        for path, header in firsts.items()
    }
    for parts in _concatenations(list(firsts.values())):
        incomplete = _incomplete(parts)
        key = tuple(sorted(str(header.file.path) for header in parts))
        units |= {header.file.path: _Unit(key, incomplete) for header in parts}
    return units


def _concatenations(files: Sequence[Header]) -> list[list[Header]]:
    """The files of each concatenation."""
    by_uid: dict[object, list[Header]] = defaultdict(list)
    for header in files:
        if own := header.concatenation:
            by_uid[own.source_uid or own.uid or header.file.path].append(header)
    complete: list[list[Header]] = []
    rest: dict[object, list[Header]] = defaultdict(list)
    for parts in by_uid.values():
        if _incomplete(parts):
            first = parts[0]
            total = first.concatenation.total if first.concatenation else None
            rest[first.sop_class, first.rows, first.columns, first.colour, total] += parts
        else:
            complete.append(parts)
    for similar in rest.values():
        numbers = [header.concatenation.number for header in similar if header.concatenation]
        if len(set(numbers)) == len(numbers):
            complete.append(similar)
        else:
            complete += [parts for parts in by_uid.values() if parts[0] in similar]
    return complete


def _incomplete(parts: Sequence[Header]) -> bool:
    """Whether parts are missing, by their numbers, or by the frames that came before each."""
    numbered = [(header.concatenation, header) for header in parts if header.concatenation]
    numbered.sort(key=lambda pair: pair[0].number)
    total = next((own.total for own, _ in numbered if own.total), None) or numbered[-1][0].number
    if [own.number for own, _ in numbered] != list(range(1, total + 1)):
        return True
    before = 0
    for own, header in numbered:
        if own.offset is not None and own.offset != before:
            return True
        before += header.frames
    return False


def _set_localizers_apart(headers: list[Header]) -> tuple[list[Header], list[Failure]]:
    """Skip the localizers of a series that also has the images they were made to plan."""
    planned = [h for h in headers if not h.localizer]
    directions = _Classes(agree)
    used = {directions.index(h.plane.orientation) for h in planned}
    apart = {
        h.file.path: h.file.source
        for h in headers
        if h.localizer and directions.index(h.plane.orientation) not in used
    }
    # A file that has other frames too is measured, and these are a scan of their own.
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


def _alike(headers: Sequence[Header], units: Mapping[Path, _Unit]) -> list[list[Header]]:
    """Images that could be slices of one scan: same class, grid, spacing, stack, orientation."""
    directions, sizes = _Classes(agree), _Classes(same_size)
    # Names of stacks count in units where some images share one; some software gives every frame
    # its own.
    stack_sizes: dict[object, Counter[str]] = defaultdict(Counter)
    for header in headers:
        stack_sizes[units[header.file.path].key][header.stack] += 1
    named = {key for key, stacks in stack_sizes.items() if max(stacks.values()) > 1}
    groups: dict[object, list[Header]] = defaultdict(list)
    for header in headers:
        key = (
            units[header.file.path].key,
            _independent(header),
            header.frame_of_reference,
            header.sop_class,
            header.modality,
            (header.rows, header.columns, header.colour),
            sizes.index(header.plane.pixel_mm),
            header.plane.placed,
            header.plane.in_patient,
            directions.index(header.plane.orientation),
            header.stack if units[header.file.path].key in named else "",
        )
        groups[key].append(header)
    return list(groups.values())


def _independent(header: Header) -> object:
    """What separates independent pictures from each other; equal for all other images."""
    pictures = is_planar(header.sop_class, header.image_type)
    return header.file.path if pictures and not header.plane.placed else None


class _Classes:
    """Classes of directions or sizes, by index: those that are one, written differently, share."""

    def __init__(self, same: Callable[[Sequence[float], Sequence[float]], bool]) -> None:
        self._same = same
        self._seen: list[Sequence[float] | None] = []

    def index(self, value: Sequence[float] | None) -> int:
        for index, seen in enumerate(self._seen):
            if value is seen or (value and seen and self._same(value, seen)):
                return index
        self._seen.append(value)
        return len(self._seen) - 1
