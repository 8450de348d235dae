"""Structured reports: what was measured on a scan as a Comprehensive SR by template TID 1500."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from wsseg.imaging.definitions import FOREGROUND, IMAGE
from wsseg.imaging.dicom.codes import (
    NOTHING_STATED,
    PRIVATE,
    ClassCodes,
    Code,
    private_code,
    type_of,
)
from wsseg.imaging.dicom.sr_flags import meaning_of
from wsseg.imaging.dicom.sr_items import (
    CHARACTER_SET,
    CONTENT,
    ENCODING,
    MODIFIER,
    PROPERTY,
    code_item,
    container_item,
    empty_dataset,
    image_item,
    number_item,
    text_item,
    uid_item,
)


def _dcm(value: str, meaning: str) -> Code:
    return Code(scheme="DCM", value=value, meaning=meaning)


def _sct(value: str, meaning: str) -> Code:
    return Code(scheme="SCT", value=value, meaning=meaning)


def _own(value: str, meaning: str) -> Code:
    return Code(scheme=PRIVATE, value=value, meaning=meaning)


GROUP = _dcm("125007", "Measurement Group")
TRACKING = _dcm("112039", "Tracking Identifier")
TRACKING_UID = _dcm("112040", "Tracking Unique Identifier")
FINDING = _dcm("121071", "Finding")
CATEGORY = _sct("276214006", "Finding category")
SITE = _sct("363698007", "Finding Site")
ALGORITHM = _dcm("111001", "Algorithm Name")
ALGORITHM_VERSION = _dcm("111003", "Algorithm Version")
ALGORITHM_PARAMETERS = _dcm("111002", "Algorithm Parameters")
SEGMENT = _dcm("121191", "Referenced Segment")
SEGMENT_FRAME = _dcm("121214", "Referenced Segmentation Frame")
SEGMENTED_IMAGE = _dcm("121233", "Source image for segmentation")
SEGMENTED_SERIES = _dcm("121232", "Source series for segmentation")
MEASURED_IMAGE = _dcm("121112", "Source of Measurement")
AREA = _sct("42798000", "Area")
VOLUME = _sct("118565006", "Volume")
MM2 = Code(scheme="UCUM", value="mm2", meaning="square millimeter")
MM3 = Code(scheme="UCUM", value="mm3", meaning="cubic millimeter")
DERIVATION = _dcm("121401", "Derivation")
MEAN = _sct("373098007", "Mean")
ABOVE = _sct("371886008", "+, range of upper measurement uncertainty")
BELOW = _sct("371885007", "-, range of lower measurement uncertainty")
# No terminology has these.
NUMERATOR = _own("NUMERATOR", "Numerator")
DENOMINATOR = _own("DENOMINATOR", "Denominator")
WHOLE_IMAGE = _own("IMAGE", "All pixels of the image")
ALL_CLASSES = _own("FOREGROUND", "Pixels of any class")
CONFIDENCE = _own("CONFIDENCE", "Confidence: probability that it is off by a tenth at most")
SLICES = _own("SLICES", "Slices measured")
SLICES_SHOWING = _own("SLICES_SHOWING", "Slices that show the region")
FLAG = _own("FLAG", "Flag")

PLANAR, VOLUMETRIC, WITHOUT_REGION = "1410", "1411", "1501"
"""Templates of measurement groups: a frame of a segmentation, a segment, images alone."""


@dataclass(frozen=True)
class RatioFinding:
    """A ratio, and what it is of: names of classes, or "image" or "foreground" below.

    value: 0..1 over the image; None if unknown. low, high: its interval, confidence: 0..1; None for
    a model without a calibration. mean: mean over the slices; None on one slice.
    """

    numerator: str
    denominator: str
    value: float | None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    mean: float | None = None


@dataclass(frozen=True)
class Finding:
    """What was measured of a class on one slice, or on all of them.

    size: area in mm2 of a slice, volume in mm3 of all; None if unknown. showing: number of slices
    that show the class.
    """

    size: float | None
    ratios: tuple[RatioFinding, ...]
    flags: tuple[str, ...]
    showing: int = 1


@dataclass(frozen=True)
class ClassFindings:
    """What was measured of a class.

    whole: over all slices; None for a scan of one slice. slices: by index in the scan's order, the
    slices that the report lists.
    """

    name: str
    whole: Finding | None
    slices: Mapping[int, Finding]


@dataclass(frozen=True)
class SliceSource:
    """The image that a slice was read from; frame: from 1 in a multi-frame image, else None."""

    sop_class_uid: str
    instance_uid: str
    frame: int | None = None


@dataclass(frozen=True)
class Segments:
    """A segmentation whose segment k is class k, from 1.

    frames: numbers, from 1, by (class index, slice index), of those that it has.
    """

    header: Dataset
    frames: Mapping[tuple[int, int], int]


@dataclass(frozen=True)
class Algorithm:
    """What measured: the model's name, the SHA-256 of the engine file, wsseg's version, and further
    facts as text."""

    model: str
    sha256: str
    version: str
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportIdentity:
    """What distinguishes a report; made from its inputs, so that a rerun replaces it.

    uid: gives the UID of one of its parts, by words that name it. created: date and time of the
    content. complete: whether all slices of the scan were measured.
    """

    uid: Callable[..., str]
    series_number: int
    created: datetime
    complete: bool = True


def build_report(
    headers: Sequence[Dataset],
    sources: Sequence[SliceSource],
    classes: Sequence[ClassFindings],
    *,
    codes: Mapping[str, ClassCodes],
    algorithm: Algorithm,
    identity: ReportIdentity,
    segments: Segments | None = None,
) -> Dataset:
    """A Comprehensive SR (PS3.3, A.35.3) of the measurements of one scan, ready to be written.

    headers: the source instances, with the attributes of patient and study that they have in
    common, the first of which become those of the report. sources: of each slice. segments: the
    segmentation of the same scan, which the measurements then refer to; without it they refer to
    the source images.

    The groups of the whole scan, one a class, come first and follow TID 1411; those of slices
    follow TID 1410. Without a segmentation both follow TID 1501. What is unknown is left out.
    """
    from highdicom.sr import ComprehensiveSR, MeasurementReport

    groups = _Groups(sources, codes, algorithm, identity.uid, segments)
    first, *others = groups.all(classes)
    procedure = _concept(_sct("363679005", "Imaging procedure"))
    report = MeasurementReport(
        observation_context=_observation(algorithm, identity.uid),
        procedure_reported=procedure,
        imaging_measurements=[_as_highdicom(first)],
    )
    evidence = [*headers, *([segments.header] if segments else [])]
    document = ComprehensiveSR(
        evidence=evidence,
        content=report,
        series_instance_uid=identity.uid("series"),
        series_number=identity.series_number,
        sop_instance_uid=identity.uid("instance"),
        instance_number=1,
        manufacturer="wsseg",
        manufacturer_model_name=algorithm.model[:64],
        software_versions=algorithm.version,
        device_serial_number=algorithm.sha256,
        series_description="Area ratios by wsseg",
        is_complete=identity.complete,
    )
    # The time at which a library was used would differ in every run.
    for equipment in document.get("ContributingEquipmentSequence", ()):
        del equipment.ContributionDateTime
    document.SpecificCharacterSet = CHARACTER_SET
    document.ContentDate = document.InstanceCreationDate = identity.created.strftime("%Y%m%d")
    document.ContentTime = document.InstanceCreationTime = identity.created.strftime("%H%M%S")
    return _with_groups(document, others)


class _Groups:
    """Makes the measurement groups of a report."""

    def __init__(
        self,
        sources: Sequence[SliceSource],
        codes: Mapping[str, ClassCodes],
        algorithm: Algorithm,
        uid: Callable[..., str],
        segments: Segments | None,
    ) -> None:
        self.sources, self.codes, self.uid, self.segments = sources, codes, uid, segments
        # The first parameter holds what matters most: dcmqi reads no other.
        facts = (f"{algorithm.model} sha256:{algorithm.sha256}", *algorithm.facts)
        self.algorithm = [
            text_item(ALGORITHM, "wsseg", MODIFIER),
            text_item(ALGORITHM_VERSION, algorithm.version, MODIFIER),
            *(text_item(ALGORITHM_PARAMETERS, fact, MODIFIER) for fact in facts),
        ]

    def all(self, classes: Sequence[ClassFindings]) -> Iterator[Dataset]:
        """Those of the whole scan, then those of slices, class by class."""
        for index, found in enumerate(classes):
            if found.whole:
                yield self._whole(index, found.name, found.whole)
        for index, found in enumerate(classes):
            for slice_index, finding in found.slices.items():
                alone = found.whole is None
                yield self._slice(index, found.name, slice_index, finding, alone=alone)

    def _whole(self, class_index: int, name: str, finding: Finding) -> Dataset:
        known = finding.size is not None
        numbers = [] if finding.size is None else [number_item(VOLUME, finding.size, MM3)]
        for ratio in finding.ratios:
            numbers += self._ratio(ratio, "V" if known else "T")
            if ratio.mean is not None:
                derived = code_item(DERIVATION, MEAN, MODIFIER)
                children = (*self._terms(ratio), derived)
                numbers.append(number_item(_quantity("A", ratio), ratio.mean, children=children))
        numbers.append(number_item(SLICES, len(self.sources)))
        numbers.append(number_item(SLICES_SHOWING, finding.showing))
        if self.segments:
            header = self.segments.header
            series = str(header.ReferencedSeriesSequence[0].SeriesInstanceUID)
            regions = [
                image_item(
                    SEGMENT, header.SOPClassUID, header.SOPInstanceUID, segment=class_index + 1
                ),
                uid_item(SEGMENTED_SERIES, series, "CONTAINS"),
            ]
            template = VOLUMETRIC
        else:
            regions = [self._source(MEASURED_IMAGE, index) for index in range(len(self.sources))]
            template = WITHOUT_REGION
        about = self._about(name, name)
        content = (*about, *self.algorithm, *numbers, *_flags(finding), *regions)
        return container_item(GROUP, template, content)

    def _slice(
        self, class_index: int, name: str, slice_index: int, finding: Finding, *, alone: bool
    ) -> Dataset:
        numbers = [] if finding.size is None else [number_item(AREA, finding.size, MM2)]
        for ratio in finding.ratios:
            numbers += self._ratio(ratio, "A")
        frame = self.segments.frames.get((class_index, slice_index)) if self.segments else None
        if self.segments and frame is not None:
            header = self.segments.header
            regions = [
                image_item(SEGMENT_FRAME, header.SOPClassUID, header.SOPInstanceUID, frame=frame),
                self._source(SEGMENTED_IMAGE, slice_index),
            ]
            template = PLANAR
        else:
            regions, template = [self._source(MEASURED_IMAGE, slice_index)], WITHOUT_REGION
        about = self._about(name, name if alone else f"{name}, slice {slice_index}")
        algorithm = self.algorithm if alone else ()
        content = (*about, *algorithm, *numbers, *_flags(finding), *regions)
        return container_item(GROUP, template, content)

    def _about(self, name: str, label: str) -> list[Dataset]:
        stated = self.codes.get(name, NOTHING_STATED)
        items = [
            text_item(TRACKING, label),
            uid_item(TRACKING_UID, self.uid("region", label)),
            code_item(FINDING, type_of(name, self.codes)),
        ]
        if stated.category:
            items.insert(2, code_item(CATEGORY, stated.category))
        if stated.anatomy:
            items.append(code_item(SITE, stated.anatomy, MODIFIER))
        return items

    def _ratio(self, ratio: RatioFinding, kind: str) -> list[Dataset]:
        """The number of a ratio with its interval and confidence; none if it is unknown."""
        if ratio.value is None:
            return []
        properties = {CONFIDENCE: ratio.confidence}
        if ratio.low is not None and ratio.high is not None:
            properties |= {ABOVE: ratio.high - ratio.value, BELOW: ratio.value - ratio.low}
        children = [
            *self._terms(ratio),
            *(
                number_item(name, value, relation=PROPERTY)
                for name, value in properties.items()
                if value is not None
            ),
        ]
        return [number_item(_quantity(kind, ratio), ratio.value, children=children)]

    def _terms(self, ratio: RatioFinding) -> list[Dataset]:
        named = {IMAGE: WHOLE_IMAGE, FOREGROUND: ALL_CLASSES}
        below = named.get(ratio.denominator) or type_of(ratio.denominator, self.codes)
        return [
            code_item(NUMERATOR, type_of(ratio.numerator, self.codes), MODIFIER),
            code_item(DENOMINATOR, below, MODIFIER),
        ]

    def _source(self, name: Code, slice_index: int) -> Dataset:
        source = self.sources[slice_index]
        return image_item(name, source.sop_class_uid, source.instance_uid, frame=source.frame)


def _quantity(kind: str, ratio: RatioFinding) -> Code:
    """The private code of a ratio: of areas ("A"), of volumes ("V"), or of the areas of all slices
    together ("T"), where a thickness is unknown.

    Its meaning names numerator and denominator, because many viewers show nothing else.
    """
    what = {"A": "Area", "V": "Volume", "T": "Total area"}[kind]
    terms = f"{ratio.numerator} / {ratio.denominator}"
    return private_code(f"{kind}R", terms, f"{what} ratio {terms}")


def _flags(finding: Finding) -> Iterator[Dataset]:
    for flag in finding.flags:
        yield code_item(FLAG, _own(flag, meaning_of(flag)))


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def _observation(algorithm: Algorithm, uid: Callable[..., str]) -> Any:
    """The device that observed: the model with the file that ran, in a version of wsseg."""
    from highdicom.sr import (
        DeviceObserverIdentifyingAttributes,
        ObservationContext,
        ObserverContext,
    )

    device = DeviceObserverIdentifyingAttributes(
        uid=uid("device"),
        name=f"wsseg {algorithm.version}",
        manufacturer_name="wsseg",
        model_name=algorithm.model,
        serial_number=f"sha256:{algorithm.sha256}",
    )
    kind = _concept(_dcm("121007", "Device"))
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=kind, observer_identifying_attributes=device
        )
    )


def _as_highdicom(group: Dataset) -> Any:
    """A group as highdicom reads it from a file."""
    from highdicom import sr

    readers = {
        PLANAR: sr.PlanarROIMeasurementsAndQualitativeEvaluations,
        VOLUMETRIC: sr.VolumetricROIMeasurementsAndQualitativeEvaluations,
        WITHOUT_REGION: sr.MeasurementsAndQualitativeEvaluations,
    }
    template = str(group.ContentTemplateSequence[0].TemplateIdentifier)
    return readers[template].from_sequence([group])


def _with_groups(document: Dataset, groups: Iterable[Dataset]) -> Dataset:
    """The document with further groups beside its first one.

    They are added afterwards because highdicom copies and searches the whole tree several times,
    which takes three quarters of its time. All images that they refer to are in the evidence.
    """
    *context, measurements = document.ContentSequence
    every = Items([*measurements.ContentSequence, *groups])
    container = empty_dataset()
    container.update(measurements)
    container[CONTENT] = DataElement(CONTENT, "SQ", every)
    document[CONTENT] = DataElement(CONTENT, "SQ", Items([*context, container]))
    document.set_original_encoding(False, True, ENCODING)
    return document
