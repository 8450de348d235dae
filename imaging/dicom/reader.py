"""DICOM scans: all files of a scan as one array with one geometry, and what one file holds.

Slices (slice, row, column[, 3]) come in the order of their positions along the normal.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from wsseg.imaging.dicom.file import (
    at_pixels,
    frame_count,
    integer,
    items,
    open_dicom,
    silence_pydicom,
    text,
)
from wsseg.imaging.dicom.geometry import heights_of, orientation_shown, stack_geometry
from wsseg.imaging.dicom.header import read_headers
from wsseg.imaging.dicom.mosaic import check_no_grid
from wsseg.imaging.dicom.object import (
    GEOMETRY_TAGS,
    OpenObject,
    Part,
    mosaic_in,
    open_object,
    order_slices,
    read_frames,
    stated_step,
)
from wsseg.imaging.dicom.pixels import Pixels
from wsseg.imaging.dicom.series import group
from wsseg.imaging.dicom.sop_classes import no_image
from wsseg.imaging.errors import Failure, ReadError
from wsseg.imaging.files import version_of
from wsseg.imaging.intensity import fill_nonfinite, lowest_finite, no_finite_values
from wsseg.imaging.limits import DEFAULT_LIMITS, ReadLimits
from wsseg.imaging.orientation import show_image, turned
from wsseg.imaging.pictures import grey_if_equal
from wsseg.imaging.scan import (
    AS_STORED,
    FileRef,
    Geometry,
    PlaneName,
    Planes,
    Reorientation,
    Scan,
    ScanRef,
    reorient_stack,
)
from wsseg.imaging.stopping import check_not_stopped

# Values beyond which slices are not kept: half a GiB of float32. To decode them anew each time
# costs less than the memory.
LONG_PIXELS = 1 << 27
_COLOUR_AXES = 4
# A table may name each slice of a file in a row of its own, and ask several things of each.
_REMEMBERED = 4096

_ReadSlices = Callable[[Sequence[int]], Pixels]


def read_dicom(ref: ScanRef, limits: ReadLimits = DEFAULT_LIMITS) -> Scan:
    """Read a scan of one or many DICOM files; slices come in the order of their positions.

    Planes are in display order where all agree on their orientation in the patient, else as stored.
    Slices of more than LONG_PIXELS values from multi-frame files are decoded once here, to know
    that they can be, and again each time that they are accessed. Slices without positions keep the
    order of `ref.files`.
    Files that cannot be read become `failures` of the scan, with the flag GAP; ReadError is
    raised only if none can, or for a scan beyond the limits. Other flags: MONOCHROME1 (was
    inverted), PADDING_REPLACED, SCALED_TO_8_BIT, NOT_HU (CT values in another unit), NOT_SUV (so
    for PET), NONFINITE, PX_ONLY,
    SPACING_CONFLICT (several lengths that contradict each other), DETECTOR_PLANE, MIXED_SPACING,
    TILT, GAP, NONUNIFORM, NO_POSITION (slices of a body without positions), GUESSED_SYNTAX,
    UNKNOWN_CLASS, LOCALIZER, PHI_RISK (may show a name), beside those of `ref`.
    """
    parts: list[Part] = []
    failures: list[Failure] = []
    stack: _Stack | _LongStack | None = None
    for file, frames in zip_longest(ref.files, ref.frames):
        check_not_stopped()
        try:
            opened = open_object(file, frames, rest_follows=bool(ref.frames), limits=limits)
        except ReadError as error:
            failures.append(Failure(file.source, error.reason, str(error)))
            continue
        stack = stack or _stack_for(ref, opened, limits)
        try:
            parts.append(stack.add(opened, file.source))
        except ReadError as error:
            failures.append(Failure(file.source, error.reason, str(error)))
    if stack is None or not parts:
        message = failures[0].message
        if len(failures) > 1:
            message = f"none of {len(failures)} files of the scan can be read; the first: {message}"
        raise ReadError(failures[0].reason, message)
    return _scan(ref, parts, stack.pixels(), failures)


def _stack_for(ref: ScanRef, first: OpenObject, limits: ReadLimits) -> "_Stack | _LongStack":
    """An empty stack for all slices of a scan, by the first of its files that can be read.

    Raises ReadError for a scan beyond the limits.
    """
    alone = first.shape[0] if len(ref.files) == 1 else len(ref.files)
    shape = (sum(map(len, ref.frames)) or alone, *first.shape[1:])
    several = shape[0] > len(ref.files)
    held = not several or math.prod(shape) <= LONG_PIXELS
    limits.check_scan(4 * math.prod(shape), ref.files[0].source, held=held)
    if not held:
        return _LongStack()
    return _Stack(shape, [len(frames) for frames in ref.frames] or [shape[0] // len(ref.files)])


class _Stack:
    """The slices of all files of a scan in memory. counts: numbers of slices a file may have."""

    def __init__(self, shape: tuple[int, ...], counts: Sequence[int]) -> None:
        self._pixels: Pixels = np.empty(shape, np.float32)
        self._counts = counts
        self._done = 0

    def add(self, opened: OpenObject, source: str) -> Part:
        """Decode a file and return its part of the scan. Raises ReadError."""
        count = opened.shape[0]
        target = self._pixels[self._done : self._done + count]
        if count not in self._counts or opened.shape != target.shape:
            expected = (self._counts[0], *self._pixels.shape[1:])
            raise ReadError(
                "broken_header",
                f"{source} has pixels of shape {opened.shape}, {expected} was expected: "
                "export the series again",
            )
        opened.decode_into(target)
        damaged = fill_nonfinite(target, source)
        self._done += count
        return opened.part.with_flag("NONFINITE") if damaged else opened.part

    def pixels(self) -> Pixels:
        """All slices so far."""
        return self._pixels[: self._done]


class _LongStack:
    """The slices of one or several multi-frame objects, decoded when they are accessed.

    Each object is read through once when it is added, to know that all of it can be decoded and
    which values it has.
    """

    def __init__(self) -> None:
        self._objects: list[tuple[range, _ReadSlices]] = []
        self._shape: tuple[int, ...] = ()
        self._grey = True

    def add(self, opened: OpenObject, source: str) -> Part:
        """Read through an object and return its part of the scan. Raises ReadError."""
        if self._objects and opened.shape[1:] != self._shape[1:]:
            raise ReadError(
                "broken_header",
                f"{source} has frames of {opened.shape[1:]} pixels, {self._shape[1:]} were "
                "expected: export the series again",
            )

        def raw(slices: Sequence[int]) -> Pixels:
            stack = np.empty((len(slices), *opened.shape[1:]), np.float32)
            opened.decode_into(stack, slices)
            return stack

        grey, lowest, damaged = len(opened.shape) == _COLOUR_AXES, math.inf, False
        for plane in Planes(opened.shape, raw):
            grey = grey and bool((plane == plane[..., :1]).all())
            damaged = damaged or not np.isfinite(plane).all()
            lowest = min(lowest, lowest_finite(plane))
        if damaged and not math.isfinite(lowest):
            raise no_finite_values(source)

        def mended(slices: Sequence[int]) -> Pixels:
            stack = raw(slices)
            fill_nonfinite(stack, source, elsewhere=lowest)
            return stack

        first = self._shape[0] if self._shape else 0
        self._objects.append((range(first, first + opened.shape[0]), mended if damaged else raw))
        self._shape = (first + opened.shape[0], *opened.shape[1:])
        self._grey = self._grey and grey
        part = opened.part
        return part.with_flag("NONFINITE") if damaged else part

    def pixels(self) -> Planes:
        """All slices; colours whose channels are equal throughout are grey."""
        if not self._grey:
            return Planes(self._shape, self._read)
        return Planes(self._shape[:-1], lambda indices: self._read(indices)[..., 0])

    def _read(self, indices: Sequence[int]) -> Pixels:
        stack = np.empty((len(indices), *self._shape[1:]), np.float32)
        for own, read in self._objects:
            positions = [k for k, index in enumerate(indices) if index in own]
            if positions:
                stack[positions] = read([own.index(indices[k]) for k in positions])
        return stack


def _scan(ref: ScanRef, parts: list[Part], stack: Pixels | Planes, failures: list[Failure]) -> Scan:
    flags = set(ref.flags).union(*(part.flags for part in parts))
    planes = [plane for part in parts for plane in part.planes]
    slices = [slice_id for part in parts for slice_id in part.slices]
    heights = heights_of(planes)
    if heights is not None and (np.diff(heights) <= 0).any():
        # Files of several frames each may hold slices that lie between those of another file.
        order = np.argsort(heights, kind="stable")
        planes, slices = [planes[k] for k in order], [slices[k] for k in order]
        stack = stack.take([int(k) for k in order]) if isinstance(stack, Planes) else stack[order]
    geometry, geometry_flags = stack_geometry(planes, parts[0].step_mm)
    flags |= geometry_flags
    if failures:
        flags.add("GAP")
    if geometry.positions_mm is None and parts[0].tomographic:
        flags.add("NO_POSITION")
    plane, reorientation = show_image(orientation_shown(planes))
    count, rows, columns, *colours = stack.shape
    if not isinstance(stack, Planes):
        stack = grey_if_equal(reorient_stack(stack, reorientation), axes=3)
    elif reorientation != AS_STORED:
        shape = (count, *reorientation.shape((rows, columns)), *colours)
        stack = stack.each(lambda plane: np.ascontiguousarray(reorientation.apply(plane)), shape)
    return Scan(
        pixels=stack,
        geometry=turned(geometry, reorientation, (rows, columns)),
        slices=tuple(slices),
        ref=ref,
        modality=parts[0].modality,
        study_uid=parts[0].study_uid,
        series_uid=parts[0].series_uid,
        flags=tuple(sorted(flags)),
        failures=tuple(failures),
        reorientation=reorientation,
        plane=plane,
    )


@dataclass(frozen=True)
class DicomVolume:
    """One scan of a file, by the header alone.

    stored: (rows, columns) of a slice as in the file. geometry: of the slices in their order, as
    shown. frames: their indices in the file, from 0.
    """

    stored: tuple[int, int]
    frames: tuple[int, ...]
    geometry: Geometry
    reorientation: Reorientation
    plane: PlaneName
    modality: str


def dicom_volumes(path: Path) -> tuple[DicomVolume, ...]:
    """The scans that `find` would find in a file, with the geometry `read_dicom` would give them.

    No pixel is read. Raises ReadError and whatever pydicom raises on damage.
    """
    return _volumes(path, version_of(path))


def frames_ref(path: Path, frames: tuple[int, ...]) -> ScanRef:
    """A part of a scan of one file: some of its frames, by their indices."""
    return ScanRef("dicom", (FileRef(path, path.name),), frames=(frames,))


@lru_cache(maxsize=_REMEMBERED)
def _volumes(path: Path, _version: tuple[int, int]) -> tuple[DicomVolume, ...]:
    with silence_pydicom:
        header, _ = open_dicom(path, path.name, tags=GEOMETRY_TAGS, stop=at_pixels)
        check_no_grid(header, path.name)
        grouped = bool(items(header, "PerFrameFunctionalGroupsSequence"))
        image = not no_image(text(header, "SOPClassUID"), text(header, "Modality"))
        plain = image and not grouped and frame_count(header) == 1
        if plain and not mosaic_in(header, path.name):
            return (_volume(header, path.name, None),)
    headers = read_headers(FileRef(path, path.name))
    if isinstance(headers, Failure):
        raise ReadError(headers.reason, headers.message)
    refs = [ref for ref in group(headers) if isinstance(ref, ScanRef)]
    with silence_pydicom:
        chosen = [ref.frames[0] if ref.frames else None for ref in refs]
        return tuple(_volume(header, path.name, frames) for frames in chosen)


def _volume(header: Dataset, source: str, chosen: tuple[int, ...] | None) -> DicomVolume:
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    if not rows or not columns:
        what = "its header does not say how many rows and columns it has"
        raise ReadError("broken_header", f"{source} is damaged, {what}: export it again")
    mosaic = mosaic_in(header, source)
    count = frame_count(header)
    frames = read_frames(header, count, source, None if mosaic else chosen)
    slices = order_slices(frames, count, chosen, mosaic)
    geometry, _ = stack_geometry(slices.planes, stated_step(header))
    plane, reorientation = show_image(orientation_shown(slices.planes))
    stored = (mosaic.rows, mosaic.columns) if mosaic else (rows, columns)
    return DicomVolume(
        stored,
        slices.indices,
        turned(geometry, reorientation, stored),
        reorientation,
        plane,
        text(header, "Modality"),
    )
