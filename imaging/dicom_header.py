"""The little that must be known of a DICOM file before it is read: what it is, where it belongs."""

import logging
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from wsseg.imaging.dicom_classes import NoImage, no_image
from wsseg.imaging.dicom_file import open_dicom
from wsseg.imaging.dicom_quiet import quiet
from wsseg.imaging.dicom_values import cosines, integer, lengths, numbers, tags_of, text
from wsseg.imaging.errors import Failure, ReadError
from wsseg.imaging.scan import FileRef

logger = logging.getLogger(__name__)

# What tells two images of one place apart, the most telling first.
TEMPORAL_KEYWORDS = (
    "TemporalPositionIdentifier",
    "EchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "InversionTime",
    "FlipAngle",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "AcquisitionNumber",
    "ImageType",
    "AcquisitionTime",
)
_KEYWORDS = (
    *TEMPORAL_KEYWORDS,
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
)
_TAGS = tags_of(_KEYWORDS)
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_PER_FRAME_GROUPS = 0x52009230
# Photometric interpretations whose pixels become one grey value; all others become RGB.
_GREY = ("MONOCHROME1", "MONOCHROME2", "")


@dataclass(frozen=True, slots=True)
class Header:
    """One DICOM image by its header alone.

    series: study and series UID, by which files belong together. orientation: direction cosines
    of a row and of a column; position: LPS mm of the first pixel; spacing: row and column
    distance in mm. temporal: values of TEMPORAL_KEYWORDS, as text.
    """

    file: FileRef
    sop_class: str
    instance_uid: str
    series: tuple[str, str]
    frame_of_reference: str
    modality: str
    rows: int
    columns: int
    frames: int
    colour: bool
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    instance_number: int | None
    temporal: tuple[str, ...]
    syntax: str

    @property
    def decoded_bytes(self) -> int:
        """What its pixels will take as float32: grey has one value a pixel, the rest RGB."""
        return self.rows * self.columns * self.frames * (3 if self.colour else 1) * 4

    @property
    def localizer(self) -> bool:
        """True where the image says that it was made to plan others."""
        return "LOCALIZER" in self.temporal[TEMPORAL_KEYWORDS.index("ImageType")]


def read_header(file: FileRef) -> Header | Failure:
    """Read the header of a DICOM file; no pixel and no patient's name, id or date is read.

    A Failure says why the file is passed over (not an image) or cannot be used (damaged).
    """
    with quiet:
        try:
            dataset, stopped_at = _scan(file)
            return _judge(file, dataset, stopped_at)
        except ReadError as error:
            return Failure(file.source, error.reason, str(error))
        except Exception as error:  # pydicom raises many kinds on malformed files
            logger.debug("%s while scanning a header", type(error).__name__)
            if isinstance(error, OSError) and error.errno is not None:
                message = f"{file.source} cannot be opened: {error.strerror}"
                return Failure(file.source, "unreadable", message)
            return _broken(file, f"parsing its header stopped with {type(error).__name__}")


def _scan(file: FileRef) -> tuple[Dataset, int]:
    """The data set up to its per-frame groups or pixels, and the tag at which reading stopped."""
    stopped_at = 0

    def stop(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal stopped_at
        # The groups of a thousand frames take seconds to parse, and are not needed here.
        if tag in _PIXEL_TAGS or tag == _PER_FRAME_GROUPS:
            stopped_at = int(tag)
            return True
        return False

    dataset, _ = open_dicom(file.path, file.source, tags=_TAGS, stop=stop)
    return dataset, stopped_at


def _judge(file: FileRef, dataset: Dataset, stopped_at: int) -> Header | Failure:
    sop_class = text(dataset, "SOPClassUID") or _meta_class(dataset)
    modality = text(dataset, "Modality")
    found = no_image(sop_class, modality)
    if found is None and not stopped_at:
        found = _without_pixels(dataset)
    if found:
        message = f"{file.source} is {found.words}, not an image to segment"
        return Failure(file.source, found.reason, message, status="skipped")
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    frames = integer(dataset, "NumberOfFrames") if "NumberOfFrames" in dataset else 1
    if not rows or not columns or rows < 0 or columns < 0:
        return _broken(file, "its header does not say how many rows and columns it has")
    if frames is None or frames < 0:
        return _broken(file, "its header does not say how many frames it has")
    return Header(
        file=file,
        sop_class=sop_class,
        instance_uid=text(dataset, "SOPInstanceUID"),
        series=_series(file, dataset),
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        modality=modality,
        rows=rows,
        columns=columns,
        frames=max(frames, 1),
        colour=text(dataset, "PhotometricInterpretation") not in _GREY,
        orientation=cosines(dataset),
        position=numbers(dataset, "ImagePositionPatient", 3),
        spacing=lengths(dataset, "PixelSpacing"),
        instance_number=integer(dataset, "InstanceNumber"),
        temporal=tuple(text(dataset, keyword) for keyword in TEMPORAL_KEYWORDS),
        syntax=str(dataset.file_meta.TransferSyntaxUID),
    )


def _meta_class(dataset: Dataset) -> str:
    return text(dataset.file_meta, "MediaStorageSOPClassUID")


def _without_pixels(dataset: Dataset) -> NoImage:
    if "Rows" in dataset:
        return NoImage("no_pixels", "a DICOM header without its pixels")
    return NoImage("no_pixels", "a DICOM object without pixels")


def _series(file: FileRef, dataset: Dataset) -> tuple[str, str]:
    # Without a series UID only the folder can tell which files belong together.
    series = text(dataset, "SeriesInstanceUID") or f"folder {file.source.rpartition('/')[0]}"
    return text(dataset, "StudyInstanceUID"), series


def _broken(file: FileRef, what: str) -> Failure:
    message = f"{file.source} is damaged, {what}: export it again"
    return Failure(file.source, "broken_header", message)
