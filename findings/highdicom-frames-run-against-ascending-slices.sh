#!/usr/bin/env bash
# highdicom 0.28.2 takes the planes of a numpy mask in the order of the source images, but orders
# the frames of a Segmentation and the planes of a volume (get_volume_from_series) by place: against
# the normal, the cross product of row and column direction, so usual axial slices from head to
# foot. Of a series from foot to head frame 0 is the last source image, under BINARY, LABELMAP and
# FRACTIONAL; and a mask made from the volume's array and written with the list of source images
# comes out mirrored, without an error or a warning. It lies right if handed over as a Volume
# (with_array). November 2026.
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


def series(orientation, step):
    """Make four CT slices; the pixels of slice k are k."""
    images, shared = [], {"Modality": "CT", "PatientID": "p", "RescaleType": "HU"}
    for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        shared[key] = uid.generate_uid()
    blank = ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
    for key in blank:
        shared[key] = ""
    shared |= {"Rows": 12, "Columns": 10, "PixelSpacing": [2, 2], "SliceThickness": 5}
    shared |= {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0}
    shared |= {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    shared |= {"AccessionNumber": "", "ReferringPhysicianName": "", "RescaleSlope": 1}
    shared |= {"ImageOrientationPatient": orientation, "RescaleIntercept": 0}
    for number in range(4):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        for key, value in shared.items():
            setattr(image, key, value)
        image.SOPClassUID, image.SOPInstanceUID = uid.CTImageStorage, uid.generate_uid()
        image.InstanceNumber = number + 1
        image.ImagePositionPatient = [number * part for part in step]
        image.PixelData = np.full((12, 10), number, np.uint16).tobytes()
        images.append(image)
    return images


def segmentation(images, mask, kind):
    part = hd.seg.SegmentDescription(1, "part", codes.SCT.Tissue, codes.SCT.Tissue, "MANUAL")
    new = (uid.generate_uid(), 1, uid.generate_uid(), 1)
    return hd.seg.Segmentation(images, mask, kind, [part], *new, "m", "n", "1", "s")


cases = {
    "axial, foot to head": ([1, 0, 0, 0, 1, 0], (0, 0, 5), True),
    "axial, head to foot": ([1, 0, 0, 0, 1, 0], (0, 0, -5), False),
    "coronal, front to back": ([1, 0, 0, 0, 0, -1], (0, 5, 0), True),
    "coronal, back to front": ([1, 0, 0, 0, 0, -1], (0, -5, 0), False),
    "sagittal, right to left": ([0, 1, 0, 0, 0, -1], (5, 0, 0), False),
    "sagittal, left to right": ([0, 1, 0, 0, 0, -1], (-5, 0, 0), True),
}
for name, (orientation, step, turned) in cases.items():
    images = series(orientation, step)
    mask = np.zeros((4, 12, 10), np.uint8)
    for number in range(4):
        mask[number, 0, : number + 1] = 1
    frames = {
        kind: (segmentation(images, mask.copy(), kind).pixel_array > 0).sum((1, 2)).tolist()
        for kind in ("BINARY", "LABELMAP", "FRACTIONAL")
    }
    planes = hd.get_volume_from_series(images).array[:, 0, 0].astype(int).tolist()
    print(f"{name}: masks of 1, 2, 3, 4 pixels, by frame: {frames}; planes of the volume: {planes}")
    assert all(areas == ([4, 3, 2, 1] if turned else [1, 2, 3, 4]) for areas in frames.values())
    assert planes == ([3, 2, 1, 0] if turned else [0, 1, 2, 3])

images = series([1, 0, 0, 0, 1, 0], (0, 0, 5))
volume = hd.get_volume_from_series(images)
lowest = (volume.array == 0).astype(np.uint8)
placed = {}
for name, mask in (("array", lowest), ("Volume", volume.with_array(lowest))):
    (frame,) = segmentation(images, mask, "BINARY").PerFrameFunctionalGroupsSequence
    placed[name] = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
print("mask of the slice at 0 mm, written at (mm):", placed)
assert placed == {"array": 15, "Volume": 0}
PYTHON
