"""DICOM scans: the files of one scan, read into one array with one geometry."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.uid import UID

from wsseg.imaging.dicom_classes import is_capture, is_ct, sort_of
from wsseg.imaging.dicom_file import open_dicom
from wsseg.imaging.dicom_frames import Frames, Plane, read_frames
from wsseg.imaging.dicom_geometry import stack_geometry, stack_order
from wsseg.imaging.dicom_pixels import Pixels, read_layout, read_pixels
from wsseg.imaging.dicom_quiet import quiet
from wsseg.imaging.dicom_tags import READ_TAGS
from wsseg.imaging.dicom_values import items, number, text
from wsseg.imaging.errors import Failure, ReadError
from wsseg.imaging.scan import FileRef, Scan, ScanRef, SliceId

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Image:
    """One file: pixels (frame, row, column[, 3]) and planes in slice order."""

    pixels: Pixels
    planes: tuple[Plane, ...]
    slices: tuple[SliceId, ...]
    flags: set[str]
    modality: str
    study_uid: str
    series_uid: str
    tomographic: bool
    step_mm: float


def read_dicom(ref: ScanRef) -> Scan:
    """Read a scan of one or many DICOM files; `ref.files` must be in slice order.

    Files that cannot be read become `failures` of the scan, with the flag GAP; ReadError is
    raised only if none can. Other flags: MONOCHROME1 (was inverted), PADDING_REPLACED,
    SCALED_TO_8_BIT, NOT_HU (CT values without their unit), PX_ONLY, DETECTOR_PLANE,
    MIXED_SPACING, TILT, GAP, NONUNIFORM, NO_POSITION (slices of a body that do not say where
    they lie), MIXED_FRAMES (frames of several stacks, volumes or time points, in stored order),
    GUESSED_SYNTAX, UNKNOWN_CLASS, LOCALIZER, PHI_RISK (may show a name), beside those of `ref`.
    """
    images: list[_Image] = []
    failures: list[Failure] = []
    stack: NDArray[np.float32] | None = None
    for file in ref.files:
        try:
            image = _read_file(file)
            if stack is None:
                stack = np.empty((len(ref.files), *image.pixels.shape[1:]), np.float32)
            stack = _place(image, file, stack, len(images), alone=len(ref.files) == 1)
        except ReadError as error:
            failures.append(Failure(file.source, error.reason, str(error)))
            continue
        images.append(image)
    if stack is None:
        raise ReadError(failures[0].reason, _none_readable(failures))
    return _scan(ref, images, stack[: sum(len(image.slices) for image in images)], failures)
