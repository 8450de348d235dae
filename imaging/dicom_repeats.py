"""Images that repeat others: copies are dropped, what is left is put in turns."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from wsseg.imaging.dicom_file import open_dicom
from wsseg.imaging.dicom_header import Header
from wsseg.imaging.dicom_quiet import quiet
from wsseg.imaging.dicom_syntax import can_decode
from wsseg.imaging.dicom_values import tags_of
from wsseg.imaging.errors import Failure

_PIXELS = tags_of(("PixelData", "FloatPixelData", "DoubleFloatPixelData"))


def drop_copies(headers: Sequence[Header]) -> tuple[list[Header], list[Failure]]:
    """Keep one file of each SOP instance.

    A UID that careless software gave to different images is no copy: the same UID counts only
    with the same place, number and traits, and, where both files encode pixels alike, the same
    pixels. Where a folder holds other images under the UIDs of another folder, nothing in it is a
    copy: two patients were given the same UIDs, and both have slices of nothing but air. Of
    copies in several encodings one that can be decoded here is kept.
    """
    files: dict[Path, Header] = {}
    for header in headers:
        files.setdefault(header.file.path, header)
    kept: list[Header] = []
    copies: list[tuple[Header, Header]] = []
    others: set[tuple[str, str]] = set()
    seen: dict[object, list[Header]] = defaultdict(list)
    for header in sorted(files.values(), key=lambda h: not _decodable(h.syntax)):
        identity = (*_place(header), header.uids[2], header.instance_number, header.frames)
        original = next((h for h in seen[identity] if _same_image(h, header)), None)
        if header.uids[2] and original:
            copies.append((header, original))
            continue
        others |= {(header.folder, h.folder) for h in seen[identity] if header.uids[2]}
        seen[identity].append(header)
        kept.append(header)
    failures = []
    for copy, original in copies:
        if copy.folder != original.folder and (copy.folder, original.folder) in others:
            kept.append(copy)
        else:
            failures.append(_duplicate(copy, original))
    paths = {header.file.path for header in kept}
    return [header for header in headers if header.file.path in paths], failures


def drop_identical(
    places: Sequence[Sequence[Header]],
) -> tuple[list[list[Header]], list[Failure]]:
    """Of images at one place keep one of each content, judged by the stored pixel bytes.

    Only a set of images that repeats others throughout is a copy, and only of images with the
    same traits. Two acquisitions of one place both begin and end with slices of nothing but air,
    which are equal and belong to two scans.
    """
    originals: list[dict[object, Header]] = [{} for _ in places]
    kept: list[list[Header]] = [[] for _ in places]
    failures: list[Failure] = []
    turns = max(len(place) for place in places)
    ordered = [sorted(place, key=in_order) for place in places]
    for turn in range(turns):
        images = [(at, place[turn]) for at, place in enumerate(ordered) if turn < len(place)]
        repeats = [(at, header, _content(header, ordered[at])) for at, header in images]
        if turn and all(content in originals[at] for at, _, content in repeats):
            failures += [_duplicate(h, originals[at][content]) for at, h, content in repeats]
            continue
        for at, header, content in repeats:
            originals[at].setdefault(content, header)
            kept[at].append(header)
    return kept, failures


def split_by_turn(stacks: Sequence[Sequence[Header]]) -> list[list[Header]]:
    """Split repeated places by order of acquisition: the first image of each place, the second."""
    parts: dict[int, list[Header]] = defaultdict(list)
    for stack in stacks:
        for turn, header in enumerate(sorted(stack, key=in_order)):
            parts[turn].append(header)
    return [parts[turn] for turn in sorted(parts)]


def in_order(header: Header) -> tuple[bool, int, str, int]:
    """Sort key: by instance number, name and frame; images without a number come last."""
    number = header.concatenation.number if header.concatenation else header.instance_number
    return number is None, number or 0, header.file.source, header.frame or 0


def repeated_numbers(headers: Sequence[Header]) -> bool:
    """True where instance numbers do not put the files of the images in one order."""
    files = {header.file.path: in_order(header)[:2] for header in headers}
    numbers = Counter(files.values())
    return len(files) > 1 and (any(none for none, _ in numbers) or max(numbers.values()) > 1)


def _place(header: Header) -> tuple[object, ...]:
    return header.plane.position, header.plane.orientation, header.traits


def _same_image(first: Header, second: Header) -> bool:
    return first.syntax != second.syntax or _digest(first) == _digest(second)


def _content(header: Header, place: Sequence[Header]) -> object:
    """What is equal for copies; pixels are read only where something could be a copy."""
    alike = sum(other.traits == header.traits for other in place)
    own = header.file.path if header.frame is None else (header.file.path, header.frame)
    return (_digest(header), header.traits) if alike > 1 and header.frame is None else own


def _digest(header: Header) -> str:
    """Hash of the stored pixel bytes; of a file that cannot be parsed, something of its own."""
    with quiet:
        try:
            dataset, _ = open_dicom(header.file.path, header.file.source, tags=_PIXELS)
            stored = next(dataset[tag].value for tag in _PIXELS if tag in dataset)
            return hashlib.sha256(stored).hexdigest()
        except Exception:  # any damage: reading the file will tell
            return str(header.file.path)


def _decodable(syntax: str) -> bool:
    with quiet:
        return can_decode(syntax)


def _duplicate(header: Header, original: Header) -> Failure:
    message = f"{header.file.source} repeats the image in {original.file.source}: one was used"
    return Failure(header.file.source, "duplicate", message, status="skipped")
