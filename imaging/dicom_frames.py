"""Where each frame of a DICOM object lies, and how its stored values become physical ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from wsseg.imaging.dicom_planes import Plane, planes_of
from wsseg.imaging.dicom_rescale import Rescale, rescale_of
from wsseg.imaging.dicom_spacing import PixelSize, pixel_size
from wsseg.imaging.dicom_values import first_item, items


@dataclass(frozen=True)
class Frames:
    """One entry a frame, in the order asked for; flags concern the pixel size."""

    planes: tuple[Plane, ...]
    rescales: tuple[Rescale, ...]
    flags: frozenset[str]


def read_frames(
    dataset: Dataset, count: int, source: str, chosen: Sequence[int] | None = None
) -> Frames:
    """The planes and rescales of the frames `chosen` of `count`, of all if None.

    A frame's own functional group wins over the shared one, and both over the top level. Raises
    ReadError for a rescale that no pixel could survive.
    """
    chosen = range(count) if chosen is None else chosen
    sizes = _Sizes(dataset)
    planes = planes_of(dataset, count, sizes.of, chosen)
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    if own:
        groups = (own[index] if index < len(own) else Dataset() for index in chosen)
        rescales = tuple(rescale_of(dataset, group, shared, source) for group in groups)
    else:
        rescales = (rescale_of(dataset, Dataset(), shared, source),) * len(chosen)
    return Frames(planes, rescales, frozenset(sizes.flags))


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
