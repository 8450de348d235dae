"""DICOM segmentations as labels of an image's slice, by segment and position of each frame.

Indices are (row, column) or frames from 0; positions are in LPS mm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue

from wsseg.imaging.content import is_dicom, read_head
from wsseg.imaging.dicom.decoder import Stored, decode_frames, unpacked_frame
from wsseg.imaging.dicom.file import (
    at_pixels,
    first_item,
    frame_count,
    integer,
    is_compressed,
    items,
    open_dicom,
    silence_pydicom,
    tags_of,
    text,
    value_of,
)
from wsseg.imaging.dicom.geometry import Plane
from wsseg.imaging.dicom.object import GEOMETRY_TAGS, as_read_errors, read_frames, undecodable
from wsseg.imaging.dicom.reader import dicom_volumes
from wsseg.imaging.errors import ReadError
from wsseg.imaging.files import Version, version_of
from wsseg.imaging.label_values import Label, Labels, Numbering
from wsseg.imaging.limits import DEFAULT_LIMITS
from wsseg.imaging.picture_page import WHITE
from wsseg.imaging.scan import FileRef

# Corners of a frame and a slice may lie this part of a pixel apart: above the rounding of decimal
# strings, below what moves a label to another pixel.
_POSITION_TOLERANCE = 0.1

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
_IDENTITY_TAGS = tags_of(("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"))
_SPACE_TAGS = tags_of(("FrameOfReferenceUID",))
_ALL_TAGS = [
    *(*GEOMETRY_TAGS, *_IDENTITY_TAGS, *_SPACE_TAGS),
    *tags_of(
        (
            *("SegmentationType", "SegmentSequence", "ReferencedSeriesSequence"),
            *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"),
            *("HighBit", "PixelRepresentation", "ExtendedOffsetTable"),
            *("ExtendedOffsetTableLengths", "PixelData"),
        )
    ),
]
_REMEMBERED = 4  # segmentations that are parsed: their frames have a header each


Indices = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class SlicePosition:
    """A slice of a DICOM image as stored, and the identifiers by which others refer to it.

    shape: (rows, columns). space: FrameOfReferenceUID. series, instance: UIDs. frame_number: from
    1, as DICOM counts frames.
    """

    plane: Plane
    shape: tuple[int, int]
    space: str
    series: str
    instance: str
    frame_number: int


@dataclass(frozen=True)
class _Frame:
    """index: in the file, from 0. segment: 0 for a label map.

    sources: images that the frame was drawn on, as instance UID and frame numbers, none for all.
    """

    index: int
    plane: Plane
    segment: int
    sources: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class _Segmentation:
    """texts: segment labels by number. series, instances: UIDs of the images it refers to."""

    path: Path
    dataset: FileDataset
    shape: tuple[int, int]
    texts: dict[int, str]
    frames: tuple[_Frame, ...]
    space: str
    series: frozenset[str]
    instances: frozenset[str]

    @property
    def source(self) -> str:
        """The name of its file."""
        return self.path.name


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM segmentation, by its SOP class. Raises what opening it raises."""
    return _sop_class(path, version_of(path)) in (_SEGMENTATION, _LABEL_MAP)


@lru_cache(maxsize=4096)
def _sop_class(path: Path, _version: Version) -> str:
    if not is_dicom(read_head(FileRef(path, path.name)).start):
        return ""
    with silence_pydicom:
        header, _ = open_dicom(
            path, path.name, tags=_IDENTITY_TAGS, stop=lambda tag, _vr, _length: tag > 0x00080020
        )
        return text(header, "SOPClassUID")


def slice_position(image: Path, slice_index: int, volume: int) -> SlicePosition:
    """The position and identifiers of a slice of a DICOM image. Raises ReadError."""
    scan = dicom_volumes(image)[volume]
    frame = scan.frames[slice_index]
    with silence_pydicom:
        header, _ = open_dicom(
            image,
            image.name,
            tags=[*GEOMETRY_TAGS, *_IDENTITY_TAGS, *_SPACE_TAGS],
            stop=at_pixels,
        )
        frames = read_frames(header, frame_count(header), image.name, (frame,))
        return SlicePosition(
            frames.planes[0],
            scan.stored,
            text(header, "FrameOfReferenceUID"),
            text(header, "SeriesInstanceUID"),
            text(header, "SOPInstanceUID"),
            frame + 1,
        )


def segment_labels(
    path: Path, position: SlicePosition, numbering: Numbering, *, background: int
) -> Labels:
    """Class numbers (row, column) that a segmentation gives a slice, on its stored pixels.

    Without a map, segment k is class k. A slice of the images that the segmentation refers to has
    no frame where nothing was drawn on it. Raises ReadError where it refers to other images, its
    pixels do not lie on the slice's, it has probabilities, or one pixel belongs to two classes.
    """
    segmentation = _parsed(path, version_of(path))
    frames = list(_frames_on(segmentation, position))
    if not frames:
        sources = {uid for frame in segmentation.frames for uid, _ in frame.sources}
        named = position.instance in segmentation.instances | sources
        if not named and position.series not in segmentation.series:
            raise ReadError(
                "labels_elsewhere",
                f"{segmentation.source} was drawn on other images, and has no frame where this one "
                "lies: name the segmentation of this image",
            )
    labels = np.zeros(position.shape, np.uint8)
    for frame, indices in frames:
        stored = _pixels(segmentation, frame)[indices]
        for value in map(int, np.unique(stored[stored != 0])):
            segment = frame.segment or value
            label = _class_of(segment, segmentation, numbering, background)
            inside = stored == value
            if label and np.any((labels[inside] != 0) & (labels[inside] != label)):
                raise ReadError(
                    "overlap",
                    f"{segmentation.source} gives pixels to two classes, segment {segment} being "
                    "one of them: correct the segments, or join them under [labels] in the "
                    "settings",
                )
            if label:
                labels[inside] = label
    return labels


def unnamed_segments(path: Path, numbering: Numbering) -> list[int]:
    """Numbers of the segments that a map does not name. Raises ReadError."""
    return [
        number
        for number, words in sorted(_parsed(path, version_of(path)).texts.items())
        if numbering.class_of(_names(number, words), 0) is None
    ]


def _names(number: int, words: str) -> list[Label]:
    return [number, words] if words else [number]


def _class_of(
    segment: int, segmentation: _Segmentation, numbering: Numbering, background: int
) -> int:
    if numbering.stored:
        names = _names(segment, segmentation.texts.get(segment, ""))
        return numbering.class_of(names, background) or 0
    if segment > WHITE:
        raise ReadError(
            "not_labels",
            f"{segmentation.source} has a segment {segment}: name it under [labels] in the "
            "settings",
        )
    return segment


@lru_cache(maxsize=_REMEMBERED)
def _parsed(path: Path, _version: tuple[int, int]) -> _Segmentation:
    source = path.name
    with silence_pydicom:
        dataset, _ = open_dicom(path, source, tags=_ALL_TAGS)
        is_map = text(dataset, "SOPClassUID") == _LABEL_MAP
        kind = "LABELMAP" if is_map else text(dataset, "SegmentationType")
        if kind not in ("BINARY", "LABELMAP"):
            raise ReadError(
                "not_labels",
                f"{source} is a segmentation of type {kind or 'unknown'}, which holds no classes: "
                "save it as BINARY or LABELMAP",
            )
        shape = (integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0)
        DEFAULT_LIMITS.check_slice(*shape, source)
        DEFAULT_LIMITS.check_frames(frame_count(dataset), source)
        return _Segmentation(
            path=path,
            dataset=dataset,
            shape=shape,
            texts={
                integer(item, "SegmentNumber") or 0: text(item, "SegmentLabel")
                for item in items(dataset, "SegmentSequence")
            },
            frames=tuple(_frames(dataset, source, is_map=kind == "LABELMAP")),
            space=text(dataset, "FrameOfReferenceUID"),
            series=frozenset(
                text(item, "SeriesInstanceUID")
                for item in items(dataset, "ReferencedSeriesSequence")
                if not items(item, "ReferencedInstanceSequence")
            ),
            instances=frozenset(
                text(instance, "ReferencedSOPInstanceUID")
                for item in items(dataset, "ReferencedSeriesSequence")
                for instance in items(item, "ReferencedInstanceSequence")
            ),
        )


def _frames(dataset: Dataset, source: str, *, is_map: bool) -> Iterator[_Frame]:
    planes = read_frames(dataset, frame_count(dataset), source).planes
    groups = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    for index, plane in enumerate(planes):
        group = groups[index] if index < len(groups) else Dataset()
        segments = (
            integer(item, "ReferencedSegmentNumber")
            for holder in (group, shared)
            for item in items(holder, "SegmentIdentificationSequence")
        )
        segment = 0 if is_map else next(filter(None, segments), None)
        if segment is None:
            raise ReadError("broken_header", f"{source} has frames of no segment: export it again")
        sources = tuple(
            (text(item, "ReferencedSOPInstanceUID"), _frame_numbers(item))
            for holder in (group, shared)
            for derivation in items(holder, "DerivationImageSequence")
            for item in items(derivation, "SourceImageSequence")
        )
        yield _Frame(index, plane, segment, sources)


def _frame_numbers(item: Dataset) -> tuple[int, ...]:
    """ReferencedFrameNumber, from 1; none where all frames of the source are meant."""
    value = value_of(item, "ReferencedFrameNumber")
    values = value if isinstance(value, MultiValue) else [value]
    return tuple(int(str(each)) for each in values if each is not None)


def _frames_on(
    segmentation: _Segmentation, position: SlicePosition
) -> Iterator[tuple[_Frame, Indices]]:
    """The frames that lie on a slice, with the row and column in them of each of its pixels."""
    placed = position.plane.placed and position.plane.pixel_mm
    if placed and segmentation.space and position.space and segmentation.space != position.space:
        raise ReadError(
            "labels_elsewhere",
            f"{segmentation.source} and the image count millimetres from different places (frames "
            "of reference): name the segmentation of this image",
        )
    for frame in segmentation.frames:
        if placed and frame.plane.placed and frame.plane.pixel_mm:
            indices = _indices(segmentation, frame, position)
            if indices is not None:
                yield frame, indices
        elif any(
            uid == position.instance and (not numbers or position.frame_number in numbers)
            for uid, numbers in frame.sources
        ):
            if segmentation.shape != position.shape:
                raise _off_grid(segmentation, position)
            rows, columns = np.indices(position.shape)
            yield frame, (rows, columns)


def _indices(segmentation: _Segmentation, frame: _Frame, position: SlicePosition) -> Indices | None:
    """Where the slice's pixels are in a frame; None where the frame lies in another plane."""
    rows, columns = position.shape
    own = _axes(position.plane)
    ends = np.array([(0, 0), (columns - 1, 0), (0, rows - 1)], np.float64)  # (column, row)
    corners = (
        own.origin + ends[:, :1] * own.across * own.size[1] + ends[:, 1:] * own.down * own.size[0]
    )
    across, down, normal, origin, size = _axes(frame.plane)
    offsets = corners - origin
    if np.abs(offsets @ normal).max() > _POSITION_TOLERANCE * min(size):
        return None
    exact = np.stack([offsets @ down / size[0], offsets @ across / size[1]], axis=-1)
    nearest = np.rint(exact).astype(np.intp)
    first, right, below = nearest
    along, along_down = whole_step(right - first, columns), whole_step(below - first, rows)
    near = np.abs(exact - nearest).max() <= _POSITION_TOLERANCE
    last = right + below - first
    inside = (np.minimum(first, last) >= 0).all() and (
        np.maximum(first, last) < np.array(segmentation.shape)
    ).all()
    if along is None or along_down is None or not (near and inside):
        raise _off_grid(segmentation, position)
    row, column = np.indices(position.shape)
    return (
        first[0] + along[0] * column + along_down[0] * row,
        first[1] + along[1] * column + along_down[1] * row,
    )


def whole_step(distance: NDArray[np.intp], pixels: int) -> NDArray[np.intp] | None:
    """The step from one pixel to the next: one voxel along one axis; None for other steps.

    distance: in voxels along each axis, from the first of so many pixels to the last.
    """
    step = np.sign(distance)
    whole = np.array_equal(distance, step * (pixels - 1))
    return step if whole and np.count_nonzero(step) == min(1, pixels - 1) else None


class _Axes(NamedTuple):
    """Unit vectors along rows and columns and across the plane, LPS mm of the first pixel, and
    (row, column) distance of pixels in mm."""

    across: NDArray[np.float64]
    down: NDArray[np.float64]
    normal: NDArray[np.float64]
    origin: NDArray[np.float64]
    size: tuple[float, float]


def _axes(plane: Plane) -> _Axes:
    if plane.position is None or plane.orientation is None or plane.pixel_mm is None:
        raise AssertionError("the plane is placed")
    across = np.array(plane.orientation[:3])
    down = np.array(plane.orientation[3:])
    normal = np.cross(across, down)
    return _Axes(across, down, normal, np.array(plane.position), plane.pixel_mm)


def _off_grid(segmentation: _Segmentation, position: SlicePosition) -> ReadError:
    return ReadError(
        "labels_elsewhere",
        f"{segmentation.source} has frames of {segmentation.shape} (rows, columns), whose pixels "
        f"are not those of the image's {position.shape}: resample it to the image's grid",
    )


def _pixels(segmentation: _Segmentation, frame: _Frame) -> Stored:
    dataset = segmentation.dataset
    syntax = dataset.file_meta.TransferSyntaxUID
    if integer(dataset, "BitsAllocated") == 1 and not is_compressed(syntax):
        try:
            return unpacked_frame(dataset.PixelData, segmentation.shape, frame.index)
        except ValueError as error:
            raise _damaged(segmentation) from error
    with silence_pydicom, as_read_errors(segmentation.source, partial(undecodable, syntax)):
        (stored,) = decode_frames(dataset, segmentation.path, frame_count(dataset), [frame.index])
    if stored.shape != segmentation.shape:
        raise _damaged(segmentation)
    return stored


def _damaged(segmentation: _Segmentation) -> ReadError:
    return ReadError("broken_pixels", f"{segmentation.source} is damaged: export it again")
