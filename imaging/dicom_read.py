"""DICOM scans: the files of one scan, read into one array with one geometry."""

from collections.abc import Sequence

import numpy as np

from wsseg.imaging.dicom_geometry import (
    common_orientation,
    heights_of,
    stack_geometry,
    stack_order,
)
from wsseg.imaging.dicom_object import Part, read_object
from wsseg.imaging.dicom_pixels import Pixels
from wsseg.imaging.errors import Failure, ReadError
from wsseg.imaging.orientation import show_image, turned
from wsseg.imaging.picture import grey_if_equal
from wsseg.imaging.scan import Scan, ScanRef, SliceId
from wsseg.imaging.turn import turn_stack


def read_dicom(ref: ScanRef) -> Scan:
    """Read a scan of one or many DICOM files; slices come in the order of their positions.

    Planes are in display order where all say alike how they lie in the patient, else as stored.
    Where files of one frame say no position, the order of `ref.files` is kept.
    Files that cannot be read become `failures` of the scan, with the flag GAP; ReadError is
    raised only if none can. Other flags: MONOCHROME1 (was inverted), PADDING_REPLACED,
    SCALED_TO_8_BIT, NOT_HU (CT values in another unit), NOT_SUV (so for PET), NONFINITE, PX_ONLY,
    SPACING_CONFLICT (several lengths that contradict each other), DETECTOR_PLANE, MIXED_SPACING,
    TILT, GAP, NONUNIFORM, NO_POSITION (slices of a body that do not say where they lie),
    MIXED_FRAMES (frames of several stacks, volumes or time points, in stored order),
    GUESSED_SYNTAX, UNKNOWN_CLASS, LOCALIZER, PHI_RISK (may show a name), beside those of `ref`.
    """
    parts: list[Part] = []
    failures: list[Failure] = []
    stack: Pixels | None = None
    for file in ref.files:
        try:
            part, pixels = read_object(file)
            if stack is None:
                # Copying one file's pixels into a stack of their own would double its memory.
                stack = pixels if len(ref.files) == 1 else _room_for(len(ref.files), pixels)
            if len(ref.files) > 1:
                stack[len(parts)] = _only_frame(pixels, stack, file.source)
        except ReadError as error:
            failures.append(Failure(file.source, error.reason, str(error)))
        else:
            parts.append(part)
    if stack is None or not parts:
        raise ReadError(failures[0].reason, _summary(failures))
    return _scan(ref, parts, stack, failures)


def _room_for(count: int, pixels: Pixels) -> Pixels:
    return np.empty((count, *pixels.shape[1:]), np.float32)


def _only_frame(pixels: Pixels, stack: Pixels, source: str) -> Pixels:
    if pixels.shape != (1, *stack.shape[1:]):
        raise ReadError(
            "broken_header",
            f"{source} has pixels of shape {pixels.shape}, {(1, *stack.shape[1:])} was expected: "
            "export the series again",
        )
    frame: Pixels = pixels[0]
    return frame


def _summary(failures: Sequence[Failure]) -> str:
    if len(failures) == 1:
        return failures[0].message
    return f"none of {len(failures)} files of the scan can be read; the first: " + (
        failures[0].message
    )


def _scan(ref: ScanRef, parts: list[Part], stack: Pixels, failures: list[Failure]) -> Scan:
    flags = set(ref.flags).union(*(part.flags for part in parts))
    stack = stack[: sum(len(part.slices) for part in parts)]
    if len(parts) > 1:
        parts, stack, flags = _in_slice_order(parts, stack, flags)
    planes = [plane for part in parts for plane in part.planes]
    slices: tuple[SliceId, ...] = tuple(found for part in parts for found in part.slices)
    mixed = "MIXED_FRAMES" in flags
    geometry, found = stack_geometry(planes, parts[0].step_mm, placed=not mixed)
    flags |= found
    if failures:
        flags.add("GAP")
    if geometry.positions_mm is None and parts[0].tomographic and not mixed:
        flags.add("NO_POSITION")
    plane, turn = show_image(common_orientation(planes))
    rows, columns = stack.shape[1:3]
    return Scan(
        pixels=grey_if_equal(turn_stack(stack, turn), axes=3),
        geometry=turned(geometry, turn, (rows, columns)),
        slices=slices,
        ref=ref,
        modality=parts[0].modality,
        study_uid=parts[0].study_uid,
        series_uid=parts[0].series_uid,
        flags=tuple(sorted(flags)),
        failures=tuple(failures),
        turn=turn,
        plane=plane,
    )


def _in_slice_order(
    parts: list[Part], stack: Pixels, flags: set[str]
) -> tuple[list[Part], Pixels, set[str]]:
    """Files of one frame each, ordered by position where their headers alone did not say it.

    An enhanced object keeps its position in functional groups, which are parsed only when its
    pixels are read: until then its series is ordered by number or name. MIXED_FRAMES, and the
    order as it is, where the planes are no single stack.
    """
    planes = [part.planes[0] for part in parts]
    if any(plane.position is None or plane.orientation is None for plane in planes):
        return parts, stack, flags
    heights = heights_of(planes)
    if heights is not None and (np.diff(heights) > 0).all():
        return parts, stack, flags - {"ORDER_BY_NAME"}
    order = stack_order(planes)
    if order is None:
        return parts, stack, flags | {"MIXED_FRAMES"}
    return [parts[index] for index in order], stack[order], flags - {"ORDER_BY_NAME"}
