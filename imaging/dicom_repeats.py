"""Images at one place: copies are dropped, time points and echoes become scans of their own."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from wsseg.imaging.dicom_file import open_dicom
from wsseg.imaging.dicom_header import TEMPORAL_KEYWORDS, Header
from wsseg.imaging.dicom_quiet import quiet
from wsseg.imaging.dicom_values import tags_of
from wsseg.imaging.errors import Failure

_PIXELS = tags_of(("PixelData", "FloatPixelData", "DoubleFloatPixelData"))


def drop_copies(headers: Sequence[Header]) -> tuple[list[Header], list[Failure]]:
    """Keep one file of each SOP instance.

    A UID that careless software gave to different images is no copy: the same UID counts only
    with the same place and number, and, where both files encode pixels alike, the same pixels.
    Of copies in several encodings one that can be decoded here is kept.
    """
    kept: list[Header] = []
    failures: list[Failure] = []
    seen: dict[object, list[Header]] = defaultdict(list)
    for header in sorted(headers, key=lambda h: not _decodable(h.syntax)):
        identity = (header.instance_uid, header.position, header.instance_number, header.frames)
        original = next((h for h in seen[identity] if _same_image(h, header)), None)
        if header.instance_uid and original:
            failures.append(_duplicate(header, original))
        else:
            seen[identity].append(header)
            kept.append(header)
    return kept, failures


def drop_identical(
    stacks: Sequence[Sequence[Header]],
) -> tuple[list[list[Header]], list[Failure]]:
    """Of the images at each place keep one of each content, judged by the stored pixel bytes."""
    kept: list[list[Header]] = []
    failures: list[Failure] = []
    for stack in stacks:
        originals: dict[str, Header] = {}
        for header in stack:
            content = _digest(header) if len(stack) > 1 else ""
            if content in originals:
                failures.append(_duplicate(header, originals[content]))
            else:
                originals[content] = header
        kept.append(list(originals.values()))
    return kept, failures


def split_by_time(stacks: Sequence[Sequence[Header]]) -> list[list[Header]] | None:
    """Split repeated places into time points, echoes or weightings; None where no tag tells them.

    `stacks` holds the images of each place. A tag counts only if it takes as many values as
    places have images, and none of its parts covers less than half the places.
    """
    most = max(len(stack) for stack in stacks)
    for column in range(len(TEMPORAL_KEYWORDS)):
        parts: dict[str, list[Header]] = defaultdict(list)
        single = True
        for stack in stacks:
            values = [header.temporal[column] for header in stack]
            single = single and len(set(values)) == len(values)
            for value, header in zip(values, stack, strict=True):
                parts[value].append(header)
        if single and len(parts) == most and 2 * min(map(len, parts.values())) >= len(stacks):
            return [parts[value] for value in sorted(parts, key=_as_number)]
    return None


def split_by_turn(stacks: Sequence[Sequence[Header]]) -> list[list[Header]]:
    """Split repeated places by order of acquisition: the first image of each place, the second."""
    parts: dict[int, list[Header]] = defaultdict(list)
    for stack in stacks:
        for turn, header in enumerate(sorted(stack, key=in_order)):
            parts[turn].append(header)
    return [parts[turn] for turn in sorted(parts)]


def in_order(header: Header) -> tuple[bool, int, str]:
    """Sort key: by instance number, then by name; images without a number come last."""
    number = header.instance_number
    return number is None, number or 0, header.file.source


def repeated_numbers(headers: Sequence[Header]) -> bool:
    """True where instance numbers do not put the images in one order."""
    numbers = Counter(header.instance_number for header in headers)
    return numbers[None] > 0 or max(numbers.values()) > 1


def _as_number(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _same_image(first: Header, second: Header) -> bool:
    return first.syntax != second.syntax or _digest(first) == _digest(second)


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
        try:
            return bool(get_decoder(UID(syntax)).is_available)
        except (NotImplementedError, ValueError):  # ValueError: no UID at all
            return False


def _duplicate(header: Header, original: Header) -> Failure:
    message = f"{header.file.source} repeats the image in {original.file.source}: one was used"
    return Failure(header.file.source, "duplicate", message, status="skipped")
