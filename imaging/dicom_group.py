"""Which DICOM files make one scan, and in which order."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from wsseg.imaging.dicom_classes import sort_of
from wsseg.imaging.dicom_geometry import agree, normal_of
from wsseg.imaging.dicom_header import Header
from wsseg.imaging.dicom_repeats import (
    drop_copies,
    drop_identical,
    in_order,
    repeated_numbers,
    split_by_time,
    split_by_turn,
)
from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import ScanRef

# Scanners repeat a table position to a few micrometres; slices are never that near.
SAME_PLACE_MM = 0.01
# Spacings of one series that agree to this are one spacing, written differently.
_SPACING_DECIMALS = 4

_Plane = tuple[float, ...] | None


def group(headers: Iterable[Header]) -> Iterator[ScanRef | Failure]:
    """Turn headers into scans, in slice order; what is passed over comes as Failure.

    Every header ends in exactly one of them. Scans of one series are numbered by `part`.
    """
    by_series: dict[tuple[str, str], list[Header]] = defaultdict(list)
    for header in headers:
        by_series[header.series].append(header)
    for series in by_series.values():
        yield from _scans_of_series(series)


def _scans_of_series(series: list[Header]) -> Iterator[ScanRef | Failure]:
    headers, failures = drop_copies(sorted(series, key=lambda h: h.file.source))
    headers, localizers = _set_localizers_apart(headers)
    yield from failures
    yield from localizers
    duplicates = {"DUPLICATE"} if failures else set()
    parts: list[tuple[list[Header], set[str]]] = []
    for stack in _alike(headers):
        scans, dropped, flags = _scans_of_stack(stack)
        yield from dropped
        parts += [(scan, flags | duplicates) for scan in scans]
    if len(parts) > 1 and any(len(scan) > 1 for scan, _ in parts):
        parts = [(scan, flags | {"SPLIT"}) for scan, flags in parts]
    for part, (scan, flags) in enumerate(parts):
        files = tuple(header.file for header in scan)
        size = sum(header.decoded_bytes for header in scan)
        yield ScanRef("dicom", files, part=part, flags=tuple(sorted(flags)), decoded_bytes=size)


def _set_localizers_apart(headers: list[Header]) -> tuple[list[Header], list[Failure]]:
    """Skip the localizers of a series that also holds the images they were made to plan."""
    planned = [h for h in headers if not h.localizer]
    directions = _Clusters()
    used = {directions.index(h.orientation) for h in planned}
    apart = [h for h in headers if h.localizer and directions.index(h.orientation) not in used]
    if not planned or not apart:
        return headers, []
    message = "is a localizer within a series of other images"
    failures = [
        Failure(h.file.source, "localizer", f"{h.file.source} {message}", status="skipped")
        for h in apart
    ]
    skipped = {id(h) for h in apart}
    return [h for h in headers if id(h) not in skipped], failures


def _alike(headers: Sequence[Header]) -> list[list[Header]]:
    """Images that could be slices of one scan: same class, grid, spacing and orientation."""
    directions = _Clusters()
    groups: dict[object, list[Header]] = defaultdict(list)
    for header in headers:
        groups[_likeness(header, directions)].append(header)
    return list(groups.values())


def _likeness(header: Header, directions: "_Clusters") -> object:
    placed = header.position is not None and header.orientation is not None
    pictures = sort_of(header.sop_class) == "projection"
    alone = header.frames > 1 or (pictures and not placed)
    spacing = header.spacing and tuple(round(x, _SPACING_DECIMALS) for x in header.spacing)
    return (
        header.file.path if alone else None,
        header.frame_of_reference,
        header.sop_class,
        header.modality,
        (header.rows, header.columns, header.colour),
        spacing,
        placed,
        directions.index(header.orientation),
    )


class _Clusters:
    """Numbers orientations; those that agree within the tolerance share a number."""

    def __init__(self) -> None:
        self._seen: list[_Plane] = []

    def index(self, orientation: _Plane) -> int:
        for number, seen in enumerate(self._seen):
            if orientation is seen or (orientation and seen and agree(orientation, seen)):
                return number
        self._seen.append(orientation)
        return len(self._seen) - 1


def _scans_of_stack(
    stack: list[Header],
) -> tuple[list[list[Header]], list[Failure], set[str]]:
    """Scans in slice order, files dropped as identical, flags for all of them."""
    if stack[0].position is None or stack[0].orientation is None:
        order = {"ORDER_BY_NAME"} if len(stack) > 1 and repeated_numbers(stack) else set()
        return [sorted(stack, key=in_order)], [], order
    places = _places(stack)
    if all(len(place) == 1 for place in places):
        return [[place[0] for place in places]], [], set()
    scans = split_by_time(places)
    if scans:
        return scans, [], set()
    places, dropped = drop_identical(places)
    flags = {"DUPLICATE"} if dropped else set()
    if all(len(place) == 1 for place in places):
        return [[place[0] for place in places]], dropped, flags
    return split_by_turn(places), dropped, flags | {"REPEATED_POSITIONS"}


def _places(stack: Sequence[Header]) -> list[list[Header]]:
    """The images of each position along the normal, in the order of the positions."""
    normal = normal_of(stack[0].orientation or ())
    heights = [float(np.dot(header.position or (), normal)) for header in stack]
    places: list[list[Header]] = []
    last = -np.inf
    for height, header in sorted(zip(heights, stack, strict=True), key=lambda pair: pair[0]):
        if height - last > SAME_PLACE_MM:
            places.append([])
            last = height
        places[-1].append(header)
    return places
