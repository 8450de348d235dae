"""Which pages of a TIFF are slices and volumes, by what its writer stated; no pixel is read."""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import ReadError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

# Tag values of NewSubfileType.
_REDUCED, _MASK = 1, 4
# One scan each: pyramids of slides beside pictures of the label and the whole slide.
_SLIDES = {"svs", "ndpi", "scn", "bif", "qpi", "philips", "avs", "lsm"}
_SLICES = "ZQI"


@dataclass(frozen=True)
class Plane:
    """A page; or pixels at an offset, stored as those of the page, where one page has several."""

    page: Any
    offset: int | None = None


def planes_of(file: "TiffFile", size: int, source: str) -> tuple[NDArray[Any], bool]:
    """All planes (volume, slice) of full resolution, and whether several axes are slices.

    size: bytes of the file. Raises ReadError for pages whose order or number is not certain.
    """
    _check_chain(file, size, source)
    series = list(file.series)
    kind = series[0].kind if series else ""
    _check_images(file, series, kind, source)
    if not series or kind in ("generic", "uniform") or (kind == "shaped" and len(series) > 1):
        # Cameras put a small copy first, and the whole picture in a directory below it.
        pages = _full_pages([*file.pages]) or _full_pages(
            [sub for page in file.pages for sub in page.pages or ()]
        )
        pages = pages or [file.pages[0]]
        return _array([Plane(page) for page in pages], (1, len(pages))), False
    highest = series[0].levels[0]
    axes = _leading_axes(highest, source)
    images = int((file.imagej_metadata or {}).get("images", 1))
    if kind == "imagej" and math.prod(axes.values()) < images:
        # Plain stacks of old versions state how many images follow, and name no axis.
        return _array(_contiguous(highest, images, size, source), (1, images)), False
    shape = tuple(axes.values())
    count = math.prod(shape)
    if highest.dataoffset is not None:
        planes = _contiguous(highest, count, size, source)
    else:
        pages = list(highest.pages)
        if len(pages) != count or any(page is None for page in pages):
            raise ReadError("incomplete", f"{source} lacks pages: export it again")
        planes = [Plane(page) for page in pages]
    stacked = _array(planes, shape)
    if "T" in axes:
        stacked = np.moveaxis(stacked, list(axes).index("T"), 0)
    mixed = sum(axes[axis] > 1 for axis in axes if axis[0] in _SLICES) > 1
    times = axes.get("T", 1)
    return stacked.reshape(times, count // times), mixed


def _check_chain(file: "TiffFile", size: int, source: str) -> None:
    """Raise ReadError where a page leads back to an earlier one, or where pages overlap.

    tifffile 2026.3 follows such a chain for up to 2^32 pages.
    """
    form, stream = file.tiff, file.filehandle
    offset, seen, described = file.pages.first.offset, set[int](), 0
    while 0 < offset < size:
        seen.add(offset)
        stream.seek(offset)
        count = stream.read(form.tagnosize)
        if len(count) < form.tagnosize:
            return
        length = struct.unpack(form.tagnoformat, count)[0] * form.tagsize
        described += form.tagnosize + length + form.offsetsize
        stream.seek(offset + form.tagnosize + length)
        following = stream.read(form.offsetsize)
        if len(following) < form.offsetsize:
            return
        offset = struct.unpack(form.offsetformat, following)[0]
        if offset in seen or described > size:
            raise ReadError(
                "broken_header", f"{source} has pages that lead to each other: export it again"
            )


def _check_images(
    file: "TiffFile", series: "Sequence[TiffPageSeries]", kind: str, source: str
) -> None:
    """Refuse files whose description states other pixels than they have, and several images."""
    incomplete = (file.is_imagej and kind != "imagej") or (file.is_ome and kind != "ome")
    if file.is_ome and not incomplete:
        from xml.etree import ElementTree

        root = ElementTree.fromstring(file.ome_metadata or "<OME/>")
        own = root.get("UUID")
        named = (n for n in root.iter() if n.tag.endswith("}UUID") and n.get("FileName"))
        incomplete = any((node.text or "").strip() != own for node in named)
    if incomplete:
        raise ReadError(
            "incomplete",
            f"{source} has fewer pixels than its description states: it is truncated, or the rest "
            "is in other files; export it again as one file",
        )
    if kind not in {"generic", "uniform", "shaped", *_SLIDES} and len(series) > 1:
        raise ReadError(
            "several_images",
            f"{source} holds {len(series)} images instead of one: save each as a file",
        )


def _full_pages(pages: Iterable[Any]) -> list[Any]:
    """The pages that are no smaller copy and no transparency of another."""
    return [page for page in pages if not int(page.subfiletype) & (_REDUCED | _MASK)]


def _leading_axes(series: "TiffPageSeries", source: str) -> dict[str, int]:
    """The axes of a series before those of its pages, with their lengths."""
    own = series.keyframe.axes
    if own not in ("YX", "YXS", "SYX") or not series.axes.endswith(own):
        raise ReadError(
            "axes", f"{source} has the axes {series.axes}, not of pages: save slices as pages"
        )
    leading = series.axes.removesuffix(own)
    # A letter that is repeated gets a mark for each repetition.
    names = [axis + "'" * leading[:index].count(axis) for index, axis in enumerate(leading)]
    axes = dict(zip(names, series.shape[: len(leading)], strict=True))
    if axes.get("C", 1) > 1:
        raise ReadError(
            "channels",
            f"{source} has {axes['C']} channels (axes {series.axes}), which are no slices and no "
            "colours: save the channel to measure, or an RGB picture; if they are slices, save "
            "it with the axis Z",
        )
    unknown = [axis for axis in axes if axis[0] not in "CT" + _SLICES and axes[axis] > 1]
    if unknown:
        raise ReadError(
            "axes",
            f"{source} has the axes {series.axes}; only slices (Z) and times (T) are read: save "
            f"one file for each {unknown[0][0]}",
        )
    return axes


def _contiguous(series: "TiffPageSeries", count: int, size: int, source: str) -> list[Plane]:
    """Planes that follow each other from where the first page's pixels begin."""
    page: Any = series.keyframe
    nbytes = math.prod(page.shape) * page.dtype.itemsize
    start = page.dataoffsets[0] if series.dataoffset is None else series.dataoffset
    packed = int(page.compression) != 1 or page.dtype.kind == "b"
    if packed or start + count * nbytes > size:
        raise ReadError(
            "incomplete",
            f"{source} lacks pixels of the {count} images that its description states: export it "
            "again",
        )
    return [Plane(page, start + index * nbytes) for index in range(count)]


def _array(planes: Sequence[Plane], shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.empty(len(planes), object)
    array[:] = planes
    return array.reshape(shape)
