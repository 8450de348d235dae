"""Files that are kept apart by their nature, and those that are parts of one object."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsseg.imaging.dicom_header import Concatenation, Header


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
