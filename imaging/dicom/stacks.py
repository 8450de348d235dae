"""Images on parallel planes: copies, repeated positions, and which images are slices of one scan.

Heights are positions along the common normal, in mm.
"""

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
from wsseg.imaging.dicom.geometry import is_even, normal_of, same_position_mm
from wsseg.imaging.dicom.header import (
    GATED_TRAITS,
    ROUNDED_TRAITS,
    TRAIT_NAMES,
    VARYING_TRAITS,
    Header,
)
from wsseg.imaging.errors import Failure
from wsseg.imaging.hashed_names import real_name

_PIXELS = tags_of(("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
# Images closer than this part of their thickness show the same tissue: a table that came back.
_SAME_TISSUE = 0.1
# The same in mm: at most, and of slices without a stated thickness.
_MOST_SAME_TISSUE_MM, _SAME_TISSUE_MM = 0.5, 0.1
# Slices are this many times farther apart than images of one position.
_APART = 5
# Slices that overlap by more than this part of their thickness are not of one scan.
_OVERLAP = 0.05
# Significant digits of times and angles: 4.6 ms and 4.600001 ms are one echo.
_DIGITS = 4
# Slices that a scan must have to be separated from a far longer one around it.
_FEWEST_WITHIN = 3

Images = list[Header]
"""The images of one position."""
Key = Callable[[Header], str]
_FOLDER: Key = attrgetter("folder")


def drop_copies(headers: Sequence[Header]) -> tuple[list[Header], list[Failure]]:
    """Keep one file of each SOP instance.

    A UID that careless software gave to different images makes no copies: the same UID counts only
    with the same position, number and traits, and, where both files encode pixels alike, the same
    pixels. Where a folder has other images under the UIDs of another folder, nothing in it is a
    copy: two patients were given the same UIDs, and both have slices of nothing but air. Of
    copies in several encodings, one that can be decoded here is kept.
    """
    files: dict[Path, Header] = {}
    for header in headers:
        files.setdefault(header.file.path, header)
    with silence_pydicom:
        undecodable = {h.file.path for h in files.values() if not can_decode(h.syntax)}
    kept: list[Header] = []
    copies: list[tuple[Header, Header]] = []
    others: set[tuple[str, str]] = set()
    seen: dict[object, list[Header]] = defaultdict(list)
    for header in sorted(files.values(), key=lambda h: h.file.path in undecodable):
        instance = header.uids[2]
        plane = header.plane
        identity = (
            *(plane.position, plane.orientation, header.traits),
            *(instance, header.instance_number, header.frames),
        )
        same_pixels = (
            h for h in seen[identity] if h.syntax != header.syntax or _digest(h) == _digest(header)
        )
        original = next(same_pixels, None)
        if instance and original:
            copies.append((header, original))
            continue
        others |= {(header.folder, h.folder) for h in seen[identity] if instance}
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


def _digest(header: Header) -> str:
    """Hash of the stored pixel bytes; something unique for a file that cannot be parsed."""
    with silence_pydicom:
        try:
            dataset, _ = open_dicom(header.file.path, header.file.source, tags=_PIXELS)
            stored = next(dataset[tag].value for tag in _PIXELS if tag in dataset)
            return hashlib.sha256(stored).hexdigest()
        except Exception:  # any damage: reading the file will report it
            return str(header.file.path)


def _duplicate(header: Header, original: Header) -> Failure:
    message = f"{header.file.source} repeats the image in {original.file.source}: one was used"
    return Failure(header.file.source, "duplicate", message, status="skipped")


def in_order(header: Header) -> tuple[bool, int, str, int]:
    """Sort key: by instance number, name and frame; images without a number come last."""
    number = header.concatenation.number if header.concatenation else header.instance_number
    return number is None, number or 0, real_name(header.file.source), header.frame or 0


def repeated_numbers(headers: Sequence[Header]) -> bool:
    """True where instance numbers do not put the files of the images in one order."""
    files = {header.file.path: in_order(header)[:2] for header in headers}
    numbers = Counter(files.values())
    return len(files) > 1 and (any(none for none, _ in numbers) or max(numbers.values()) > 1)


def scans_of_stack(stack: Sequence[Header]) -> tuple[list[list[Header]], list[Failure], set[str]]:
    """Scans in slice order, files dropped as identical, and flags for all of the scans.

    Images at one position with different traits (time, echo, weighting, quantity) are slices of
    different scans, and so are images of two stacks that lie between each other.
    REPEATED_POSITIONS: only the order of acquisition separated them. DUPLICATE: copies dropped.
    """
    positions = _by_position(stack)
    dropped: list[Failure] = []
    if _most(positions) > 1:
        positions, dropped = _drop_identical(positions)
    scans, flags = _split(positions)
    return scans, dropped, flags | ({"DUPLICATE"} if dropped else set())


def _by_position(stack: Sequence[Header]) -> list[Images]:
    """The images of each position along the normal, in the order of the positions.

    Positions that differ by less than `same_position_mm` are one; so are those that differ by a
    small part of the slice's thickness, where whole slices lie between one of these and the next.
    """
    heights = _heights(stack)
    same = same_position_mm(stack[0].plane.pixel_mm)
    exact = _clusters(stack, heights, same)
    thickness = min((header.thickness_mm or 0.0 for header in stack), default=0.0)
    same_tissue = _SAME_TISSUE * thickness if thickness > 0 else _SAME_TISSUE_MM
    nearest = min(max(same, same_tissue), _MOST_SAME_TISSUE_MM)
    steps = np.diff(np.sort(heights))
    if not ((steps > same) & (steps <= nearest)).any():
        return exact
    rough = _clusters(stack, heights, nearest)
    extents = [float(np.ptp(_heights(images))) for images in rough]
    between = [_heights(after).min() - _heights(before).max() for before, after in pairwise(rough)]
    apart = min(between, default=np.inf) >= _APART * max(extents)
    known = len(rough) > 1 or bool(stack[0].thickness_mm)
    return rough if apart and known else exact


def _heights(stack: Sequence[Header]) -> NDArray[np.float64]:
    positions = np.array([header.plane.position for header in stack], np.float64)
    heights: NDArray[np.float64] = positions @ normal_of(stack[0].plane.orientation or ())
    return heights


def _clusters(stack: Sequence[Header], heights: NDArray[np.float64], reach: float) -> list[Images]:
    clusters: list[Images] = []
    start = -np.inf
    for height, header in sorted(zip(heights, stack, strict=True), key=lambda pair: pair[0]):
        if height - start > reach:
            clusters.append([])
            start = height
        clusters[-1].append(header)
    return clusters


def _most(positions: Sequence[Images]) -> int:
    return max(len(images) for images in positions)


def _drop_identical(positions: Sequence[Images]) -> tuple[list[Images], list[Failure]]:
    """Of images at one position keep one of each content, compared by the stored pixel bytes.

    Only a set of images that repeats others throughout is a copy, and only of images with the
    same traits. Two acquisitions of one position both begin and end with slices of nothing but
    air, which are equal and belong to two scans.
    """
    originals: list[dict[object, Header]] = [{} for _ in positions]
    kept: list[Images] = [[] for _ in positions]
    failures: list[Failure] = []
    ordered = [sorted(images, key=in_order) for images in positions]
    for turn in range(_most(positions)):
        repeats = [
            (k, images[turn], _content(images[turn], images))
            for k, images in enumerate(ordered)
            if turn < len(images)
        ]
        if turn and all(content in originals[k] for k, _, content in repeats):
            failures += [_duplicate(h, originals[k][content]) for k, h, content in repeats]
            continue
        for k, header, content in repeats:
            originals[k].setdefault(content, header)
            kept[k].append(header)
    return kept, failures


def _content(header: Header, images: Images) -> object:
    """A value that is equal for copies; pixels are read only where something could be a copy."""
    alike = sum(other.traits == header.traits for other in images)
    if alike > 1 and header.frame is None:
        return _digest(header), header.traits
    return header.file.path if header.frame is None else (header.file.path, header.frame)


def _split(positions: Sequence[Images]) -> tuple[list[list[Header]], set[str]]:
    """Scans with one image a position; by the traits that distinguish images, else by turn."""
    most = _most(positions)
    if most == 1:
        stack = _firsts(positions)
        return _between_each_other(stack) or _beside_each_other(stack) or [stack], set()
    longest = max(len(header.traits) for images in positions for header in images)
    for key in [*map(_trait, range(longest)), _FOLDER]:
        parts = _parts(positions, key)
        # Parts are scans if there are fewer repeats in each, and no fragments among them, or if
        # their slices lie between each other and meet at some positions.
        fewer = 1 < len(parts) <= most and all(_most(part) < most for part in parts)
        whole = 2 * min(map(len, parts)) >= len(positions)
        once = len(parts) > 1 and all(_most(part) == 1 for part in parts)
        if (fewer and whole) or (once and _interleaved([_firsts(part) for part in parts])):
            splits = [_split(part) for part in parts]
            scans = [scan for of_part, _ in splits for scan in of_part]
            return scans, set[str]().union(*(flags for _, flags in splits))
    # The first image of each position in order of acquisition, the second, and so on.
    turns: dict[int, list[Header]] = defaultdict(list)
    for images in positions:
        for turn, header in enumerate(sorted(images, key=in_order)):
            turns[turn].append(header)
    return [turns[turn] for turn in sorted(turns)], {"REPEATED_POSITIONS"}


def _trait(column: int) -> Key:
    rounded = column < len(TRAIT_NAMES) and TRAIT_NAMES[column] in ROUNDED_TRAITS

    def value(header: Header) -> str:
        stated = header.traits[column] if column < len(header.traits) else ""
        if rounded and stated:
            number, _ = _as_number(stated)
            return f"{number:.{_DIGITS}g}" if math.isfinite(number) else stated
        return stated

    return value


def _parts(positions: Sequence[Images], key: Key) -> list[list[Images]]:
    """Positions with the images of each value of a key, in the order of the values."""
    parts: dict[str, list[Images]] = defaultdict(list)
    for images in positions:
        by_value: dict[str, Images] = defaultdict(list)
        for header in images:
            by_value[key(header)].append(header)
        for value, own in by_value.items():
            parts[value].append(own)
    return [parts[value] for value in sorted(parts, key=_as_number)]


def _as_number(value: str) -> tuple[float, str]:
    """Sort key: numbers by size, before all other text."""
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _firsts(positions: Sequence[Images]) -> list[Header]:
    return [images[0] for images in positions]


def _between_each_other(stack: list[Header]) -> list[list[Header]] | None:
    """Two scans or more whose slices lie between each other; None where they are one.

    Something must distinguish them, and each by itself must be evenly spaced. A scanner may acquire
    the odd slices of one scan before the even ones, with another number or time: by those, scans
    are separated only where slices would overlap if they were of one scan.
    """
    for key, doubt in _between_keys(stack):
        if not 1 < len({key(header) for header in stack}) <= len(stack) // 2:
            continue
        parts = [_firsts(part) for part in _parts([[header] for header in stack], key)]
        if _interleaved(parts) and (doubt is None or _overlap(stack, parts, unstated=doubt)):
            return parts
    return None


def _between_keys(stack: Sequence[Header]) -> Iterator[tuple[Key, bool | None]]:
    """Keys that may separate scans; whether they do where no thickness is stated.

    None for those that never differ within one scan.
    """
    for column in range(max(len(header.traits) for header in stack)):
        name = TRAIT_NAMES[column] if column < len(TRAIT_NAMES) else ""
        varying = not name or name in VARYING_TRAITS
        yield _trait(column), (name not in GATED_TRAITS) if varying else None
    yield _FOLDER, True
    by_time = TRAIT_NAMES.index("AcquisitionTime")
    for order in (in_order, lambda header: (header.traits[by_time], in_order(header))):
        yield _pass_of(sorted(stack, key=order)), False


def _pass_of(stack: Sequence[Header]) -> Key:
    """The pass over the body in which an image was taken, of images in order of acquisition."""
    passes: dict[int, str] = {}
    heights = _heights(stack)
    index, direction = 0, 0.0
    for k, header in enumerate(stack):
        step = heights[k] - heights[k - 1] if k else 0.0
        if step * direction < 0:
            index, direction = index + 1, 0.0
        else:
            direction = direction or step
        passes[id(header)] = str(index)
    return lambda header: passes[id(header)]


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
    return parts if all(is_even(_heights_along(part, part)) for part in parts) else None


def _interleaved(parts: Sequence[list[Header]]) -> bool:
    """Whether evenly spaced parts of several slices cover the same section of the body.

    Or one of them lies within the section of the others, as a phase of one organ does.
    """
    if min(map(len, parts)) < 2:
        return False
    heights = [_heights_along(part, parts[0]) for part in parts]
    ends = [(min(part), max(part)) for part in heights]
    lowest, highest = min(low for low, _ in ends), max(high for _, high in ends)
    shared = min(high for _, high in ends) - max(low for low, _ in ends)
    within = shared >= min(high - low for low, high in ends) > 0
    same = 2 * shared >= highest - lowest or (within and min(map(len, parts)) >= _FEWEST_WITHIN)
    return same and all(is_even(part) for part in heights)


def _heights_along(part: Sequence[Header], reference: Sequence[Header]) -> list[float]:
    """Ascending heights of a part along the normal of another one."""
    normal = normal_of(reference[0].plane.orientation or ())
    return sorted(float(np.dot(header.plane.position or (), normal)) for header in part)


def _overlap(stack: Sequence[Header], parts: Sequence[list[Header]], *, unstated: bool) -> bool:
    """Whether slices of all parts together lie closer than the header states.

    unstated: the answer where it states neither thickness nor distance, and all slices together
    are evenly spaced.
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
    # Evenly spaced parts that make an uneven whole were positioned separately.
    return unstated or not is_even(merged.cumsum().tolist())
