"""The source of a DICOM segmentation: whether a scan can have one, and the headers it takes."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from wsseg.imaging.dicom.derived import SourceHeaders
from wsseg.imaging.dicom.file import (
    first_item,
    frame_count,
    is_empty,
    items,
    number,
    silence_pydicom,
    text,
)
from wsseg.imaging.dicom.mosaic import is_mosaic
from wsseg.imaging.errors import NotPossibleError
from wsseg.imaging.orientation import as_stored
from wsseg.imaging.scan import Geometry, Scan

# Direction cosines are written with as few as four decimals.
_SAME_DIRECTION = 2e-3


@dataclass(frozen=True)
class SegSource:
    """The headers of a scan's source as a segmentation refers to them.

    datasets: one for each slice, in slice order, or the one multi-frame object that all slices come
    from. frames: the number (1-based) of each slice in that object; empty for single frames.
    geometry: of the pixels as the files store them.
    """

    datasets: tuple[Dataset, ...]
    frames: tuple[int, ...]
    geometry: Geometry

    @property
    def first(self) -> Dataset:
        """The header that stands for the series."""
        return self.datasets[0]

    @property
    def positioned(self) -> bool:
        """Whether the slices lie in a frame of reference."""
        return "FrameOfReferenceUID" in self.first

    def slice_of(self, instance_uid: str, frame: int | None) -> int:
        """The index of the slice that an instance, or its frame, shows."""
        if self.frames:
            return self.frames.index(frame or 1)
        return [str(each.SOPInstanceUID) for each in self.datasets].index(instance_uid)


def seg_source(scan: Scan, headers: SourceHeaders) -> SegSource:
    """The source of a scan's segmentation; the headers stay as they are.

    Raises NotPossibleError for a scan that can have none: several files of several frames, a
    mosaic, slices of several series, orientations or frames of reference, several slices without a
    frame of reference.
    """
    with silence_pydicom:
        copies = [copy(header) for header in headers.instances]
        first = copies[headers.of_slice[0]]
        used = [copies[at] for at in sorted(set(headers.of_slice))]
        if is_mosaic(text(first, "SOPClassUID"), scan.modality, text(first, "ImageType")):
            raise NotPossibleError("mosaic", "its slices are tiles of one image")
        multiframe = any(_has_frames(header) for header in used)
        if multiframe and len(used) > 1:
            raise NotPossibleError("several_files", "its frames are spread over several files")
        _check_together(used)
        rows, columns = scan.pixels.shape[1:3]
        stored = scan.reorientation.shape((rows, columns))
        geometry = as_stored(scan.geometry, scan.reorientation, stored)
        for header in used:
            if is_empty(header, "FrameOfReferenceUID"):
                header.pop("FrameOfReferenceUID", None)
        if multiframe:
            frames = tuple(identity.frame or 1 for identity in scan.slices)
            _share_planes(first, frames, geometry)
            datasets: tuple[Dataset, ...] = (first,)
        else:
            frames = ()
            datasets = tuple(copies[at] for at in headers.of_slice)
            _place(datasets, geometry)
        if len(scan.slices) > 1 and "FrameOfReferenceUID" not in first:
            raise NotPossibleError(
                "no_frame_of_reference", "its slices state no places in a common frame of reference"
            )
    return SegSource(datasets, frames, geometry)


def _has_frames(header: Dataset) -> bool:
    """Whether an image states the planes of its frames, of which it may have one alone."""
    return frame_count(header) > 1 or bool(items(header, "PerFrameFunctionalGroupsSequence"))


def _check_together(headers: Sequence[Dataset]) -> None:
    """Raise NotPossibleError for slices that one object may not refer to together."""
    for keyword, what in (
        ("FrameOfReferenceUID", "frames of reference"),
        ("SeriesInstanceUID", "series"),
        ("StudyInstanceUID", "studies"),
    ):
        if len({text(header, keyword) for header in headers}) > 1:
            raise NotPossibleError("mixed_frames", f"its slices belong to several {what}")


def _place(datasets: Sequence[Dataset], geometry: Geometry) -> None:
    """Give single frames what places them in the patient, or take them out of it.

    Where the header states no pixel size or position, none is invented: without them a single image
    has no frame of reference either. Directions that differ in their last digits are made equal.
    The distance of slices follows from their positions, whatever the header states.
    """
    for each in datasets:
        each.pop("SpacingBetweenSlices", None)
        if (number(each, "SliceThickness") or 0) <= 0:
            each.SliceThickness = None  # has to be there for highdicom
    orientation = datasets[0].get("ImageOrientationPatient")
    placed = geometry.affine is not None and geometry.pixel_mm is not None
    placed = placed and all(not is_empty(each, "ImagePositionPatient") for each in datasets)
    if not placed or not orientation:
        for each in datasets:
            each.pop("FrameOfReferenceUID", None)
        if len(datasets) == 1 and datasets[0].get("SharedFunctionalGroupsSequence") is None:
            _add_groups(datasets[0])
        return
    for each in datasets:
        if not _same(each.get("ImageOrientationPatient"), orientation):
            raise NotPossibleError("mixed_frames", "its slices have several orientations")
        each.ImageOrientationPatient = orientation
        each.PixelSpacing = list(geometry.pixel_mm or ())


def _add_groups(header: Dataset) -> None:
    """Give a single image the groups that highdicom takes from any that could have several frames,
    such as ultrasound and angiography. Without a pixel size they hold one that means nothing."""
    measures, groups = Dataset(), Dataset()
    measures.PixelSpacing = header.get("PixelSpacing") or [1, 1]
    measures.SliceThickness = header.SliceThickness
    groups.PixelMeasuresSequence = Items([measures])
    header.SharedFunctionalGroupsSequence = Items([groups])
    header.NumberOfFrames = 1


def _share_planes(header: Dataset, frames: Sequence[int], geometry: Geometry) -> None:
    """Let a multi-frame header state once what its chosen frames have in common.

    Segmentations take orientation and pixel size from the functional groups that all frames share.
    """
    own = items(header, "PerFrameFunctionalGroupsSequence")
    shared = copy(first_item(header, "SharedFunctionalGroupsSequence"))
    chosen = [own[number - 1] for number in frames if number <= len(own)]
    if geometry.affine is None or geometry.pixel_mm is None or len(chosen) < len(frames):
        header.pop("FrameOfReferenceUID", None)
        return
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if not items(shared, keyword) and items(chosen[0], keyword):
            setattr(shared, keyword, Items([first_item(chosen[0], keyword)]))
    header.SharedFunctionalGroupsSequence = Items([shared])
    common = first_item(shared, "PlaneOrientationSequence").get("ImageOrientationPatient")
    if not all(_same(each, common) for each in _orientations(chosen)):
        raise NotPossibleError("mixed_frames", "its frames have several orientations")


def _orientations(groups: Sequence[Dataset]) -> Iterator[Any]:
    """The orientations that frames state of their own."""
    for group in groups:
        if items(group, "PlaneOrientationSequence"):
            yield first_item(group, "PlaneOrientationSequence").get("ImageOrientationPatient")


def _same(one: Any, other: Any) -> bool:
    """Whether two texts of six direction cosines mean one orientation."""
    first, second = (np.array(each or (), np.float64) for each in (one, other))
    return first.shape == second.shape == (6,) and bool(
        np.abs(first - second).max() <= _SAME_DIRECTION
    )
