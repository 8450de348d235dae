"""DICOM scans: the files of one scan, read into one array with one geometry."""

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest

import numpy as np

from wsseg.imaging.dicom.geometry import heights_of, orientation_shown, stack_geometry
from wsseg.imaging.dicom.object import OpenObject, Part, open_object
from wsseg.imaging.dicom.pixels import Pixels
from wsseg.imaging.errors import Failure, ReadError
from wsseg.imaging.intensity import fill_nonfinite, lowest_finite, no_finite_values
from wsseg.imaging.orientation import show_image, turned
from wsseg.imaging.pictures import grey_if_equal
from wsseg.imaging.scan import AS_STORED, Planes, Reorientation, Scan, ScanRef, reorient_stack

# DICOM objects whose frames are too many for memory: decoded when they are asked for.

# Values beyond which frames are not kept: half a GiB of float32. To decode them anew each time
# costs less than the memory.
LONG_PIXELS = 1 << 27

_COLOUR_AXES = 4

_ReadSlices = Callable[[Sequence[int]], Pixels]


class LongStack:
    """The slices of one or several long objects, one object after the other.

    Each is read through once, to know that all of it can be decoded and what is in it.
    """

    def __init__(self) -> None:
        self._objects: list[tuple[range, _ReadSlices]] = []
        self._shape: tuple[int, ...] = ()
        self._grey = True

    def add(self, opened: OpenObject, source: str) -> Part:
        """Read through an object; what a scan must know of it. Raises ReadError."""
        if self._objects and opened.shape[1:] != self._shape[1:]:
            raise ReadError(
                "broken_header",
                f"{source} has frames of {opened.shape[1:]} pixels, {self._shape[1:]} were "
                "expected: export the series again",
            )

        def raw(slices: Sequence[int]) -> Pixels:
            stack = np.empty((len(slices), *opened.shape[1:]), np.float32)
            opened.into(stack, slices)
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
        return Planes(self._shape[:-1], lambda wanted: self._read(wanted)[..., 0])

    def _read(self, wanted: Sequence[int]) -> Pixels:
        stack = np.empty((len(wanted), *self._shape[1:]), np.float32)
        for numbers, read in self._objects:
            places = [at for at, index in enumerate(wanted) if index in numbers]
            if places:
                stack[places] = read([numbers.index(wanted[at]) for at in places])
        return stack


def read_dicom(ref: ScanRef) -> Scan:
    """Read a scan of one or many DICOM files; slices come in the order of their positions.

    Planes are in display order where all say alike how they lie in the patient, else as stored.
    Of a long object the frames are decoded once here, to know that they can be, and again each time
    that they are asked for. Where slices say no position, the order of `ref.files` is kept.
    Files that cannot be read become `failures` of the scan, with the flag GAP; ReadError is
    raised only if none can. Other flags: MONOCHROME1 (was inverted), PADDING_REPLACED,
    SCALED_TO_8_BIT, NOT_HU (CT values in another unit), NOT_SUV (so for PET), NONFINITE, PX_ONLY,
    SPACING_CONFLICT (several lengths that contradict each other), DETECTOR_PLANE, MIXED_SPACING,
    TILT, GAP, NONUNIFORM, NO_POSITION (slices of a body that do not say where they lie),
    GUESSED_SYNTAX, UNKNOWN_CLASS, LOCALIZER, PHI_RISK (may show a name), beside those of `ref`.
    """
    parts: list[Part] = []
    failures: list[Failure] = []
    stack: _Stack | LongStack | None = None
    for file, frames in zip_longest(ref.files, ref.frames):
        try:
            opened = open_object(file, frames, rest_follows=bool(ref.frames))
            stack = stack or _stack_for(ref, opened)
            part = stack.add(opened, file.source)
        except ReadError as error:
            failures.append(Failure(file.source, error.reason, str(error)))
        else:
            parts.append(part)
    if stack is None or not parts:
        raise ReadError(failures[0].reason, _summary(failures))
    return _scan(ref, parts, stack.pixels(), failures)


def _stack_for(ref: ScanRef, first: OpenObject) -> "_Stack | LongStack":
    """Room for all slices of a scan, by the first of its files that can be read."""
    alone = first.shape[0] if len(ref.files) == 1 else len(ref.files)
    shape = (sum(map(len, ref.frames)) or alone, *first.shape[1:])
    several = shape[0] > len(ref.files)
    if several and math.prod(shape) > LONG_PIXELS:
        return LongStack()
    return _Stack(shape, [len(frames) for frames in ref.frames] or [shape[0] // len(ref.files)])


class _Stack:
    """The slices of all files of a scan in memory. counts: slices that a file may have."""

    def __init__(self, shape: tuple[int, ...], counts: Sequence[int]) -> None:
        self._pixels: Pixels = np.empty(shape, np.float32)
        self._counts = counts
        self._done = 0

    def add(self, opened: OpenObject, source: str) -> Part:
        """Decode a file; what a scan must know of it. Raises ReadError."""
        count = opened.shape[0]
        room = self._pixels[self._done : self._done + count]
        if count not in self._counts or opened.shape != room.shape:
            expected = (self._counts[0], *self._pixels.shape[1:])
            raise ReadError(
                "broken_header",
                f"{source} has pixels of shape {opened.shape}, {expected} was expected: "
                "export the series again",
            )
        opened.into(room)
        damaged = fill_nonfinite(room, source)
        self._done += count
        return opened.part.with_flag("NONFINITE") if damaged else opened.part

    def pixels(self) -> Pixels:
        """All slices so far."""
        return self._pixels[: self._done]


def _summary(failures: Sequence[Failure]) -> str:
    if len(failures) == 1:
        return failures[0].message
    return f"none of {len(failures)} files of the scan can be read; the first: " + (
        failures[0].message
    )


def _scan(ref: ScanRef, parts: list[Part], stack: Pixels | Planes, failures: list[Failure]) -> Scan:
    flags = set(ref.flags).union(*(part.flags for part in parts))
    planes = [plane for part in parts for plane in part.planes]
    slices = [found for part in parts for found in part.slices]
    heights = heights_of(planes)
    if heights is not None and (np.diff(heights) <= 0).any():
        # Files of several frames each may hold slices that lie between those of another file.
        order = np.argsort(heights, kind="stable")
        planes, slices = [planes[k] for k in order], [slices[k] for k in order]
        stack = stack.take([int(k) for k in order]) if isinstance(stack, Planes) else stack[order]
    geometry, found = stack_geometry(planes, parts[0].step_mm)
    flags |= found
    if failures:
        flags.add("GAP")
    if geometry.positions_mm is None and parts[0].tomographic:
        flags.add("NO_POSITION")
    plane, turn = show_image(orientation_shown(planes))
    rows, columns = stack.shape[1:3]
    return Scan(
        pixels=_shown(stack, turn),
        geometry=turned(geometry, turn, (rows, columns)),
        slices=tuple(slices),
        ref=ref,
        modality=parts[0].modality,
        study_uid=parts[0].study_uid,
        series_uid=parts[0].series_uid,
        flags=tuple(sorted(flags)),
        failures=tuple(failures),
        reorientation=turn,
        plane=plane,
    )


def _shown(stack: Pixels | Planes, turn: Reorientation) -> Pixels | Planes:
    if not isinstance(stack, Planes):
        return grey_if_equal(reorient_stack(stack, turn), axes=3)
    if turn == AS_STORED:
        return stack
    count, rows, columns, *colours = stack.shape
    shape = (count, *turn.shape((rows, columns)), *colours)
    return stack.each(lambda plane: np.ascontiguousarray(turn.apply(plane)), shape)
