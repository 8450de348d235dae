"""The little that must be known of a DICOM file before it is read: what it is, where it belongs."""

import logging
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from wsseg.imaging.dicom.file import is_elsewhere, open_dicom, undecoded, what_stopped
from wsseg.imaging.dicom.geometry import PLANE_KEYWORDS, Plane, planes_of
from wsseg.imaging.dicom.mosaic import (
    GRID_TAGS,
    MOSAIC_KEYWORDS,
    PRIVATE_TAGS,
    check_no_grid,
    is_mosaic,
    mosaic_of,
)
from wsseg.imaging.dicom.sop_classes import NoImage, has_pixels, no_image
from wsseg.imaging.dicom.traits import (
    TELLING,
    TOP_KEYWORDS,
    TRAIT_KEYWORDS,
    Traits,
    frame_traits,
    top_traits,
)
from wsseg.imaging.dicom.values import (
    cosines,
    integer,
    is_empty,
    items,
    lengths,
    number,
    numbers,
    quiet,
    tags_of,
    text,
)
from wsseg.imaging.errors import Failure, ReadError, Status
from wsseg.imaging.scan import FileRef

logger = logging.getLogger(__name__)

_TAGS = [
    *tags_of(
        (
            *TOP_KEYWORDS,
            *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
            *("FrameOfReferenceUID", "Modality", "InstanceNumber", "SliceThickness"),
            *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
            *("SpacingBetweenSlices", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"),
            "PhotometricInterpretation",
        )
    ),
    *GRID_TAGS,
]
_CONCATENATION_KEYWORDS = (
    "ConcatenationUID",
    "SOPInstanceUIDOfConcatenationSource",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "ConcatenationFrameOffsetNumber",
)
# Read a second time, and only of files with several images or with functional groups.
_FRAME_TAGS = [
    *tags_of((*PLANE_KEYWORDS, *TRAIT_KEYWORDS, *MOSAIC_KEYWORDS, *_CONCATENATION_KEYWORDS)),
    *PRIVATE_TAGS,
]
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_UID_LEVELS = ("Study", "Series", "SOP")
_PER_FRAME_GROUPS = 0x52009230
_IMAGE_TYPE = TELLING.index("ImageType")
# Of the tag and the length of a compressed frame.
_FEWEST_FRAME_BYTES = 8
# Photometric interpretations whose pixels become one grey value; all others become RGB.
_GREY = ("MONOCHROME1", "MONOCHROME2", "")


@dataclass(frozen=True, slots=True)
class Concatenation:
    """Which part of an object that was cut into several files a file is (PS3.3 C.7.6.16.2.2.4).

    total: how many parts there are, offset: number of frames before this part; None: not said.
    """

    uid: str
    source_uid: str
    number: int
    total: int | None
    offset: int | None


@dataclass(frozen=True, slots=True)
class Header:
    """One DICOM image by its header alone: a file, or one frame or tile of a file.

    uids: of study, series and instance, as stored. series: by what files belong together. plane:
    where the image lies, as far as that is told by file or frame. frame: its number in the file,
    from 0, where frames know where they lie; None where the file is one image, or frames that do
    not. frames: how many the file holds. stack: the source's own name of the stack it belongs to.
    step_mm: the distance of neighbouring slices, as the header states it.
    """

    file: FileRef
    sop_class: str
    uids: tuple[str, str, str]
    series: tuple[str, str]
    frame_of_reference: str
    modality: str
    rows: int
    columns: int
    frames: int
    colour: bool
    plane: Plane
    instance_number: int | None
    traits: Traits
    syntax: str
    thickness_mm: float | None
    step_mm: float | None
    frame: int | None = None
    stack: str = ""
    concatenation: Concatenation | None = None

    @property
    def decoded_bytes(self) -> int:
        """What its pixels will take as float32: grey has one value a pixel, the rest RGB."""
        count = self.frames if self.frame is None else 1
        return self.rows * self.columns * count * (3 if self.colour else 1) * 4

    @property
    def mosaic(self) -> bool:
        """True where the image says that it holds many slices as tiles."""
        return is_mosaic(self.sop_class, self.modality, self.image_type)

    @property
    def image_type(self) -> str:
        """Values of ImageType, joined by backslashes."""
        return self.traits[_IMAGE_TYPE]

    @property
    def folder(self) -> str:
        """The folder of its file, as reports show it."""
        return self.file.source.rpartition("/")[0]

    @property
    def localizer(self) -> bool:
        """True where the image says that it was made to plan others."""
        return "LOCALIZER" in self.image_type


def read_headers(file: FileRef) -> list[Header] | Failure:
    """Read the header of a DICOM file; no pixel and no patient's name, id or date is read.

    A file whose frames know where they lie, or a mosaic, gives one header for each of them, any
    other file gives one. A Failure says why the file is passed over (not an image) or cannot be
    used (damaged).
    """
    with quiet:
        try:
            dataset, stopped_at = _scan(file)
            header = _judge(file, dataset, stopped_at)
            if isinstance(header, Failure):
                return header
            grouped = stopped_at == _PER_FRAME_GROUPS
            if grouped or header.frames > 1 or header.mosaic:
                return _images(header)
            return [header]
        except ReadError as error:
            return Failure(file.source, error.reason, str(error))
        except Exception as error:  # pydicom raises many kinds on malformed files
            logger.debug("%s while scanning a header", type(error).__name__)
            if isinstance(error, OSError) and error.errno is not None:
                message = f"{file.source} cannot be opened: {error.strerror}"
                return Failure(file.source, "unreadable", message)
            return _broken(file, f"parsing its header {what_stopped(error)}")


def _images(header: Header) -> list[Header]:
    """The images of a file, by what is said of each frame or tile. Raises ReadError."""
    file = header.file
    dataset, _ = open_dicom(
        file.path, file.source, tags=_FRAME_TAGS, stop=lambda tag, _vr, _length: tag in _PIXEL_TAGS
    )
    if header.mosaic:
        return _tiles(header, dataset)
    header = replace(header, concatenation=_concatenation(dataset))
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    if header.frames == 1 < len(own):
        what = f"its header counts 1 frame and describes {len(own)}"
        raise ReadError("broken_header", f"{file.source} is damaged, {what}: export it again")
    bytes_of_frames = header.frames * _FEWEST_FRAME_BYTES
    if bytes_of_frames > file.path.stat().st_size or (own and len(own) < header.frames):
        return [header]  # it promises more than it holds, as reading it will tell
    size = header.plane.pixel_mm
    planes = planes_of(dataset, header.frames, lambda measured: measured or size)
    sizes = {plane.pixel_mm for plane in planes}
    if not any(plane.placed for plane in planes) and len(sizes) == 1:
        return [replace(header, plane=planes[0])]
    told = frame_traits(dataset, header.frames, header.traits)
    single = header.frames == 1
    return [
        replace(header, plane=plane, traits=traits, stack=stack, frame=None if single else index)
        for index, (plane, (stack, traits)) in enumerate(zip(planes, told, strict=True))
    ]


def _tiles(header: Header, dataset: Dataset) -> list[Header]:
    mosaic = mosaic_of(dataset, header.plane.pixel_mm, header.file.source)
    tile = replace(header, rows=mosaic.rows, columns=mosaic.columns, frames=mosaic.count)
    return [replace(tile, plane=plane, frame=k) for k, plane in enumerate(mosaic.planes)]


def _concatenation(dataset: Dataset) -> Concatenation | None:
    number_in = integer(dataset, "InConcatenationNumber")
    if number_in is None:
        return None
    return Concatenation(
        text(dataset, "ConcatenationUID"),
        text(dataset, "SOPInstanceUIDOfConcatenationSource"),
        number_in,
        integer(dataset, "InConcatenationTotalNumber"),
        integer(dataset, "ConcatenationFrameOffsetNumber"),
    )


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
        if is_elsewhere(dataset.file_meta.TransferSyntaxUID):
            raise undecoded(dataset.file_meta.TransferSyntaxUID, file.source)
        if "Rows" in dataset or has_pixels(sop_class):
            message = f"{file.source} is a DICOM image that ends before its pixels: copy it again"
            return Failure(file.source, "no_pixels", message)
        found = NoImage("no_pixels", "a DICOM object without pixels")
    if found:
        status: Status = "failed" if found.remedy else "skipped"
        remedy = found.remedy or "not an image to segment"
        message = f"{file.source} is {found.words}, {remedy}"
        return Failure(file.source, found.reason, message, status=status)
    check_no_grid(dataset, file.source)
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    frames = 1 if is_empty(dataset, "NumberOfFrames") else integer(dataset, "NumberOfFrames")
    if not rows or not columns or rows < 0 or columns < 0:
        return _broken(file, "its header does not say how many rows and columns it has")
    if frames is None or frames < 0:
        return _broken(file, "its header does not say how many frames it has")
    return Header(
        file=file,
        sop_class=sop_class,
        uids=uids_of(dataset),
        series=_series(file, dataset),
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        modality=modality,
        rows=rows,
        columns=columns,
        frames=max(frames, 1),
        colour=text(dataset, "PhotometricInterpretation") not in _GREY,
        plane=Plane(
            numbers(dataset, "ImagePositionPatient", 3),
            cosines(dataset),
            lengths(dataset, "PixelSpacing"),
        ),
        instance_number=integer(dataset, "InstanceNumber"),
        traits=top_traits(dataset),
        thickness_mm=number(dataset, "SliceThickness"),
        step_mm=number(dataset, "SpacingBetweenSlices"),
        syntax=str(dataset.file_meta.TransferSyntaxUID),
    )


def uids_of(dataset: Dataset) -> tuple[str, str, str]:
    """UIDs of study, series and instance; "" where one is absent."""
    study, series, instance = (text(dataset, f"{of}InstanceUID") for of in _UID_LEVELS)
    return study, series, instance


def _meta_class(dataset: Dataset) -> str:
    return text(dataset.file_meta, "MediaStorageSOPClassUID")


def _series(file: FileRef, dataset: Dataset) -> tuple[str, str]:
    # Without a series UID only the folder can tell which files belong together.
    series = text(dataset, "SeriesInstanceUID") or f"folder {file.source.rpartition('/')[0]}"
    return text(dataset, "StudyInstanceUID"), series


def _broken(file: FileRef, what: str) -> Failure:
    message = f"{file.source} is damaged, {what}: export it again"
    return Failure(file.source, "broken_header", message)
