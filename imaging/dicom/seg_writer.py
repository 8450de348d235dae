"""DICOM segmentations: the masks of a scan as a SEG object of the same patient and study."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from wsseg.imaging.definitions import label_colours
from wsseg.imaging.dicom.codes import Code
from wsseg.imaging.dicom.derived import Maker, derived_uid, series_number, source_time
from wsseg.imaging.dicom.file import (
    first_item,
    integer,
    is_empty,
    items,
    number,
    silence_pydicom,
    text,
)
from wsseg.imaging.dicom.seg_source import SegSource
from wsseg.imaging.errors import NotPossibleError
from wsseg.imaging.files import atomic
from wsseg.imaging.scan import AS_STORED, Scan

SegmentationType = Literal["binary", "labelmap"]

LONGEST = 64
"""Characters that DICOM allows in a long string (LO)."""
MANUFACTURER = "wsseg"
# Beside the series numbers that scanners give, so that viewers list derived series last.
SERIES_OFFSET = 9000


@dataclass(frozen=True)
class Segment:
    """A class as a segment of a SEG.

    name: of the class. category, type: what kind of thing it is, and what. anatomy: the organ or
    region that contains it; None where it was not stated.
    """

    name: str
    category: Code
    type: Code
    anatomy: Code | None = None


def make_segmentation(
    scan: Scan,
    masks: NDArray[np.uint8],
    segments: Sequence[Segment],
    source: SegSource,
    maker: Maker,
    *,
    kind: SegmentationType = "binary",
    sparse: bool = False,
) -> Dataset:
    """A SEG of the masks (slice, row, column, class), 0 or 1, in the scan's display order.

    Frames have the rows and columns of the source's files. binary: one bit a pixel and a frame for
    each slice and class, also of empty ones, because programs that find frames missing misplace the
    others. sparse: without empty ones. labelmap: one byte a pixel, RLE; where classes overlap, the
    later one is kept. Equal input gives equal bytes. Raises NotPossibleError for an image without a
    frame of reference whose kind has to have one, and what highdicom raises for headers that it
    cannot use. (PS3.3, A.51; LABELMAP: supplement 243.)
    """
    from highdicom.seg import Segmentation

    stored = masks
    if scan.reorientation != AS_STORED:
        # Pixels of a class stay together in memory: highdicom sums over classes.
        undone = (np.moveaxis(scan.reorientation.undo(mask), -1, 0) for mask in masks)
        stored = np.moveaxis(np.stack(list(undone)), 1, -1)
    time = source_time(source.datasets)
    options: dict[str, Any] = {}
    if source.positioned:
        options["pixel_measures"] = _pixel_measures(source)
    if source.frames:
        options["plane_positions"] = _plane_positions(source)
    if kind == "labelmap":
        labels = np.zeros(stored.shape[:3], np.uint8 if len(segments) < 256 else np.uint16)
        for index in range(len(segments)):
            labels[stored[..., index] > 0] = index + 1
        stored = labels
    elif len(segments) == 1:
        stored = stored[..., 0]
    with silence_pydicom, _frame_of_reference_needed(source):
        made: Dataset = Segmentation(
            source_images=list(source.datasets),
            pixel_array=stored,
            segmentation_type=kind.upper(),
            segment_descriptions=[
                _described(number, segment, scan, maker)
                for number, segment in enumerate(segments, start=1)
            ],
            series_instance_uid=_series_uid(scan, maker, source),
            series_number=series_number(source.first, SERIES_OFFSET),
            sop_instance_uid=_instance_uid(scan, maker),
            instance_number=scan.ref.part + 1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=long_string(maker.model),
            software_versions=maker.version,
            device_serial_number=maker.sha256,
            transfer_syntax_uid=RLELossless if kind == "labelmap" else ExplicitVRLittleEndian,
            omit_empty_frames=sparse,
            content_label="WSSEG",
            content_description=long_string(f"Segmentation by {maker.model}"),
            series_description=long_string(f"wsseg {maker.model}"),
            content_date=time.date(),
            content_time=time.time(),
            **options,
        )
        _make_repeatable(made, derived_uid("dimensions", made.SOPInstanceUID))
        _name_segment_in_each_frame(made)
        if not source.positioned and is_empty(
            source.first, "PixelSpacing"
        ):  # as many projections state none
            made.SharedFunctionalGroupsSequence[0].pop("PixelMeasuresSequence", None)
        if not source.positioned:
            # Of type 2C where nothing else places the image (PS3.3, C.7.6.1).
            made.PatientOrientation = source.first.get("PatientOrientation") or ""
    return made


@contextmanager
def _frame_of_reference_needed(source: SegSource) -> Iterator[None]:
    """Say why an image cannot have a segmentation that has no place in the patient."""
    try:
        yield
    except ValueError as error:
        if source.positioned:
            raise
        raise NotPossibleError(
            "no_frame_of_reference",
            "the image states no position in a frame of reference, which its kind has to have",
        ) from error


def write_dataset(dataset: Dataset, path: Path) -> None:
    """Write a DICOM object, whole or not at all."""
    with atomic(path) as partial, silence_pydicom:
        dataset.save_as(partial, enforce_file_format=True)


def segment_frames(segmentation: Dataset, source: SegSource) -> dict[tuple[int, int], int]:
    """The numbers (1-based) of a segmentation's frames, by class index and slice index.

    A frame of a label map shows all classes.
    """
    classes = [each.SegmentNumber - 1 for each in segmentation.SegmentSequence]
    common = first_item(segmentation, "SharedFunctionalGroupsSequence")
    frames = {}
    for at, group in enumerate(segmentation.PerFrameFunctionalGroupsSequence, start=1):
        derivation = first_item(group, "DerivationImageSequence")
        image = first_item(derivation, "SourceImageSequence")
        instance = str(image.get("ReferencedSOPInstanceUID", source.first.SOPInstanceUID))
        index = source.slice_of(instance, integer(image, "ReferencedFrameNumber"))
        segment = first_item(group, "SegmentIdentificationSequence") or first_item(
            common, "SegmentIdentificationSequence"
        )
        named = integer(segment, "ReferencedSegmentNumber")
        for class_index in classes if named is None else [named - 1]:
            frames[class_index, index] = at
    return frames


def long_string(text: str) -> str:
    """Text as a long string of DICOM (LO): printable, no backslash, at most 64 characters."""
    clean = "".join(c if c.isprintable() and c != "\\" else "_" for c in text).strip()
    return clean[:LONGEST].rstrip() or "_"


def tracking(name: str, scan: Scan, maker: Maker) -> tuple[str, str]:
    """Identifier and UID by which the region of a class is tracked, the same in SEG and SR."""
    return long_string(name), derived_uid("region", _instance_uid(scan, maker), name)


def _instance_uid(scan: Scan, maker: Maker) -> str:
    # With the part, because files of damaged series can share their instance UID.
    parts = (scan.series_uid, str(scan.ref.part))
    slices = (f"{one.instance_uid} {one.frame or ''}" for one in scan.slices)
    return derived_uid("seg", maker.sha256, maker.version, maker.settings, *parts, *slices)


def _series_uid(scan: Scan, maker: Maker, source: SegSource) -> str:
    """Parts of a split series share it if they have one frame of reference, as a series has."""
    parts = (scan.study_uid, scan.series_uid, text(source.first, "FrameOfReferenceUID"))
    return derived_uid("seg series", maker.sha256, maker.version, maker.settings, *parts)


def concept(code: Code) -> Any:
    """A code as highdicom takes it."""
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def algorithm(maker: Maker) -> Any:
    """The model as the algorithm that made an object (PS3.3, 10.16)."""
    from highdicom import AlgorithmIdentificationSequence
    from pydicom.sr.codedict import codes  # tables of a megabyte

    return AlgorithmIdentificationSequence(
        name=long_string(maker.model),
        family=codes.DCM.ArtificialIntelligence,
        version=maker.version,
        source=MANUFACTURER,
        parameters={"model_sha256": maker.sha256, "settings": maker.settings},
    )


def _described(number: int, segment: Segment, scan: Scan, maker: Maker) -> Any:
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    identifier, uid = tracking(segment.name, scan, maker)
    red, green, blue = label_colours(np.array([number], np.uint8))[0].tolist()
    return SegmentDescription(
        segment_number=number,
        segment_label=long_string(segment.name),
        segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm(maker),
        tracking_id=identifier,
        tracking_uid=uid,
        anatomic_regions=[concept(segment.anatomy)] if segment.anatomy else None,
        display_color=CIELabColor.from_rgb(red, green, blue),
    )


def _pixel_measures(source: SegSource) -> Any:
    """Pixel size and thickness; the distance of slices follows from their positions."""
    from highdicom import PixelMeasuresSequence

    thickness = number(source.first, "SliceThickness")
    if thickness is None and source.frames:
        shared = first_item(source.first, "SharedFunctionalGroupsSequence")
        thickness = number(first_item(shared, "PixelMeasuresSequence"), "SliceThickness")
    return PixelMeasuresSequence(
        pixel_spacing=source.geometry.pixel_mm,
        slice_thickness=thickness if thickness and thickness > 0 else None,
    )


def _plane_positions(source: SegSource) -> list[Any] | None:
    """The position of each slice, from the frame that it is in the source."""
    from highdicom import PlanePositionSequence

    if not source.positioned:
        return None
    own = items(source.first, "PerFrameFunctionalGroupsSequence")
    return [
        PlanePositionSequence(
            "PATIENT",
            first_item(own[number - 1], "PlanePositionSequence").ImagePositionPatient,
        )
        for number in source.frames
    ]


def _name_segment_in_each_frame(made: Dataset) -> None:
    """State the only segment in each frame and not in their common group, where MONAI misses it."""
    (common,) = made.SharedFunctionalGroupsSequence
    named = common.get("SegmentIdentificationSequence")
    if named is not None:
        del common.SegmentIdentificationSequence
        for group in made.PerFrameFunctionalGroupsSequence:
            group.SegmentIdentificationSequence = [named[0]]


def _make_repeatable(made: Dataset, dimensions: str) -> None:
    """Remove the time of writing, and replace the UID that highdicom draws at random."""
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        made.pop(keyword, None)
    for equipment in made.get("ContributingEquipmentSequence") or ():
        if equipment.get("ManufacturerModelName") == "highdicom":
            equipment.pop("ContributionDateTime", None)
    for sequence in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in made.get(sequence) or ():
            item.DimensionOrganizationUID = dimensions
