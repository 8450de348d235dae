"""One DICOM object: where its slices lie, how their values become physical, and their pixels."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from threading import Lock

from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

from wsseg.imaging.dicom.decoder import (
    OVERLAY_BITS,
    DecoderCrashedError,
    DecoderRefusedError,
    DecoderTimeoutError,
)
from wsseg.imaging.dicom.file import (
    first_item,
    is_compressed,
    items,
    number,
    open_dicom,
    parsing_fault,
    silence_pydicom,
    syntax_name,
    tags_of,
    text,
    texts,
    undecoded,
)
from wsseg.imaging.dicom.geometry import (
    PLANE_KEYWORDS,
    PixelSize,
    Plane,
    pixel_size,
    planes_of,
    stack_order,
)
from wsseg.imaging.dicom.header import uids_of
from wsseg.imaging.dicom.mosaic import (
    GRID_TAGS,
    MOSAIC_KEYWORDS,
    PRIVATE_TAGS,
    Mosaic,
    is_mosaic,
    mosaic_of,
)
from wsseg.imaging.dicom.pixels import (
    PIXEL_KEYWORDS,
    Layout,
    ObjectPixels,
    Pixels,
    read_layout,
)
from wsseg.imaging.dicom.rescale import HU, SUV, SUV_TAGS, Rescale, rescale_of
from wsseg.imaging.dicom.sop_classes import is_ct, is_pet, is_planar, kind_of, often_annotated
from wsseg.imaging.errors import ReadError
from wsseg.imaging.files import check_unchanged, version_of
from wsseg.imaging.limits import DEFAULT_LIMITS, ReadLimits
from wsseg.imaging.scan import FileRef, SliceId

logger = logging.getLogger(__name__)

# Elements that describe where the slices of a file lie, and how large they are.
GEOMETRY_TAGS = [
    *tags_of(
        (
            *PLANE_KEYWORDS,
            *MOSAIC_KEYWORDS,
            *("Modality", "SliceThickness", "PixelSpacingCalibrationType"),
            *("ImagerPixelSpacing", "EstimatedRadiographicMagnificationFactor"),
            *("NominalScannedPixelSpacing", "SequenceOfUltrasoundRegions"),
        )
    ),
    *GRID_TAGS,
    *PRIVATE_TAGS,
]
_VALUE_TAGS = tags_of(
    (
        *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
        *("BurnedInAnnotation", "SamplesPerPixel", "PhotometricInterpretation"),
        *("PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit"),
        *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
        *("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
        *("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
        "MultienergyCTAcquisition",
        *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
        *(
            f"{prefix}{colour}PaletteColorLookupTable{what}"
            for colour in ("Red", "Green", "Blue")
            for prefix, what in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
        ),
        *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
        *PIXEL_KEYWORDS,
    )
)
_TAGS = [*GEOMETRY_TAGS, *SUV_TAGS, *_VALUE_TAGS, OVERLAY_BITS]
# Larger values are not read with the header: the pixels of a long object, uncompressed.
DEFERRED_BYTES = 1 << 26
# Pictures of other pictures, by a value of ImageType: MPR, MPR_COR, but not COMPRESSED.
_SAVED = re.compile(r"(?<![A-Z])SAVE")
_REFORMATTED = re.compile(r"(?<![A-Z])MPR(?![A-Z])")


@dataclass(frozen=True)
class Frames:
    """Frames in the order requested, one entry each; flags concern the pixel size."""

    planes: tuple[Plane, ...]
    rescales: tuple[Rescale, ...]
    flags: frozenset[str]


def read_frames(
    dataset: Dataset, count: int, source: str, chosen: Sequence[int] | None = None
) -> Frames:
    """The planes and rescales of the frames `chosen` of `count`, by index; of all if None.

    A frame's own functional group wins over the shared one, and both over the top level. Raises
    ReadError for a rescale that no pixel could survive.
    """
    chosen = range(count) if chosen is None else chosen
    flags: set[str] = set()

    @cache
    def size_of(measured: PixelSize | None) -> PixelSize | None:
        size, size_flags = pixel_size(dataset, measured)
        flags.update(size_flags)
        return size

    planes = planes_of(dataset, count, size_of, chosen)
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    if own:
        groups = (own[index] if index < len(own) else Dataset() for index in chosen)
        rescales = tuple(rescale_of(dataset, group, shared, source) for group in groups)
    else:
        rescales = (rescale_of(dataset, Dataset(), shared, source),) * len(chosen)
    return Frames(planes, rescales, frozenset(flags))


@dataclass(frozen=True)
class Slices:
    """The slices that are wanted of a file, in slice order.

    indices: of frames, or of the tiles of a mosaic, from 0. frames: indices of those to decode.
    """

    planes: tuple[Plane, ...]
    rescales: tuple[Rescale, ...]
    indices: tuple[int, ...]
    frames: tuple[int, ...]


def order_slices(
    frames: Frames, count: int, chosen: Sequence[int] | None, mosaic: Mosaic | None
) -> Slices:
    """The slices `chosen` of a file of `count` frames, all if None, whose planes `frames` has."""
    indices = chosen if chosen is not None else range(mosaic.count if mosaic else count)
    planes = tuple(mosaic.planes[k] for k in indices) if mosaic else frames.planes
    order = stack_order(planes) or list(range(len(planes)))
    in_order = tuple(indices[k] for k in order)
    return Slices(
        planes=tuple(planes[k] for k in order),
        rescales=frames.rescales if mosaic else tuple(frames.rescales[k] for k in order),
        indices=in_order,
        frames=(0,) if mosaic else in_order,
    )


def mosaic_in(dataset: Dataset, source: str) -> Mosaic | None:
    """The arrangement of the image's tiles, if it is a mosaic. Raises ReadError."""
    what = (text(dataset, keyword) for keyword in ("SOPClassUID", "Modality", "ImageType"))
    return mosaic_of(dataset, pixel_size(dataset)[0], source) if is_mosaic(*what) else None


def stated_step(dataset: Dataset) -> float:
    """The distance of slices along their normal in mm, as the header states it; 1 without one."""
    # Negative in nuclear medicine, absent in single images: there 1 mm keeps the affine regular.
    shared = (items(dataset, "SharedFunctionalGroupsSequence") or [dataset])[0]
    measures = (items(shared, "PixelMeasuresSequence") or [dataset])[0]
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        if stated := number(measures, keyword):
            return abs(stated)
    return 1.0


@dataclass(frozen=True)
class Part:
    """What one file adds to a scan: planes and slices in slice order.

    step_mm is the spacing along the normal that the header states; the true one comes from the
    positions.
    """

    planes: tuple[Plane, ...]
    slices: tuple[SliceId, ...]
    flags: frozenset[str]
    modality: str
    study_uid: str
    series_uid: str
    tomographic: bool
    step_mm: float

    def with_flag(self, flag: str) -> "Part":
        """The same with one more flag."""
        return replace(self, flags=self.flags | {flag})


class OpenObject:
    """One file whose header is read; its slices are decoded on request.

    shape: (slice, row, column[, 3]) of all slices that are wanted of it.
    """

    def __init__(
        self,
        part: Part,
        pixels: ObjectPixels,
        slices: Slices,
        mosaic: Mosaic | None,
        file: FileRef,
    ) -> None:
        self._part = part
        self._pixels = pixels
        self._slices = slices
        self._mosaic = mosaic
        self._file = file
        rows_columns = (mosaic.rows, mosaic.columns) if mosaic else pixels.shape[1:3]
        self.shape = (len(slices.indices), *rows_columns, *pixels.shape[3:])

    @property
    def part(self) -> Part:
        """The file's part of the scan, with the flags of the slices decoded so far."""
        return replace(self._part, flags=self._part.flags | self._pixels.flags)

    def decode_into(self, stack: Pixels, slices: Sequence[int] | None = None) -> None:
        """Decode slices, by their indices in slice order, or all, into (slice, row, column[, 3]).

        Values that are not finite are left in. Raises ReadError, and nothing else that the file
        could cause.
        """
        wanted = range(self.shape[0]) if slices is None else slices
        source = self._file.source
        with silence_pydicom, as_read_errors(source, partial(undecodable, self._pixels.syntax)):
            if self._mosaic:
                (picture,) = self._pixels.planes([0])
                tiles = [self._slices.indices[index] for index in wanted]
                stack[:] = self._mosaic.tiles(picture, tiles, source)
                return
            position = {self._slices.frames[index]: k for k, index in enumerate(wanted)}
            frames = sorted(position)
            for frame, plane in zip(frames, self._pixels.planes(frames), strict=True):
                stack[position[frame]] = plane


def open_object(
    file: FileRef,
    chosen: Sequence[int] | None = None,
    *,
    rest_follows: bool = False,
    limits: ReadLimits = DEFAULT_LIMITS,
) -> OpenObject:
    """Read the header of one file, and check what it promises before anything is decoded.

    chosen: indices of the frames, or tiles of a mosaic, that are wanted; all if None.
    rest_follows: other frames will be requested next, so that the parsed file is kept until
    another one is read. Raises ReadError, and nothing else that the file could cause.
    """
    with silence_pydicom:
        with as_read_errors(file.source, _unreadable):
            dataset, guessed = _LAST.opened(file, limits, keep=rest_follows)
        study, series, instance = uids = uids_of(dataset)
        check_unchanged(file, uids)
        syntax = dataset.file_meta.TransferSyntaxUID
        with as_read_errors(file.source, partial(undecodable, syntax)):
            mosaic = mosaic_in(dataset, file.source)
            layout = read_layout(dataset, file, limits)
            frames = read_frames(dataset, layout.frames, file.source, None if mosaic else chosen)
            slices = order_slices(frames, layout.frames, chosen, mosaic)
            flags = frames.flags | _header_flags(dataset, layout, frames)
            sop_class = text(dataset, "SOPClassUID")
            several = mosaic is not None or layout.frames > 1
            part = Part(
                planes=slices.planes,
                slices=tuple(
                    SliceId(file.source, instance, index + 1 if several else None)
                    for index in slices.indices
                ),
                flags=flags | {"GUESSED_SYNTAX"} if guessed else flags,
                modality=text(dataset, "Modality"),
                study_uid=study,
                series_uid=series,
                tomographic=kind_of(sop_class) == "tomographic"
                and not is_planar(sop_class, text(dataset, "ImageType")),
                step_mm=stated_step(dataset),
            )
            rescales = dict(zip(slices.frames, slices.rescales, strict=True))
            pixels = ObjectPixels(dataset, layout, rescales, file, limits)
            return OpenObject(part, pixels, slices, mosaic, file)


class _LastOpened:
    """The file that was parsed last, while more of its frames are to come.

    To parse the functional groups of thousands of frames takes seconds, and a file with many scans
    is opened for each of them in turn.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._version: tuple[Path, int, int] | None = None
        self._opened: tuple[FileDataset, bool] | None = None

    def opened(self, file: FileRef, limits: ReadLimits, *, keep: bool) -> tuple[FileDataset, bool]:
        parse = partial(open_dicom, tags=_TAGS, leave=DEFERRED_BYTES, limits=limits)
        if not keep:
            self._version = self._opened = None
            return parse(file.path, file.source)
        with self._lock:
            version = (file.path, *version_of(file.path))
            # A local name: a thread that reads another file clears the attribute meanwhile.
            opened = self._opened if version == self._version else None
            if opened is None:
                self._version = self._opened = None
                opened = parse(file.path, file.source)
                self._version, self._opened = version, opened
            return opened


_LAST = _LastOpened()


def _header_flags(dataset: FileDataset, layout: Layout, frames: Frames) -> set[str]:
    sop_class, modality = text(dataset, "SOPClassUID"), text(dataset, "Modality")
    image_type = texts(dataset, "ImageType")
    units = {"" if layout.colour else rescale.unit for rescale in frames.rescales}
    burned_in = text(dataset, "BurnedInAnnotation").upper()
    rules = {
        "PHI_RISK": burned_in == "YES"
        or (often_annotated(sop_class) and burned_in != "NO")
        or any(_SAVED.search(value) for value in image_type)
        or ("DERIVED" in image_type and any(_REFORMATTED.search(value) for value in image_type)),
        "LOCALIZER": "LOCALIZER" in image_type,
        "UNKNOWN_CLASS": kind_of(sop_class) == "unknown",
        "NOT_HU": is_ct(sop_class, modality) and units != {HU},
        "NOT_SUV": is_pet(sop_class, modality) and units != {SUV},
    }
    return {flag for flag, holds in rules.items() if holds}


@contextmanager
def as_read_errors(source: str, describe: Callable[[str, Exception], ReadError]) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into a ReadError."""
    try:
        yield
    except ReadError:
        raise
    except MemoryError as error:
        message = f"{source} needs more memory than there is: split it"
        raise ReadError("out_of_memory", message) from error
    except Exception as error:  # parsers and decoders raise many types
        raise describe(source, error) from error


def _unreadable(source: str, error: Exception) -> ReadError:
    # The library's own message may quote header values, hence patient data.
    logger.debug("%s while opening a file", type(error).__name__)
    if isinstance(error, OSError) and error.errno is not None:
        return ReadError("unreadable", f"{source} cannot be opened: {error.strerror}")
    return ReadError(
        "broken_header",
        f"{source} is damaged, parsing it {parsing_fault(error)}: export it again",
    )


def undecodable(syntax: UID, source: str, error: Exception) -> ReadError:
    """The error for pixels that no decoder could turn into an image."""
    logger.debug("%s while decoding pixels", type(error).__name__)
    if not is_compressed(syntax):
        return ReadError(
            "broken_pixels",
            f"{source} is damaged, reading its pixels stopped with {type(error).__name__}: "
            "export it again",
        )
    if isinstance(error, DecoderTimeoutError):
        return ReadError(
            "timed_out",
            f"{source} is compressed as {syntax_name(syntax)} and was not decoded in "
            f"{error.args[0]:.0f} s: it is damaged, or raise --read-seconds",
        )
    if isinstance(error, DecoderRefusedError) and error.args == (MemoryError.__name__,):
        return ReadError(
            "too_large",
            f"{source} is compressed as {syntax_name(syntax)} and grows far beyond the size that "
            "its header states: export it again",
        )
    if isinstance(error, DecoderCrashedError):
        return ReadError(
            "decoder_crashed",
            f"{source} is compressed as {syntax_name(syntax)} and damaged so that its decoder "
            "crashed: export it again",
        )
    return undecoded(syntax, source)
