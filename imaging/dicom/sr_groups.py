"""Measurement groups of a structured report: the numbers of a class on a slice or a whole scan."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from pydicom.dataset import Dataset

from wsseg.imaging.definitions import FOREGROUND, IMAGE
from wsseg.imaging.dicom.codes import (
    NOTHING_STATED,
    PRIVATE,
    ClassCodes,
    Code,
    private_code,
    type_of,
)
from wsseg.imaging.dicom.sr_findings import (
    Algorithm,
    ClassFindings,
    Finding,
    RatioFinding,
    Segments,
    SliceSource,
)
from wsseg.imaging.dicom.sr_flags import meaning_of
from wsseg.imaging.dicom.sr_items import (
    MODIFIER,
    PROPERTY,
    code_item,
    container_item,
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


class Groups:
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
        uid = self.uid("region", name)
        if self.segments:  # the same region as in the segmentation
            uid = str(self.segments.header.SegmentSequence[class_index].get("TrackingUID", uid))
        about = self._about(name, name, uid)
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
        label = name if alone else f"{name}, slice {slice_index}"
        about = self._about(name, label, self.uid("region", label))
        algorithm = self.algorithm if alone else ()
        content = (*about, *algorithm, *numbers, *_flags(finding), *regions)
        return container_item(GROUP, template, content)

    def _about(self, name: str, label: str, uid: str) -> list[Dataset]:
        stated = self.codes.get(name, NOTHING_STATED)
        items = [
            text_item(TRACKING, label),
            uid_item(TRACKING_UID, uid),
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
