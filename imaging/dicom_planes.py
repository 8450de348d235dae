"""Where each frame of a DICOM object lies: in functional groups, vectors, or at the top level."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from wsseg.imaging.dicom_classes import is_nuclear
from wsseg.imaging.dicom_spacing import PixelSize
from wsseg.imaging.dicom_values import cosines, first_item, items, lengths, number, numbers, text

# Tags that `planes_of` reads.
PLANE_KEYWORDS = (
    "SOPClassUID",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SpacingBetweenSlices",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
    "DetectorInformationSequence",
    "SliceVector",
    "SliceLocationVector",
    "NumberOfSlices",
)
# Slices that know only their heights are drawn into this plane of a space of their own.
_OWN_PLANE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

SizeOf = Callable[[PixelSize | None], PixelSize | None]


@dataclass(frozen=True, slots=True)
class Plane:
    """position: mm of the first pixel; orientation: direction cosines of row and column.

    None where the source does not say. pixel_mm: (row, column) distance. in_patient: they are LPS
    coordinates; otherwise those of a space of the volume's own, in which lengths hold as well.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_mm: PixelSize | None
    in_patient: bool = True

    @property
    def placed(self) -> bool:
        """Whether the source says where the plane lies."""
        return self.position is not None and self.orientation is not None


def planes_of(
    dataset: Dataset, count: int, size_of: SizeOf, frames: Sequence[int] | None = None
) -> tuple[Plane, ...]:
    """The planes of `frames` (all `count` of them if None), in their order.

    size_of: pixel size of a frame, given that of its functional groups, or None. A frame's own
    group wins over the shared one, and both over the top level.
    """
    chosen = range(count) if frames is None else frames
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    if own or len(shared):
        top = _top(dataset, count)
        groups = (own[index] if index < len(own) else Dataset() for index in chosen)
        return tuple(_of_groups(group, shared, top, size_of) for group in groups)
    size = size_of(None)
    if count > 1:
        along = _nuclear_slices(dataset, count, size) or _heights(dataset, count, size)
        if along:
            return tuple(along[index] for index in chosen)
    position, orientation = _top(dataset, count)
    return (Plane(position, orientation, size),) * len(chosen)


_Place = tuple[tuple[float, ...] | None, tuple[float, ...] | None]


def _top(dataset: Dataset, count: int) -> _Place:
    # One position cannot serve several frames: where the others lie is then unknown.
    position = numbers(dataset, "ImagePositionPatient", 3) if count == 1 else None
    return position, cosines(dataset)


def macro(group: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """The functional group macro that holds for a frame; empty where there is none."""
    found = items(group, keyword) or items(shared, keyword)
    return found[0] if found else Dataset()


def _of_groups(group: Dataset, shared: Dataset, top: _Place, size_of: SizeOf) -> Plane:
    size = size_of(lengths(macro(group, shared, "PixelMeasuresSequence"), "PixelSpacing"))
    position = macro(group, shared, "PlanePositionSequence")
    orientation = macro(group, shared, "PlaneOrientationSequence")
    in_patient = Plane(
        numbers(position, "ImagePositionPatient", 3) or top[0],
        cosines(orientation) or top[1],
        size,
    )
    if in_patient.placed:
        return in_patient
    # Ultrasound volumes lie in a space of their own, that of the transducer or of a table.
    position = macro(group, shared, "PlanePositionVolumeSequence")
    orientation = macro(group, shared, "PlaneOrientationVolumeSequence")
    in_volume = Plane(
        numbers(position, "ImagePositionVolume", 3),
        cosines(orientation, "ImageOrientationVolume"),
        size,
        in_patient=False,
    )
    return in_volume if in_volume.placed else in_patient


def _nuclear_slices(dataset: Dataset, count: int, size: PixelSize | None) -> list[Plane] | None:
    """Reconstructed slices of nuclear medicine: stacked from the first one (PS3.3 C.8.4.14)."""
    if not is_nuclear(text(dataset, "SOPClassUID")) or not is_reconstructed(dataset):
        return None
    numbers_of = slice_numbers(dataset, count)
    step = number(dataset, "SpacingBetweenSlices")
    if numbers_of is None or not step:
        return None
    detector = first_item(dataset, "DetectorInformationSequence")
    first = numbers(detector, "ImagePositionPatient", 3) or numbers(
        dataset, "ImagePositionPatient", 3
    )
    orientation = cosines(detector) or cosines(dataset)
    if first is None or orientation is None:
        return _own_space([step * slice_number for slice_number in numbers_of], size)
    # Positive: away from someone who looks at the image, which is where rows x columns points.
    normal = np.cross(orientation[:3], orientation[3:]) * step
    return [
        Plane(tuple(float(x) for x in first + normal * (k - 1)), orientation, size)
        for k in numbers_of
    ]


def is_reconstructed(dataset: Dataset) -> bool:
    """Whether frames of nuclear medicine are slices, not planar views."""
    return "RECON" in text(dataset, "ImageType").upper()


def slice_numbers(dataset: Dataset, count: int) -> tuple[int, ...] | None:
    """Number of each frame's slice, from 1; None where frames are no slices of one volume."""
    vector = numbers(dataset, "SliceVector", count)
    if vector:
        return tuple(int(value) for value in vector)
    slices = number(dataset, "NumberOfSlices")
    return tuple(range(1, count + 1)) if slices == count else None


def _heights(dataset: Dataset, count: int, size: PixelSize | None) -> list[Plane] | None:
    """Captured slices that know their height, but not where the volume lies."""
    heights = numbers(dataset, "SliceLocationVector", count)
    return _own_space(heights, size) if heights else None


def _own_space(heights: Sequence[float], size: PixelSize | None) -> list[Plane]:
    return [Plane((0.0, 0.0, height), _OWN_PLANE, size, in_patient=False) for height in heights]
