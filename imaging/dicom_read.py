"""DICOM scans: the files of one scan, read into one array with one geometry."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from wsseg.imaging.dicom_geometry import heights_of, orientation_shown, stack_geometry
from wsseg.imaging.dicom_object import Part, read_object
from wsseg.imaging.dicom_pixels import Pixels
from wsseg.imaging.errors import Failure, ReadError
from wsseg.imaging.orientation import show_image, turned
from wsseg.imaging.picture import grey_if_equal
from wsseg.imaging.scan import Scan, ScanRef
from wsseg.imaging.turn import turn_stack


def read_dicom(ref: ScanRef) -> Scan:
    """Read a scan of one or many DICOM files; slices come in the order of their positions.

    Planes are in display order where all say alike how they lie in the patient, else as stored.
    Where slices say no position, the order of `ref.files` is kept.
    Files that cannot be read become `failures` of the scan, with the flag GAP; ReadError is
    raised only if none can. Other flags: MONOCHROME1 (was inverted), PADDING_REPLACED,
    SCALED_TO_8_BIT, NOT_HU (CT values in another unit), NOT_SUV (so for PET), NONFINITE, PX_ONLY,
    SPACING_CONFLICT (several lengths that contradict each other), DETECTOR_PLANE, MIXED_SPACING,
    TILT, GAP, NONUNIFORM, NO_POSITION (slices of a body that do not say where they lie),
    GUESSED_SYNTAX, UNKNOWN_CLASS, LOCALIZER, PHI_RISK (may show a name), beside those of `ref`.
    """
    parts: list[Part] = []
    failures: list[Failure] = []
    stack: Pixels | None = None
    count = sum(map(len, ref.frames)) or len(ref.files)
    done = 0
    for file, frames in zip_longest(ref.files, ref.frames):
        try:
            part, pixels = read_object(file, frames, rest_follows=bool(ref.frames))
            if stack is None:
                # Copying one file's pixels into a stack of their own would double its memory.
                stack = pixels if len(ref.files) == 1 else _room_for(count, pixels)
            if len(ref.files) > 1:
                _check_shape(pixels, stack, 1 if frames is None else len(frames), file.source)
                stack[done : done + len(pixels)] = pixels
        except ReadError as error:
            failures.append(Failure(file.source, error.reason, str(error)))
        else:
            parts.append(part)
            done += len(part.slices)
    if stack is None or not parts:
        raise ReadError(failures[0].reason, _summary(failures))
    return _scan(ref, parts, stack[:done], failures)


def _room_for(count: int, pixels: Pixels) -> Pixels:
    return np.empty((count, *pixels.shape[1:]), np.float32)


def _check_shape(pixels: Pixels, stack: Pixels, count: int, source: str) -> None:
    expected = (count, *stack.shape[1:])
    if pixels.shape != expected:
        raise ReadError(
            "broken_header",
            f"{source} has pixels of shape {pixels.shape}, {expected} was expected: "
            "export the series again",
        )


def _summary(failures: Sequence[Failure]) -> str:
    if len(failures) == 1:
        return failures[0].message
    return f"none of {len(failures)} files of the scan can be read; the first: " + (
        failures[0].message
    )


def _scan(ref: ScanRef, parts: list[Part], stack: Pixels, failures: list[Failure]) -> Scan:
    flags = set(ref.flags).union(*(part.flags for part in parts))
    planes = [plane for part in parts for plane in part.planes]
    slices = [found for part in parts for found in part.slices]
    heights = heights_of(planes)
    if heights is not None and (np.diff(heights) <= 0).any():
        # Files of several frames each may hold slices that lie between those of another file.
        order = np.argsort(heights, kind="stable")
        planes, slices = [planes[k] for k in order], [slices[k] for k in order]
        stack = stack[order]
    geometry, found = stack_geometry(planes, parts[0].step_mm)
    flags |= found
    if failures:
        flags.add("GAP")
    if geometry.positions_mm is None and parts[0].tomographic:
        flags.add("NO_POSITION")
    plane, turn = show_image(orientation_shown(planes))
    rows, columns = stack.shape[1:3]
    return Scan(
        pixels=grey_if_equal(turn_stack(stack, turn), axes=3),
        geometry=turned(geometry, turn, (rows, columns)),
        slices=tuple(slices),
        ref=ref,
        modality=parts[0].modality,
        study_uid=parts[0].study_uid,
        series_uid=parts[0].series_uid,
        flags=tuple(sorted(flags)),
        failures=tuple(failures),
        turn=turn,
        plane=plane,
    )
