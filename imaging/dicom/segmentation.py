"""DICOM segmentations as labels of an image's slice: by segment, and by where each frame lies."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from wsseg.imaging.content import is_dicom, read_head
from wsseg.imaging.dicom.file import (
    at_pixels,
    first_item,
    frame_count,
    integer,
    items,
    open_dicom,
    silence_pydicom,
    tags_of,
    text,
    value_of,
)
from wsseg.imaging.dicom.geometry import Plane
from wsseg.imaging.dicom.object import GEOMETRY_TAGS, read_frames
from wsseg.imaging.dicom.reader import dicom_volumes
from wsseg.imaging.errors import ReadError
from wsseg.imaging.files import Version, open_file, version_of
from wsseg.imaging.label_values import Label, Labels, Numbering
from wsseg.imaging.picture_page import WHITE
from wsseg.imaging.scan import FileRef

# Corners of a frame and a slice may lie this part of a pixel apart: above the rounding of decimal
# strings, below what moves a label to another pixel.
PLACE_TOLERANCE = 0.1

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
_IDENTITY_TAGS = tags_of(("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"))
_SPACE_TAGS = tags_of(("FrameOfReferenceUID",))
_REMEMBERED = 4  # segmentations that are parsed: their frames have a header each


@dataclass(frozen=True)
class SlicePosition:
    """A slice of a DICOM image as stored. shape: rows and columns. frame: its number, from 1."""

    plane: Plane
    shape: tuple[int, int]
    space: str
    series: str
    instance: str
    frame: int


@dataclass(frozen=True)
class _Frame:
    """index: in the file. segment: 0 for a label map. sources: (instance, frames or None)."""

    index: int
    plane: Plane
    segment: int
    sources: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class _Segmentation:
    source: str
    dataset: Dataset
    kind: Literal["binary", "map"]
    shape: tuple[int, int]
    texts: dict[int, str]
    frames: tuple[_Frame, ...]
    space: str
    series: frozenset[str]
    instances: frozenset[str]


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
    """Where a slice of a DICOM image lies, and how it is called. Raises ReadError."""
    place = dicom_volumes(image)[volume]
    frame = place.frames[slice_index]
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
            place.stored,
            text(header, "FrameOfReferenceUID"),
            text(header, "SeriesInstanceUID"),
            text(header, "SOPInstanceUID"),
            frame + 1,
        )


def segment_labels(
    path: Path, place: SlicePosition, numbering: Numbering, *, background: int
) -> Labels:
    """Class numbers (row, column) that a segmentation gives a slice, on its stored pixels.

    Without a map, segment k is class k. A slice of the images that the segmentation refers to has
    no frame where nothing was drawn on it. Raises ReadError where it refers to other images, its
    pixels do not lie on the slice's, it holds probabilities, or one pixel belongs to two classes.
    """
    found = _opened(path)
    frames = list(_frames_on(found, place))
    if not frames and not _refers_to(found, place):
        raise ReadError(
            "labels_elsewhere",
            f"{found.source} was drawn on other images, and has no frame where this one lies: name "
            "the segmentation of this image",
        )
    labels = np.zeros(place.shape, np.uint8)
    for frame, indices in frames:
        stored = _pixels(found, frame)[indices]
        numbers = np.unique(stored[stored != 0])
        for number in map(int, numbers):
            segment = frame.segment or number
            value = _class_of(segment, found, numbering, background)
            inside = stored == number
            if value and np.any((labels[inside] != 0) & (labels[inside] != value)):
                raise ReadError(
                    "overlap",
                    f"{found.source} gives pixels to two classes, segment {segment} being one of "
                    "them: correct the segments, or join them under [labels] in the settings",
                )
            if value:
                labels[inside] = value
    return labels


def unnamed_segments(path: Path, numbering: Numbering) -> list[int]:
    """Numbers of the segments that a map does not name. Raises ReadError."""
    found = _opened(path)
    return [
        number
        for number, words in sorted(found.texts.items())
        if numbering.class_of(_names(number, words), 0) is None
    ]


def _names(number: int, words: str) -> list[Label]:
    return [number, words] if words else [number]


def _class_of(segment: int, found: _Segmentation, numbering: Numbering, background: int) -> int:
    if numbering.stored:
        names = _names(segment, found.texts.get(segment, ""))
        return numbering.class_of(names, background) or 0
    if segment > WHITE:
        raise ReadError(
            "not_labels",
            f"{found.source} has a segment {segment}: name it under [labels] in the settings",
        )
    return segment


def _opened(path: Path) -> _Segmentation:
    return _parsed(path, version_of(path))


@lru_cache(maxsize=_REMEMBERED)
def _parsed(path: Path, _version: tuple[int, int]) -> _Segmentation:
    from pydicom import dcmread

    with silence_pydicom, open_file(path) as stream:
        dataset = dcmread(stream)
        source = path.name
        is_map = text(dataset, "SOPClassUID") == _LABEL_MAP
        how = "LABELMAP" if is_map else text(dataset, "SegmentationType")
        if how not in ("BINARY", "LABELMAP"):
            raise ReadError(
                "not_labels",
                f"{source} is a segmentation of type {how or 'unknown'}, which holds no classes: "
                "save it as BINARY or LABELMAP",
            )
        return _Segmentation(
            source=source,
            dataset=dataset,
            kind="map" if how == "LABELMAP" else "binary",
            shape=(integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0),
            texts={
                integer(item, "SegmentNumber") or 0: text(item, "SegmentLabel")
                for item in items(dataset, "SegmentSequence")
            },
            frames=tuple(_frames(dataset, source, is_map=how == "LABELMAP")),
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
    count = frame_count(dataset)
    planes = read_frames(dataset, count, source).planes
    groups = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    for index, plane in enumerate(planes):
        group = groups[index] if index < len(groups) else Dataset()
        segment = 0 if is_map else _segment_of(group, shared, source)
        sources = (
            (
                text(item, "ReferencedSOPInstanceUID"),
                _frame_numbers(item),
            )
            for holder in (group, shared)
            for derivation in items(holder, "DerivationImageSequence")
            for item in items(derivation, "SourceImageSequence")
        )
        yield _Frame(index, plane, segment, tuple(sources))


def _segment_of(group: Dataset, shared: Dataset, source: str) -> int:
    for holder in (group, shared):
        for item in items(holder, "SegmentIdentificationSequence"):
            number = integer(item, "ReferencedSegmentNumber")
            if number:
                return number
    raise ReadError("broken_header", f"{source} has frames of no segment: export it again")


def _frame_numbers(item: Dataset) -> tuple[int, ...]:
    """Frames of a source image, from 1; none where all are meant."""
    found = value_of(item, "ReferencedFrameNumber")
    several = found if isinstance(found, MultiValue) else [found]
    return tuple(int(str(number)) for number in several if number is not None)


def _refers_to(found: _Segmentation, place: SlicePosition) -> bool:
    named = found.instances | {uid for frame in found.frames for uid, _ in frame.sources}
    return place.instance in named or place.series in found.series


Indices = tuple[NDArray[np.intp], NDArray[np.intp]]


def _frames_on(found: _Segmentation, place: SlicePosition) -> Iterator[tuple[_Frame, Indices]]:
    """The frames that lie on a slice, with the row and column in them of each of its pixels."""
    placed = place.plane.position and place.plane.orientation and place.plane.pixel_mm
    if placed and found.space and place.space and found.space != place.space:
        raise ReadError(
            "labels_elsewhere",
            f"{found.source} and the image count millimetres from different places (frames of "
            "reference): name the segmentation of this image",
        )
    for frame in found.frames:
        plane = frame.plane
        if placed and plane.position and plane.orientation and plane.pixel_mm:
            indices = _indices(found, frame, place)
            if indices is not None:
                yield frame, indices
        elif _derived(frame, place):
            if found.shape != place.shape:
                raise _off_grid(found, place)
            rows, columns = np.indices(place.shape)
            yield frame, (rows, columns)


def _derived(frame: _Frame, place: SlicePosition) -> bool:
    return any(
        uid == place.instance and (not numbers or place.frame in numbers)
        for uid, numbers in frame.sources
    )


def _indices(found: _Segmentation, frame: _Frame, place: SlicePosition) -> Indices | None:
    """Where the slice's pixels are in a frame; None where the frame lies in another plane."""
    rows, columns = place.shape
    ends = np.array([(0, 0), (columns - 1, 0), (0, rows - 1)], np.float64)
    corners = _placed(place.plane, ends)
    across, down, normal, origin, size = _axes(frame.plane)
    offsets = corners - origin
    if np.abs(offsets @ normal).max() > PLACE_TOLERANCE * min(size):
        return None
    exact = np.stack([offsets @ down / size[0], offsets @ across / size[1]], axis=-1)
    nearest = np.rint(exact).astype(np.intp)
    first, right, below = nearest
    along, along_down = whole_step(right - first, columns), whole_step(below - first, rows)
    near = np.abs(exact - nearest).max() <= PLACE_TOLERANCE
    last = right + below - first
    inside = (np.minimum(first, last) >= 0).all() and (
        np.maximum(first, last) < np.array(found.shape)
    ).all()
    if along is None or along_down is None or not (near and inside):
        raise _off_grid(found, place)
    row, column = np.indices(place.shape)
    return (
        first[0] + along[0] * column + along_down[0] * row,
        first[1] + along[1] * column + along_down[1] * row,
    )


def whole_step(way: NDArray[np.intp], pixels: int) -> NDArray[np.intp] | None:
    """From one pixel to the next, one voxel along one axis; None for other steps.

    way: in voxels, from the first of so many pixels to the last.
    """
    step = np.sign(way)
    whole = np.array_equal(way, step * (pixels - 1))
    return step if whole and np.count_nonzero(step) == min(1, pixels - 1) else None


class _Axes(NamedTuple):
    """Unit vectors along rows and columns and across the plane, LPS mm of the first pixel, and
    (row, column) distance of pixels."""

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


def _placed(plane: Plane, ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """LPS mm (n, 3) of pixels (n, 2), column before row."""
    across, down, _, origin, size = _axes(plane)
    return origin + ends[:, :1] * across * size[1] + ends[:, 1:] * down * size[0]


def _off_grid(found: _Segmentation, place: SlicePosition) -> ReadError:
    return ReadError(
        "labels_elsewhere",
        f"{found.source} has frames of {found.shape} (rows, columns), whose pixels are not those "
        f"of the image's {place.shape}: resample it to the image's grid",
    )


def _pixels(found: _Segmentation, frame: _Frame) -> NDArray[np.integer[Any]]:
    from pydicom.pixels.utils import pixel_array

    dataset = found.dataset
    packed = integer(dataset, "BitsAllocated") == 1
    if packed and not dataset.file_meta.TransferSyntaxUID.is_compressed:
        return _unpacked(found, frame.index)
    with silence_pydicom:
        stored = pixel_array(dataset, index=frame.index, raw=True)
    if stored.shape != found.shape:
        raise _damaged(found)
    return stored


def _unpacked(found: _Segmentation, index: int) -> NDArray[np.uint8]:
    """A frame of bits, which follow those of the frame before within a byte (PS3.5, 8.1.1).

    pydicom 3.0.2 takes a byte too few for some frames where only one is asked for.
    """
    rows, columns = found.shape
    count = rows * columns
    first = index * count
    nbytes = (first + count + 7) // 8
    content = found.dataset.PixelData[first // 8 : nbytes]
    bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
    frame = bits[first % 8 : first % 8 + count]
    if frame.size < count:
        raise _damaged(found)
    return frame.reshape(rows, columns)


def _damaged(found: _Segmentation) -> ReadError:
    return ReadError("broken_pixels", f"{found.source} is damaged: export it again")
