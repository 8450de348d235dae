"""Where each frame of a DICOM object lies, and how its stored values become physical ones."""

from dataclasses import dataclass

from pydicom.dataset import Dataset

from wsseg.imaging.dicom_rescale import Rescale, rescale_of
from wsseg.imaging.dicom_spacing import PixelSize, pixel_size
from wsseg.imaging.dicom_values import cosines, items, lengths, numbers


@dataclass(frozen=True)
class Plane:
    """position: LPS mm of the first pixel; orientation: direction cosines of row and column.

    None where the source does not say. pixel_mm: (row, column) distance.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_mm: PixelSize | None


@dataclass(frozen=True)
class Frames:
    """One entry a frame, in stored order; flags concern the pixel size."""

    planes: tuple[Plane, ...]
    rescales: tuple[Rescale, ...]
    flags: frozenset[str]


def read_frames(dataset: Dataset, count: int, source: str) -> Frames:
    """The planes and rescales of all frames: functional groups where there are any.

    A frame's own group wins over the shared one, and both over the top level. Raises ReadError
    for a rescale that no pixel could survive.
    """
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = (items(dataset, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if not own and not len(shared):
        return _plain(dataset, count, source)
    own = [*own, *[Dataset()] * (count - len(own))][:count]
    sizes = _Sizes(dataset)
    planes = tuple(_plane(group, shared, sizes) for group in own)
    rescales = tuple(rescale_of(dataset, group, shared, source) for group in own)
    return Frames(planes, rescales, frozenset(sizes.flags))


def _plain(dataset: Dataset, count: int, source: str) -> Frames:
    size, flags = pixel_size(dataset)
    # One position cannot serve several frames: where the others lie is then unknown.
    position = numbers(dataset, "ImagePositionPatient", 3) if count == 1 else None
    plane = Plane(position, cosines(dataset), size)
    rescale = rescale_of(dataset, Dataset(), Dataset(), source)
    return Frames((plane,) * count, (rescale,) * count, frozenset(flags))


class _Sizes:
    """Pixel sizes of an object's frames, each worked out once, and the flags about all of them."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._known: dict[PixelSize | None, PixelSize | None] = {}
        self.flags: set[str] = set()

    def of(self, measured: PixelSize | None) -> PixelSize | None:
        """The size of a frame whose own group, or the shared one, says `measured`."""
        if measured not in self._known:
            self._known[measured], flags = pixel_size(self._dataset, measured)
            self.flags |= flags
        return self._known[measured]


def _plane(group: Dataset, shared: Dataset, sizes: _Sizes) -> Plane:
    position = _macro(group, shared, "PlanePositionSequence")
    orientation = _macro(group, shared, "PlaneOrientationSequence")
    measures = _macro(group, shared, "PixelMeasuresSequence")
    return Plane(
        numbers(position, "ImagePositionPatient", 3),
        cosines(orientation),
        sizes.of(lengths(measures, "PixelSpacing")),
    )


def _macro(group: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """The functional group macro that holds for a frame; empty where there is none."""
    found = items(group, keyword) or items(shared, keyword)
    return found[0] if found else Dataset()
