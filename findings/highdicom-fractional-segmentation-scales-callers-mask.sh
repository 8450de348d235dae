#!/usr/bin/env bash
# highdicom 0.28.2 changes the array that it is given: making a Segmentation of type FRACTIONAL from
# a uint8 mask of 0 and 1 (one segment, or one channel for each) multiplies the caller's own array
# by MaximumFractionalValue. An area that is summed from the mask afterwards is 255 times too large,
# and a BINARY one from the same mask is refused. bool, uint16 and float masks stay as they are, as
# does every mask under BINARY and LABELMAP; the file that is written is right. November 2026.
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


def segmentation(mask, kind):
    segments = [
        hd.seg.SegmentDescription(
            number + 1, "part", codes.SCT.Tissue, codes.SCT.Tissue, "MANUAL"
        )
        for number in range(mask.shape[3] if mask.ndim == 4 else 1)
    ]
    new = (uid.generate_uid(), 1, uid.generate_uid(), 1)
    return hd.seg.Segmentation([image], mask, kind, segments, *new, "m", "n", "1", "s")


region = np.zeros((1, 12, 10), bool)
region[0, 3:6] = True
for kind in ("BINARY", "LABELMAP", "FRACTIONAL"):
    for number in (bool, np.uint8, np.uint16, np.float32):
        mask = region.astype(number)
        written = segmentation(mask, kind).pixel_array
        print(kind, np.dtype(number), "sum before:", region.sum(), "after:", mask.sum())
        assert np.array_equal(written > 0, region[0])
        factor = 255 if (kind, number) == ("FRACTIONAL", np.uint8) else 1
        assert mask.sum() == factor * 30

channels = np.stack([region, ~region], axis=3).astype(np.uint8)
segmentation(channels, "FRACTIONAL")
print("two channels, afterwards:", np.unique(channels))
assert np.unique(channels).tolist() == [0, 255]

mask = region.astype(np.uint8)
segmentation(mask, "FRACTIONAL")
try:
    segmentation(mask, "BINARY")
except ValueError as error:
    print("the same mask as BINARY:", error)
else:
    raise SystemExit("the mask is taken a second time")
PYTHON
