"""Images that lie on parallel planes, told apart: which of them are slices of one scan."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.dicom.file import can_decode, open_dicom, silence_pydicom, tags_of
from wsseg.imaging.dicom.geometry import is_even, normal_of, same_place_mm
from wsseg.imaging.dicom.header import (
    GATED_TRAITS,
    ROUNDED_TRAITS,
    TRAIT_NAMES,
    VARYING_TRAITS,
    Header,
)
from wsseg.imaging.errors import Failure

# Images that repeat others: copies are dropped, what is left is put in turns.

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
    with silence_pydicom:
        try:
            dataset, _ = open_dicom(header.file.path, header.file.source, tags=_PIXELS)
            stored = next(dataset[tag].value for tag in _PIXELS if tag in dataset)
            return hashlib.sha256(stored).hexdigest()
        except Exception:  # any damage: reading the file will tell
            return str(header.file.path)


def _decodable(syntax: str) -> bool:
    with silence_pydicom:
        return can_decode(syntax)


def _duplicate(header: Header, original: Header) -> Failure:
    message = f"{header.file.source} repeats the image in {original.file.source}: one was used"
    return Failure(header.file.source, "duplicate", message, status="skipped")


Place = list[Header]
Key = Callable[[Header], str]
_FOLDER: Key = attrgetter("folder")

# Images nearer than this part of their thickness show the same tissue: a table that came back.
_SAME_TISSUE = 0.1
# The same in mm: at most, and of slices that do not say how thick they are.
_MOST_SAME_TISSUE_MM, _SAME_TISSUE_MM = 0.5, 0.1
# Slices are this much farther apart than images of one place.
_APART = 5
# Slices that overlap by more than this part of their thickness were not acquired in turns.
_OVERLAP = 0.05
# Of times and angles that count: 4.6 ms and 4.600001 ms are one echo.
_DIGITS = 4
# Slices that a scan must have to be told from a far longer one around it.
_FEWEST_WITHIN = 3


def scans_of_stack(stack: Sequence[Header]) -> tuple[list[list[Header]], list[Failure], set[str]]:
    """Scans in slice order, files dropped as identical, and flags for all of the scans.

    Of images at one place those that a trait tells apart (time, echo, weighting, quantity) are
    slices of different scans, and so are images of two stacks that lie between each other.
    REPEATED_POSITIONS: only the order of acquisition told them apart. DUPLICATE: copies dropped.
    """
    places = places_of(stack)
    dropped: list[Failure] = []
    if _most(places) > 1:
        places, dropped = drop_identical(places)
    scans, flags = _split(places)
    return scans, dropped, flags | ({"DUPLICATE"} if dropped else set())


def places_of(stack: Sequence[Header]) -> list[Place]:
    """The images of each position along the normal, in the order of the positions.

    Positions that differ by less than `same_place_mm` are one; so are those that differ by a small
    part of the slice's thickness, where whole slices lie between one such place and the next.
    """
    heights = _heights(stack)
    same = same_place_mm(stack[0].plane.pixel_mm)
    exact = _clusters(stack, heights, same)
    nearest = _same_tissue_mm(stack, same)
    steps = np.diff(np.sort(heights))
    if not ((steps > same) & (steps <= nearest)).any():
        return exact
    rough = _clusters(stack, heights, nearest)
    extents = [float(np.ptp(_heights(place))) for place in rough]
    between = [_heights(after).min() - _heights(before).max() for before, after in pairwise(rough)]
    apart = min(between, default=np.inf) >= _APART * max(extents)
    known = len(rough) > 1 or bool(stack[0].thickness_mm)
    return rough if apart and known else exact


def _heights(stack: Sequence[Header]) -> NDArray[np.float64]:
    positions = np.array([header.plane.position for header in stack], np.float64)
    heights: NDArray[np.float64] = positions @ normal_of(stack[0].plane.orientation or ())
    return heights


def _same_tissue_mm(stack: Sequence[Header], same: float) -> float:
    thickness = min((h.thickness_mm or 0.0 for h in stack), default=0.0)
    part = _SAME_TISSUE * thickness if thickness > 0 else _SAME_TISSUE_MM
    return min(max(same, part), _MOST_SAME_TISSUE_MM)


def _clusters(stack: Sequence[Header], heights: NDArray[np.float64], reach: float) -> list[Place]:
    places: list[Place] = []
    last = -np.inf
    for height, header in sorted(zip(heights, stack, strict=True), key=lambda pair: pair[0]):
        if height - last > reach:
            places.append([])
            last = height
        places[-1].append(header)
    return places


def _most(places: Sequence[Place]) -> int:
    return max(len(place) for place in places)


def _split(places: Sequence[Place]) -> tuple[list[list[Header]], set[str]]:
    """Scans with one image a place; by the traits that tell images apart, else by turn."""
    most = _most(places)
    if most == 1:
        stack = [place[0] for place in places]
        return _between_each_other(stack) or _beside_each_other(stack) or [stack], set()
    for key in _keys(places):
        parts = _parts(places, key)
        if _tell_apart(parts, most, len(places)) or _between_with_meetings(parts):
            found = [_split(part) for part in parts]
            scans = [scan for of_part, _ in found for scan in of_part]
            return scans, set[str]().union(*(flags for _, flags in found))
    return split_by_turn(places), {"REPEATED_POSITIONS"}


def _keys(places: Sequence[Place]) -> list[Key]:
    """What may tell images apart, the most telling first: traits, dimensions, folders."""
    longest = max(len(header.traits) for place in places for header in place)
    return [*map(_trait, range(longest)), _FOLDER]


def _trait(column: int) -> Key:
    rounded = column < len(TRAIT_NAMES) and TRAIT_NAMES[column] in ROUNDED_TRAITS

    def value(header: Header) -> str:
        stated = header.traits[column] if column < len(header.traits) else ""
        return _to_digits(stated) if rounded and stated else stated

    return value


def _to_digits(stated: str) -> str:
    number, _ = _as_number(stated)
    return f"{number:.{_DIGITS}g}" if math.isfinite(number) else stated


def _parts(places: Sequence[Place], key: Key) -> list[list[Place]]:
    """Places with the images of each value of a key, in the order of the values."""
    parts: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        by_value: dict[str, Place] = defaultdict(list)
        for header in place:
            by_value[key(header)].append(header)
        for value, images in by_value.items():
            parts[value].append(images)
    return [parts[value] for value in sorted(parts, key=_as_number)]


def _tell_apart(parts: Sequence[Sequence[Place]], most: int, places: int) -> bool:
    """Whether parts are scans of their own: fewer repeats in each, and no crumbs among them."""
    return (
        1 < len(parts) <= most
        and all(_most(part) < most for part in parts)
        and 2 * min(map(len, parts)) >= places
    )


def _between_with_meetings(parts: Sequence[list[Place]]) -> bool:
    """Whether parts are scans whose slices lie between each other, and meet at some places."""
    once = len(parts) > 1 and all(_most(part) == 1 for part in parts)
    return once and _interleaved([_firsts(part) for part in parts])


def _between_each_other(stack: list[Header]) -> list[list[Header]] | None:
    """Two scans or more whose slices lie between each other; None where they are one.

    Something must tell them apart, and each by itself must be evenly spaced. Slices of one scan may
    be acquired in turns, so that its odd slices have another number or time than its even ones:
    by those, scans are told apart only where slices would overlap if they were of one scan.
    """
    for key, doubt in _between_keys(stack):
        if not 1 < len({key(header) for header in stack}) <= len(stack) // 2:
            continue
        parts = [_firsts(part) for part in _parts([[header] for header in stack], key)]
        if _interleaved(parts) and (doubt is None or _overlap(stack, parts, unsaid=doubt)):
            return parts
    return None


def _between_keys(stack: Sequence[Header]) -> Iterator[tuple[Key, bool | None]]:
    """Keys that may tell scans apart; whether they do where slices do not say how thick they are.

    None for those that never differ within one scan.
    """
    for column in range(max(len(header.traits) for header in stack)):
        name = TRAIT_NAMES[column] if column < len(TRAIT_NAMES) else ""
        yield (
            _trait(column),
            (name not in GATED_TRAITS) if not name or name in VARYING_TRAITS else None,
        )
    yield _FOLDER, True
    by_time = TRAIT_NAMES.index("AcquisitionTime")
    for order in (in_order, lambda header: (header.traits[by_time], in_order(header))):
        yield _run_of(sorted(stack, key=order)), False


def _run_of(stack: Sequence[Header]) -> Key:
    """The pass over the body in which an image was taken, of images in order of acquisition."""
    runs: dict[int, str] = {}
    heights = _heights(stack)
    run, way = 0, 0.0
    for at, header in enumerate(stack):
        step = heights[at] - heights[at - 1] if at else 0.0
        if step * way < 0:
            run, way = run + 1, 0.0
        else:
            way = way or step
        runs[id(header)] = str(run)
    return lambda header: runs[id(header)]


def _beside_each_other(stack: list[Header]) -> list[list[Header]] | None:
    """Stacks in folders of their own that number their images anew; None where they are one.

    One series may be spread over folders, but its numbers go on from one to the next. Two patients
    who were given the same UIDs begin with the same number.
    """
    if len({header.folder for header in stack}) == 1:
        return None
    parts = [_firsts(part) for part in _parts([[header] for header in stack], _FOLDER)]
    numbers = [{header.instance_number for header in part} - {None} for part in parts]
    first, *others = sorted(numbers, key=len)
    if min(map(len, numbers)) < 2 or any(2 * len(first & other) < len(first) for other in others):
        return None
    return parts if all(map(_evenly_spaced, parts)) else None


def _evenly_spaced(part: Sequence[Header]) -> bool:
    return is_even(_heights_along(part, part))


def _firsts(part: Sequence[Place]) -> list[Header]:
    return [place[0] for place in part]


def _interleaved(parts: Sequence[list[Header]]) -> bool:
    """Whether evenly spaced parts of several slices cover the same stretch of the body.

    Or one of them lies within those of the others, as a phase of one organ does.
    """
    if min(map(len, parts)) < 2:
        return False
    heights = [_heights_along(part, parts[0]) for part in parts]
    ends = [(min(part), max(part)) for part in heights]
    lowest, highest = min(low for low, _ in ends), max(high for _, high in ends)
    stretch = highest - lowest
    shared = min(high for _, high in ends) - max(low for low, _ in ends)
    within = shared >= min(high - low for low, high in ends) > 0
    same = 2 * shared >= stretch or (within and min(map(len, parts)) >= _FEWEST_WITHIN)
    return same and all(is_even(part) for part in heights)


def _heights_along(part: Sequence[Header], reference: Sequence[Header]) -> list[float]:
    normal = normal_of(reference[0].plane.orientation or ())
    return sorted(float(np.dot(header.plane.position or (), normal)) for header in part)


def _overlap(stack: Sequence[Header], parts: Sequence[list[Header]], *, unsaid: bool) -> bool:
    """Whether slices of all parts together lie closer than the header says they do.

    unsaid: what is answered where it says neither how thick they are nor how far apart, and they
    are evenly spaced all together.
    """
    merged = np.diff(_heights_along(stack, parts[0]))
    own = min(float(np.diff(_heights_along(part, parts[0])).min()) for part in parts)
    stated = abs(stack[0].step_mm or 0.0)
    if stated and abs(stated - own) <= _OVERLAP * own:
        return True
    if stated and abs(stated - float(np.median(merged))) <= _OVERLAP * stated:
        return False
    thickness = min((header.thickness_mm or 0.0) for header in stack)
    if thickness > 0:
        return bool(merged.min() < (1 - _OVERLAP) * thickness)
    # Evenly spaced parts that make an uneven whole were placed apart.
    return unsaid or not is_even(merged.cumsum().tolist())


def _as_number(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value
