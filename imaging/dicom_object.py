"""One DICOM file, read: its pixels in slice order, and what a scan must know of it."""

import logging
import re
from dataclasses import dataclass

from pydicom.dataset import FileDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from wsseg.imaging.dicom_classes import is_ct, is_pet, often_annotated, sort_of
from wsseg.imaging.dicom_decode import DecoderCrashedError
from wsseg.imaging.dicom_file import open_dicom
from wsseg.imaging.dicom_frames import Frames, Plane, read_frames
from wsseg.imaging.dicom_geometry import stack_order
from wsseg.imaging.dicom_pixels import Layout, Pixels, read_layout, read_pixels
from wsseg.imaging.dicom_quiet import quiet
from wsseg.imaging.dicom_rescale import HU
from wsseg.imaging.dicom_suv import SUV, SUV_TAGS
from wsseg.imaging.dicom_values import items, number, tags_of, text, texts
from wsseg.imaging.errors import ReadError
from wsseg.imaging.scan import FileRef, SliceId

logger = logging.getLogger(__name__)

# What says where the slices of a file lie, and how large they are.
PLACE_TAGS = tags_of(
    (
        *("SOPClassUID", "Modality", "Rows", "Columns", "NumberOfFrames"),
        *("ImagePositionPatient", "ImageOrientationPatient", "SpacingBetweenSlices"),
        *("SliceThickness", "PixelSpacing", "PixelSpacingCalibrationType"),
        *("ImagerPixelSpacing", "EstimatedRadiographicMagnificationFactor"),
        *("NominalScannedPixelSpacing", "SequenceOfUltrasoundRegions"),
        *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"),
    )
)
_OWN_TAGS = tags_of(
    (
        *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
        *("ImageType", "BurnedInAnnotation", "SamplesPerPixel", "PhotometricInterpretation"),
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
        *("PixelData", "FloatPixelData", "DoubleFloatPixelData"),
    )
)
_TAGS = PLACE_TAGS + SUV_TAGS + _OWN_TAGS
# Pictures of other pictures, by a value of ImageType: MPR, MPR_COR, but not COMPRESSED.
_SAVED = re.compile(r"(?<![A-Z])SAVE")
_REFORMATTED = re.compile(r"(?<![A-Z])MPR(?![A-Z])")


@dataclass(frozen=True)
class Part:
    """What one file adds to a scan: planes and slices in slice order; step_mm along the normal.

    step_mm is the spacing that the header states; the true one comes from the positions.
    """

    planes: tuple[Plane, ...]
    slices: tuple[SliceId, ...]
    flags: frozenset[str]
    modality: str
    study_uid: str
    series_uid: str
    tomographic: bool
    step_mm: float


def read_object(file: FileRef) -> tuple[Part, Pixels]:
    """Read one file: pixels are (frame, row, column[, 3]) float32, frames in slice order.

    Raises ReadError, and nothing else that the file could cause.
    """
    with quiet:
        try:
            dataset, guessed = open_dicom(file.path, file.source, tags=_TAGS)
        except ReadError:
            raise
        except MemoryError as error:
            raise _no_memory(file.source) from error
        except Exception as error:  # pydicom raises many kinds on malformed files
            raise _unreadable(file.source, error) from error
        try:
            return _read(dataset, file, guessed=guessed)
        except ReadError:
            raise
        except MemoryError as error:
            raise _no_memory(file.source) from error
        except Exception as error:  # so do the decoders
            raise _undecodable(dataset, file.source, error) from error


def _read(dataset: FileDataset, file: FileRef, *, guessed: bool) -> tuple[Part, Pixels]:
    source = file.source
    layout = read_layout(dataset, source)
    frames = read_frames(dataset, layout.frames, source)
    pixels, flags = read_pixels(dataset, layout, frames.rescales, file)
    flags |= frames.flags | _header_flags(dataset, layout, frames)
    if guessed:
        flags.add("GUESSED_SYNTAX")
    order, placed = slice_order(frames.planes)
    if not placed:
        flags.add("MIXED_FRAMES")
    if order != sorted(order):
        pixels = pixels[order]
    uid = text(dataset, "SOPInstanceUID")
    part = Part(
        planes=tuple(frames.planes[index] for index in order),
        slices=tuple(
            SliceId(source, uid, index + 1 if layout.frames > 1 else None) for index in order
        ),
        flags=frozenset(flags),
        modality=text(dataset, "Modality"),
        study_uid=text(dataset, "StudyInstanceUID"),
        series_uid=text(dataset, "SeriesInstanceUID"),
        tomographic=sort_of(text(dataset, "SOPClassUID")) == "tomographic",
        step_mm=stated_step(dataset),
    )
    return part, pixels


def slice_order(planes: tuple[Plane, ...]) -> tuple[list[int], bool]:
    """The order of a file's frames, and whether they are placed; as stored where they are not.

    Frames of which none has a position are in order as stored.
    """
    stored = list(range(len(planes)))
    if len(planes) == 1 or not any(plane.position for plane in planes):
        return stored, True
    order = stack_order(planes)
    return order or stored, order is not None


def stated_step(dataset: FileDataset) -> float:
    """The distance of slices along their normal in mm, as the header states it; 1 without one."""
    # Negative in nuclear medicine, absent in single images: there 1 mm keeps the affine regular.
    shared = (items(dataset, "SharedFunctionalGroupsSequence") or [dataset])[0]
    measures = (items(shared, "PixelMeasuresSequence") or [dataset])[0]
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        if stated := number(measures, keyword):
            return abs(stated)
    return 1.0


def _header_flags(dataset: FileDataset, layout: Layout, frames: Frames) -> set[str]:
    sop_class, modality = text(dataset, "SOPClassUID"), text(dataset, "Modality")
    kinds = texts(dataset, "ImageType")
    units = {"" if layout.colour else rescale.unit for rescale in frames.rescales}
    burned_in = text(dataset, "BurnedInAnnotation").upper()
    rules = {
        "PHI_RISK": burned_in == "YES"
        or (often_annotated(sop_class) and burned_in != "NO")
        or any(_SAVED.search(kind) for kind in kinds)
        or ("DERIVED" in kinds and any(_REFORMATTED.search(kind) for kind in kinds)),
        "LOCALIZER": "LOCALIZER" in kinds,
        "UNKNOWN_CLASS": sort_of(sop_class) == "unknown",
        "NOT_HU": is_ct(sop_class, modality) and units != {HU},
        "NOT_SUV": is_pet(sop_class, modality) and units != {SUV},
    }
    return {flag for flag, holds in rules.items() if holds}


def _no_memory(source: str) -> ReadError:
    return ReadError("out_of_memory", f"{source} needs more memory than there is: split it")


def _unreadable(source: str, error: Exception) -> ReadError:
    # The library's own message may quote header values, hence patient data.
    logger.debug("%s while opening a file", type(error).__name__)
    if isinstance(error, OSError) and error.errno is not None:
        return ReadError("unreadable", f"{source} cannot be opened: {error.strerror}")
    return ReadError(
        "broken_header",
        f"{source} is damaged, parsing it stopped with {type(error).__name__}: export it again",
    )


def _undecodable(dataset: FileDataset, source: str, error: Exception) -> ReadError:
    """What to do about pixels that no decoder could turn into an image."""
    logger.debug("%s while decoding pixels", type(error).__name__)
    syntax: UID = dataset.file_meta.TransferSyntaxUID
    known = not syntax.is_private and syntax.name != syntax
    if not known:
        return ReadError(
            "unsupported_compression",
            f"{source} names a transfer syntax that is not part of DICOM: convert it to "
            "uncompressed first, with the software that wrote it",
        )
    if not syntax.is_compressed:
        return ReadError(
            "broken_pixels",
            f"{source} is damaged, reading its pixels stopped with {type(error).__name__}: "
            "export it again",
        )
    if isinstance(error, DecoderCrashedError):
        return ReadError(
            "decoder_crashed",
            f"{source} is compressed as {syntax.name} and damaged so that its decoder crashed: "
            "export it again",
        )
    return _not_decoded(syntax, source)


def _not_decoded(syntax: UID, source: str) -> ReadError:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        install = "" if decoder is None else "pip install 'wsseg[codecs]', or "
        return ReadError(
            "unsupported_compression",
            f"{source} is compressed as {syntax.name}, which no installed decoder reads: {install}"
            "convert it to uncompressed first, e.g. with dcmdjpeg",
        )
    return ReadError(
        "not_decoded",
        f"{source} is compressed as {syntax.name}, and no installed decoder could read it: it is "
        "damaged or of a rare variant; convert it to uncompressed first, e.g. with dcmdjpeg",
    )
