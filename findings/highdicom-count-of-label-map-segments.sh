#!/usr/bin/env bash
# highdicom 0.28.2, DICOM segmentations of type LABELMAP: number_of_segments, by its documentation
# the number without the background, is one too small. A segmentation of two classes has 1, one of a
# single class 0, as made and as read from a file, so a loop up to it leaves the last class out.
# Segment Sequence has one item more than classes (the background, number 0); segment_numbers is
# right. Under BINARY all three agree. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet highdicom==0.28.2 numpy==2.4.6 pydicom==3.0.2
cd "$work"
venv/bin/python -W error - <<'PYTHON'
import highdicom as hd
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes

image = Dataset()
image.file_meta = FileMetaDataset()
image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
image.SOPClassUID, image.Modality = uid.CTImageStorage, "CT"
for key in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
    setattr(image, key, uid.generate_uid())
for key in ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
    setattr(image, key, "")
image.PatientID, image.AccessionNumber, image.ReferringPhysicianName = "p", "", ""
image.Rows, image.Columns, image.PixelSpacing, image.SliceThickness = 12, 10, [2, 2], 5
image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
image.PixelData = bytes(240)

for kind in ("BINARY", "LABELMAP"):
    for classes in (1, 2, 3):
        parts = [
            hd.seg.SegmentDescription(n, f"c{n}", codes.SCT.Tissue, codes.SCT.Tissue, "MANUAL")
            for n in range(1, classes + 1)
        ]
        mask = np.repeat(np.arange(12) % (classes + 1), 10).reshape(1, 12, 10).astype(np.uint8)
        new = (uid.generate_uid(), 1, uid.generate_uid(), 1)
        made = hd.seg.Segmentation([image], mask, kind, parts, *new, "m", "n", "1", "s")
        made.save_as("s.dcm")
        read = hd.seg.segread("s.dcm")
        counts = [made.number_of_segments, read.number_of_segments, len(read.SegmentSequence)]
        numbers = list(read.segment_numbers)
        print(f"{kind}, {classes} classes: made, read, items: {counts}, numbers: {numbers}")
        assert numbers == list(range(1, classes + 1))
        by_kind = {
            "BINARY": [classes, classes, classes],
            "LABELMAP": [classes - 1, classes - 1, classes + 1],
        }
        assert counts == by_kind[kind]
PYTHON
