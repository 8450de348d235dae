"""A DICOM file by its header alone: what it is, and which scan it belongs to.

Traits are what distinguishes images at one position: time, echo, weighting, phase, quantity.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from wsseg.imaging.dicom.file import (
    cosines,
    first_item,
    has_referenced_pixels,
    integer,
    is_empty,
    items,
    lengths,
    number,
    numbers,
    open_dicom,
    parsing_fault,
    silence_pydicom,
    tags_of,
    text,
    undecoded,
)
from wsseg.imaging.dicom.geometry import PLANE_KEYWORDS, Plane, planes_of
from wsseg.imaging.dicom.mosaic import (
    GRID_TAGS,
    MOSAIC_KEYWORDS,
    PRIVATE_TAGS,
    check_no_grid,
    is_mosaic,
    mosaic_of,
)
from wsseg.imaging.dicom.sop_classes import NoImage, has_pixels, is_nuclear, no_image
from wsseg.imaging.errors import Failure, ReadError, Status
from wsseg.imaging.hashed_names import real_name
from wsseg.imaging.limits import DEFAULT_LIMITS, FRAME_READS, HEADER_READS, ReadLimits
from wsseg.imaging.scan import FileRef

logger = logging.getLogger(__name__)

# The most distinctive first. Each is the keyword of its element in single images, if it has one.
TRAIT_NAMES = (
    "TemporalPositionIdentifier",
    "EchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "InversionTime",
    "FlipAngle",
    "RepetitionTime",
    "NominalCardiacTriggerDelayTime",
    "NominalPercentageOfCardiacPhase",
    "NominalRespiratoryTriggerDelayTime",
    "NominalPercentageOfRespiratoryPhase",
    "VelocityEncodingDirection",
    "ASLContext",
    "KVP",
    "ConvolutionKernel",
    "DataType",
    "ImageType",
    "SequenceName",
    "TriggerTime",
    "FrameReferenceTime",
    "TemporalPositionTimeOffset",
    "AcquisitionNumber",
    "AcquisitionDateTime",
    "AcquisitionTime",
)
# These also differ within one scan whose odd slices were acquired before its even ones; of these
# three commonly, with one phase or beat of the heart for odd slices and another for even ones.
GATED_TRAITS = frozenset(("RepetitionTime", "TriggerTime", "FrameReferenceTime"))
VARYING_TRAITS = GATED_TRAITS | {
    "TemporalPositionTimeOffset",
    "AcquisitionNumber",
    "AcquisitionDateTime",
    "AcquisitionTime",
}
# Computed numbers, whose last digits mean nothing.
ROUNDED_TRAITS = frozenset(("EchoTime", "InversionTime", "FlipAngle", "RepetitionTime", "KVP"))

Traits = tuple[str, ...]
"""Values of TRAIT_NAMES as text, "" where one is absent; then the dimension indices of a frame."""

_ONLY_IN_GROUPS = frozenset(
    (
        "NominalPercentageOfCardiacPhase",
        "NominalRespiratoryTriggerDelayTime",
        "NominalPercentageOfRespiratoryPhase",
        "VelocityEncodingDirection",
        "ASLContext",
        "DataType",
        "TemporalPositionTimeOffset",
    )
)
_TOP_KEYWORDS = tuple(name for name in TRAIT_NAMES if name not in _ONLY_IN_GROUPS)
# Functional group macros: of each, the elements that are traits, and the traits that they are.
_TRAITS_OF_GROUPS = {
    "FrameContentSequence": {
        "TemporalPositionIndex": "TemporalPositionIdentifier",
        "FrameAcquisitionNumber": "AcquisitionNumber",
        "FrameAcquisitionDateTime": "AcquisitionDateTime",
    },
    "TemporalPositionSequence": {"TemporalPositionTimeOffset": "TemporalPositionTimeOffset"},
    "MREchoSequence": {"EffectiveEchoTime": "EchoTime"},
    "MRDiffusionSequence": {"DiffusionBValue": "DiffusionBValue"},
    "MRModifierSequence": {"InversionTimes": "InversionTime"},
    "MRTimingAndRelatedParametersSequence": {
        "FlipAngle": "FlipAngle",
        "RepetitionTime": "RepetitionTime",
    },
    "MRVelocityEncodingSequence": {"VelocityEncodingDirection": "VelocityEncodingDirection"},
    "MRArterialSpinLabelingSequence": {"ASLContext": "ASLContext"},
    "CTXRayDetailsSequence": {"KVP": "KVP"},
    "CTReconstructionSequence": {"ConvolutionKernel": "ConvolutionKernel"},
    "ImageDataTypeSequence": {"DataType": "DataType"},
    "CardiacSynchronizationSequence": {
        name: name for name in ("NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase")
    },
    "RespiratorySynchronizationSequence": {
        name: name
        for name in ("NominalRespiratoryTriggerDelayTime", "NominalPercentageOfRespiratoryPhase")
    },
    # Of objects converted from single images: the elements of these, as they were.
    "UnassignedPerFrameConvertedAttributesSequence": {name: name for name in _TOP_KEYWORDS},
}
_BY_MACRO = {Tag(macro): elements for macro, elements in _TRAITS_OF_GROUPS.items()}
_FRAME_TYPE_TAGS = set(
    tags_of(
        (
            "MRImageFrameTypeSequence",
            "CTImageFrameTypeSequence",
            "PETFrameTypeSequence",
            "XRay3DFrameTypeSequence",
            "USImageDescriptionSequence",
            "PhotoacousticImageFrameTypeSequence",
            "IntravascularOCTFrameTypeSequence",
        )
    )
)
_DIFFUSION, _CONTENT = Tag("MRDiffusionSequence"), Tag("FrameContentSequence")
_GRADIENT = "DiffusionGradientOrientation"
_NUCLEAR_VECTORS = (
    "EnergyWindowVector",
    "DetectorVector",
    "PhaseVector",
    "RotationVector",
    "AngularViewVector",
    "RRIntervalVector",
    "TimeSlotVector",
    "TimeSliceVector",
)

_TAGS = [
    *tags_of(
        (
            *_TOP_KEYWORDS,
            *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
            *("FrameOfReferenceUID", "Modality", "InstanceNumber", "SliceThickness"),
            *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
            *("SpacingBetweenSlices", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"),
            "PhotometricInterpretation",
        )
    ),
    *GRID_TAGS,
]
# Read a second time, and only of files with several images or with functional groups.
_FRAME_TAGS = [
    *tags_of(
        (
            *(*PLANE_KEYWORDS, *_NUCLEAR_VECTORS, *MOSAIC_KEYWORDS, "ConcatenationUID"),
            *("SOPInstanceUIDOfConcatenationSource", "InConcatenationNumber"),
            *("InConcatenationTotalNumber", "ConcatenationFrameOffsetNumber"),
        )
    ),
    *PRIVATE_TAGS,
]
# Sets, because pydicom compares tags in Python, and each element's tag is looked up.
_PIXEL_TAGS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_PER_FRAME_GROUPS = 0x52009230
_FIRST_PART_ENDS = _PIXEL_TAGS | {_PER_FRAME_GROUPS}
_IMAGE_TYPE = TRAIT_NAMES.index("ImageType")
# Of the tag and the length of a compressed frame.
_FEWEST_FRAME_BYTES = 8
# Photometric interpretations whose pixels become one grey value; all others become RGB.
_GREY = ("MONOCHROME1", "MONOCHROME2", "")


@dataclass(frozen=True, slots=True)
class Concatenation:
    """The position of a file among those that one object was divided into (PS3.3 C.7.6.16.2.2.4).

    number: of this part, from 1. total: number of parts, offset: number of frames before this
    part; None where the header states none.
    """

    uid: str
    source_uid: str
    number: int
    total: int | None
    offset: int | None


@dataclass(frozen=True, slots=True)
class Header:
    """One DICOM image by its header alone: a file, or one frame or tile of a file.

    uids: of study, series and instance, as stored. series: the key that files of one series share.
    plane: where the image lies, as far as the file or the frame states it. frame: its index in the
    file, from 0, where frames state their positions; None where the file is one image, or frames
    without positions. frames: the number of frames in the file. stack: the source's own name of
    the stack that the image belongs to. step_mm: distance of neighbouring slices by the header.
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
        """Bytes of its pixels as float32: one value for a grey pixel, three for all others."""
        count = self.frames if self.frame is None else 1
        return self.rows * self.columns * count * (3 if self.colour else 1) * 4

    @property
    def mosaic(self) -> bool:
        """True where the image type states that the image holds many slices as tiles."""
        return is_mosaic(self.sop_class, self.modality, self.image_type)

    @property
    def image_type(self) -> str:
        """Values of ImageType, joined by backslashes."""
        return self.traits[_IMAGE_TYPE]

    @property
    def folder(self) -> str:
        """The folder of its file, below the input."""
        return real_name(self.file.source).rpartition("/")[0]

    @property
    def localizer(self) -> bool:
        """True where the image type states that the image was made to plan others."""
        return "LOCALIZER" in self.image_type


def read_headers(file: FileRef, limits: ReadLimits = DEFAULT_LIMITS) -> list[Header] | Failure:
    """Read the header of a DICOM file; no pixel and no patient's name, id or date is read.

    A file whose frames state their positions, and a mosaic, give one header for each frame or
    tile; any other file gives one. A Failure says why the file is skipped (not an image) or cannot
    be used (damaged).
    """
    with silence_pydicom:
        try:
            dataset, stopped_at = _read_first_part(file, limits)
            header = _header_of(file, dataset, stopped_at)
            if isinstance(header, Failure):
                return header
            limits.check_slice(header.rows, header.columns, file.source)
            limits.check_frames(header.frames, file.source)
            if stopped_at == _PER_FRAME_GROUPS or header.frames > 1 or header.mosaic:
                return _images(header, limits)
            return [header]
        except ReadError as error:
            return Failure(file.source, error.reason, str(error))
        except Exception as error:  # pydicom raises many types on malformed files
            logger.debug("%s while reading a header", type(error).__name__)
            if isinstance(error, OSError) and error.errno is not None:
                message = f"{file.source} cannot be opened: {error.strerror}"
                return Failure(file.source, "unreadable", message)
            return _broken(file, f"parsing its header {parsing_fault(error)}")


def _read_first_part(file: FileRef, limits: ReadLimits) -> tuple[Dataset, int]:
    """The data set up to its per-frame groups or pixels, and the tag at which reading stopped."""
    stopped_at = 0

    def stop(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal stopped_at
        # The groups of a thousand frames take seconds to parse, and are not needed here.
        if tag in _FIRST_PART_ENDS:
            stopped_at = int(tag)
            return True
        return False

    dataset, _ = open_dicom(
        file.path, file.source, tags=_TAGS, stop=stop, reads=HEADER_READS, limits=limits
    )
    return dataset, stopped_at


def _header_of(file: FileRef, dataset: Dataset, stopped_at: int) -> Header | Failure:
    """The header of a file as one image, if it is an image with pixels. Raises ReadError."""
    sop_class = text(dataset, "SOPClassUID") or text(dataset.file_meta, "MediaStorageSOPClassUID")
    modality = text(dataset, "Modality")
    other = no_image(sop_class, modality)
    if other is None and not stopped_at:
        if has_referenced_pixels(dataset.file_meta.TransferSyntaxUID):
            raise undecoded(dataset.file_meta.TransferSyntaxUID, file.source)
        if "Rows" in dataset or has_pixels(sop_class):
            message = f"{file.source} is a DICOM image that ends before its pixels: copy it again"
            return Failure(file.source, "no_pixels", message)
        other = NoImage("no_pixels", "a DICOM object without pixels")
    if other:
        status: Status = "failed" if other.remedy else "skipped"
        remedy = other.remedy or "not an image to segment"
        message = f"{file.source} is {other.description}, {remedy}"
        return Failure(file.source, other.reason, message, status=status)
    check_no_grid(dataset, file.source)
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    frames = 1 if is_empty(dataset, "NumberOfFrames") else integer(dataset, "NumberOfFrames")
    if not rows or not columns or rows < 0 or columns < 0:
        return _broken(file, "its header does not say how many rows and columns it has")
    if frames is None or frames < 0:
        return _broken(file, "its header does not say how many frames it has")
    uids = uids_of(dataset)
    return Header(
        file=file,
        sop_class=sop_class,
        uids=uids,
        # Without a series UID, files of one folder belong together.
        series=(uids[0], uids[1] or f"folder {real_name(file.source).rpartition('/')[0]}"),
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
        traits=_in_order({keyword: text(dataset, keyword) for keyword in _TOP_KEYWORDS}),
        thickness_mm=number(dataset, "SliceThickness"),
        step_mm=number(dataset, "SpacingBetweenSlices"),
        syntax=str(dataset.file_meta.TransferSyntaxUID),
    )


def uids_of(dataset: Dataset) -> tuple[str, str, str]:
    """UIDs of study, series and instance; "" where one is absent."""
    study, series, instance = (
        text(dataset, f"{level}InstanceUID") for level in ("Study", "Series", "SOP")
    )
    return study, series, instance


def _images(header: Header, limits: ReadLimits) -> list[Header]:
    """The images of a file, from the data of each frame or tile. Raises ReadError."""
    file = header.file
    dataset, _ = open_dicom(
        file.path,
        file.source,
        tags=_FRAME_TAGS,
        stop=lambda tag, _vr, _length: tag in _PIXEL_TAGS,
        reads=HEADER_READS + FRAME_READS * header.frames,
        limits=limits,
    )
    if header.mosaic:
        mosaic = mosaic_of(dataset, header.plane.pixel_mm, file.source)
        tile = replace(header, rows=mosaic.rows, columns=mosaic.columns, frames=mosaic.count)
        return [replace(tile, plane=plane, frame=k) for k, plane in enumerate(mosaic.planes)]
    header = replace(header, concatenation=_concatenation(dataset))
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    if header.frames == 1 < len(own):
        what = f"its header counts 1 frame and describes {len(own)}"
        raise ReadError("broken_header", f"{file.source} is damaged, {what}: export it again")
    bytes_of_frames = header.frames * _FEWEST_FRAME_BYTES
    if bytes_of_frames > file.path.stat().st_size or (own and len(own) < header.frames):
        return [header]  # it has fewer frames than it states, which reading it will report
    size = header.plane.pixel_mm
    planes = planes_of(dataset, header.frames, lambda measured: measured or size)
    sizes = {plane.pixel_mm for plane in planes}
    if not any(plane.placed for plane in planes) and len(sizes) == 1:
        return [replace(header, plane=planes[0])]
    single = header.frames == 1
    return [
        replace(header, plane=plane, traits=traits, stack=stack, frame=None if single else index)
        for index, (plane, (stack, traits)) in enumerate(
            zip(planes, _frame_traits(dataset, header), strict=True)
        )
    ]


def _concatenation(dataset: Dataset) -> Concatenation | None:
    number = integer(dataset, "InConcatenationNumber")
    if number is None:
        return None
    return Concatenation(
        text(dataset, "ConcatenationUID"),
        text(dataset, "SOPInstanceUIDOfConcatenationSource"),
        number,
        integer(dataset, "InConcatenationTotalNumber"),
        integer(dataset, "ConcatenationFrameOffsetNumber"),
    )


def _frame_traits(dataset: Dataset, header: Header) -> list[tuple[str, Traits]]:
    """Of each frame: the stack it belongs to, "" where it belongs to none, and its traits.

    A stack is what the source calls one: a StackID, or a time slot or detector of nuclear
    medicine. Traits that no group of a frame states are those of the whole file.
    """
    count = header.frames
    if is_nuclear(text(dataset, "SOPClassUID")):
        vectors = [numbers(dataset, keyword, count) for keyword in _NUCLEAR_VECTORS]
        slots = zip(*(vector for vector in vectors if vector), strict=True)
        stacks = ["\\".join(f"{value:g}" for value in slot) for slot in slots] or [""] * count
        return [(stack, header.traits) for stack in stacks]
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    _, common = _group_traits(first_item(dataset, "SharedFunctionalGroupsSequence"))
    defaults = dict(zip(TRAIT_NAMES, header.traits, strict=False)) | common
    frames = []
    for group in [*own, *[Dataset()] * (count - len(own))][:count]:
        content = first_item(group, "FrameContentSequence")
        indices, named = _group_traits(group)
        frames.append((text(content, "StackID"), _in_order(defaults | named) + indices))
    return frames


def _group_traits(group: Dataset) -> tuple[tuple[str, ...], dict[str, str]]:
    """Dimension indices and named traits of one functional group."""
    traits: dict[str, str] = {}
    indices: tuple[str, ...] = ()
    for tag in map(BaseTag, group.keys()):  # to iterate over elements would parse each of them
        if tag not in _BY_MACRO and tag not in _FRAME_TYPE_TAGS:
            continue
        try:
            macros = list(group[tag].value)
        except Exception:  # pydicom raises many types on malformed sequences
            continue
        for macro in macros:
            elements = _BY_MACRO.get(tag, {}).items()
            named = {name: text(macro, keyword) for keyword, name in elements}
            traits |= {name: value for name, value in named.items() if value}
            if tag in _FRAME_TYPE_TAGS:
                parts = (text(macro, "FrameType"), text(macro, "ComplexImageComponent"))
                traits["ImageType"] = "\\".join(part for part in parts if part)
            elif tag == _DIFFUSION:
                # Trace and isotropic images have no direction.
                directions = items(macro, "DiffusionGradientDirectionSequence")
                stated = [text(direction, _GRADIENT) for direction in directions]
                kind = text(macro, "DiffusionDirectionality")
                if gradient := next(filter(None, stated), kind):
                    traits[_GRADIENT] = gradient
            elif tag == _CONTENT:
                indices = tuple(text(macro, "DimensionIndexValues").split("\\"))
    return indices, traits


def _in_order(named: Mapping[str, str]) -> Traits:
    return tuple(named.get(name, "") for name in TRAIT_NAMES)


def _broken(file: FileRef, what: str) -> Failure:
    message = f"{file.source} is damaged, {what}: export it again"
    return Failure(file.source, "broken_header", message)
