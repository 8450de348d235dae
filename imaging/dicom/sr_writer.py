"""Structured reports: what was measured on a scan as a Comprehensive SR by template TID 1500."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from wsseg.imaging.dicom.codes import ClassCodes, Code
from wsseg.imaging.dicom.derived import derived_uid
from wsseg.imaging.dicom.seg_writer import concept, long_string
from wsseg.imaging.dicom.sr_findings import (
    Algorithm,
    ClassFindings,
    ReportIdentity,
    Segments,
    SliceSource,
)
from wsseg.imaging.dicom.sr_groups import PLANAR, VOLUMETRIC, WITHOUT_REGION, Groups
from wsseg.imaging.dicom.sr_items import CHARACTER_SET, CONTENT, ENCODING, empty_dataset

IMAGING = Code(scheme="SCT", value="363679005", meaning="Imaging procedure")
DEVICE = Code(scheme="DCM", value="121007", meaning="Device")


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

    groups = Groups(sources, codes, algorithm, identity.uid, segments)
    first, *others = groups.all(classes)
    report = MeasurementReport(
        observation_context=_observation(algorithm),
        procedure_reported=concept(IMAGING),
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
        manufacturer_model_name=long_string(algorithm.model),
        software_versions=algorithm.version,
        device_serial_number=algorithm.sha256,
        series_description="Area ratios by wsseg",
        is_complete=identity.complete,
    )
    # The time at which a library was used would differ in every run.
    for equipment in document.get("ContributingEquipmentSequence", ()):
        equipment.pop("ContributionDateTime", None)
    document.SpecificCharacterSet = CHARACTER_SET
    document.ContentDate = document.InstanceCreationDate = identity.created.strftime("%Y%m%d")
    document.ContentTime = document.InstanceCreationTime = identity.created.strftime("%H%M%S")
    return _with_groups(document, others)


def _observation(algorithm: Algorithm) -> Any:
    """The device that observed: the model with the file that ran, in a version of wsseg. Its UID is
    the same in all of its reports."""
    from highdicom.sr import (
        DeviceObserverIdentifyingAttributes,
        ObservationContext,
        ObserverContext,
    )

    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", algorithm.model, algorithm.sha256, algorithm.version),
        name=f"wsseg {algorithm.version}",
        manufacturer_name="wsseg",
        model_name=algorithm.model,
        serial_number=f"sha256:{algorithm.sha256}",
    )
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=concept(DEVICE), observer_identifying_attributes=device
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
