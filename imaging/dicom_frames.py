"""Where each frame of a DICOM object lies, and how its stored values become physical ones."""

from dataclasses import dataclass

from pydicom.dataset import Dataset

from wsseg.imaging.dicom_spacing import PixelSize, pixel_size
from wsseg.imaging.dicom_values import cosines, items, lengths, number, numbers, value_of
from wsseg.imaging.errors import ReadError


@dataclass(frozen=True)
class Plane:
    """position: LPS mm of the first pixel; orientation: direction cosines of row and column.

    None where the source does not say. pixel_mm: (row, column) distance.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_mm: PixelSize | None


@dataclass(frozen=True)
class Rescale:
    """Physical value = stored value * slope + intercept."""

    slope: float = 1.0
    intercept: float = 0.0


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
    size, flags = pixel_size(dataset)
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = (items(dataset, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if not own and not len(shared):
        return _plain(dataset, count, size, frozenset(flags), source)
    own = [*own, *[Dataset()] * (count - len(own))][:count]
    planes = tuple(_plane(group, shared, size) for group in own)
    default = _rescale(dataset, Rescale(), source)
    rescales = tuple(
        _rescale(_macro(group, shared, "PixelValueTransformationSequence"), default, source)
        for group in own
    )
    if any(plane.pixel_mm is None for plane in planes):
        return Frames(planes, rescales, frozenset({"PX_ONLY"}))
    return Frames(planes, rescales, frozenset(flags - {"PX_ONLY"}))


def _plain(
    dataset: Dataset, count: int, size: PixelSize | None, flags: frozenset[str], source: str
) -> Frames:
    # One position cannot serve several frames: where the others lie is then unknown.
    position = numbers(dataset, "ImagePositionPatient", 3) if count == 1 else None
    plane = Plane(position, cosines(dataset), size)
    rescale = _rescale(dataset, Rescale(), source)
    return Frames((plane,) * count, (rescale,) * count, flags)


def _plane(group: Dataset, shared: Dataset, size: PixelSize | None) -> Plane:
    position = _macro(group, shared, "PlanePositionSequence")
    orientation = _macro(group, shared, "PlaneOrientationSequence")
    measures = _macro(group, shared, "PixelMeasuresSequence")
    return Plane(
        numbers(position, "ImagePositionPatient", 3),
        cosines(orientation),
        lengths(measures, "PixelSpacing") or size,
    )


def _macro(group: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """The functional group macro that holds for a frame; empty where there is none."""
    found = items(group, keyword) or items(shared, keyword)
    return found[0] if found else Dataset()


def _rescale(dataset: Dataset, default: Rescale, source: str) -> Rescale:
    found = []
    for keyword, value in (
        ("RescaleSlope", default.slope),
        ("RescaleIntercept", default.intercept),
    ):
        if value_of(dataset, keyword) in (None, "") and not _malformed(dataset, keyword):
            found.append(value)
            continue
        stored = number(dataset, keyword)
        if stored is None or (keyword == "RescaleSlope" and stored == 0):
            raise ReadError(
                "broken_header",
                f"{source} is damaged, its {keyword} is not a usable number: export it again",
            )
        found.append(stored)
    return Rescale(*found)


def _malformed(dataset: Dataset, keyword: str) -> bool:
    """True where the element is there, not empty, and cannot be converted."""
    if keyword not in dataset:
        return False
    try:
        _ = dataset[keyword].value
    except Exception:  # pydicom raises many kinds on malformed values
        return True
    return False
