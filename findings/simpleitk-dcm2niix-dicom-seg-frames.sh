#!/usr/bin/env bash
# SimpleITK 2.5.7 and dcm2niix 1.0.20260724 misread valid DICOM segmentations without a warning about
# it. Slices are 2 mm apart with pixels of 0.5 x 0.8 mm, the segment is on those at 2, 4 and 8 mm.
# With empty frames left out SimpleITK gives slices 1 mm apart from 8 mm up in the order of the
# frames (8, 4, 2 mm at 8, 9, 10 mm) and pixels of 1 x 1 mm; dcm2niix puts them at 2, 4, 6 mm. Where
# the pixels of all frames are no multiple of 8, SimpleITK leaves the last ones (here 4) undefined.
# Of a label map dcm2niix turns the order of the slices upside down (2, 4, 8 mm at 8, 6, 2 mm);
# SimpleITK refuses it. Written with highdicom 0.28.2, which reads all of them right. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dcm2niix==1.0.20260724 highdicom==0.28.2 nibabel==5.4.2 \
    numpy==2.4.6 pydicom==3.0.2 SimpleITK==2.5.7
cd "$work"
# Memory that is not filled gets a fixed value.
MALLOC_PERTURB_=165 PATH=$work/venv/bin:$PATH venv/bin/python -W error - <<'PYTHON'
import subprocess
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

HEIGHTS = (0, 2, 4, 6, 8, 10)
PIXELS = {2: 5, 4: 6, 8: 7}  # of the segment, by height
STUDY, SERIES, SPACE = generate_uid(), generate_uid(), generate_uid()


def source(shape):
    for height in HEIGHTS:
        image = Dataset()
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate"):
            setattr(image, name, "")
        image.StudyTime = image.AccessionNumber = image.StudyID = ""
        image.ReferringPhysicianName = ""
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID = STUDY, SERIES
        image.FrameOfReferenceUID, image.Modality = SPACE, "CT"
        image.ImagePositionPatient = [0, 0, height]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness = [0.8, 0.5], 2
        image.Rows, image.Columns = shape
        yield image


def write(name, shape, kind, sparse):
    masks = np.zeros((len(HEIGHTS), *shape), np.uint8)
    for index, height in enumerate(HEIGHTS):
        masks[index, 0, : PIXELS.get(height, 0)] = 1
    description = highdicom.seg.SegmentDescription(
        1, "lesion", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion, "MANUAL"
    )
    made = highdicom.seg.Segmentation(
        source_images=list(source(shape)),
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=[description],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=sparse,
        transfer_syntax_uid=RLELossless if kind == "LABELMAP" else ExplicitVRLittleEndian,
    )
    path = Path(name) / "in" / "seg.dcm"
    path.parent.mkdir(parents=True)
    made.save_as(path)
    return path


def look(name, shape, kind, sparse=False):
    """Return pixels by height as highdicom, dcm2niix and SimpleITK give them, and its spacing."""
    path = write(name, shape, kind, sparse)
    volume = highdicom.seg.segread(path).get_volume()
    high = {
        float((volume.affine @ [k, 0, 0, 1])[2]): int(np.count_nonzero(plane))
        for k, plane in enumerate(volume.array)
    }
    command = ["dcm2niix", "-f", "n", "-b", "n", "-z", "n", "-o", name, path.parent]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = Path(name).glob("*.nii")
    nifti = nib.load(file)
    counts = np.count_nonzero(np.asarray(nifti.dataobj), axis=(0, 1))
    nii = {float((nifti.affine @ [0, 0, k, 1])[2]): int(n) for k, n in enumerate(counts)}
    try:
        image = sitk.ReadImage(path)
    except RuntimeError as error:
        itk, spacing = str(error), None
    else:
        values = sitk.GetArrayFromImage(image)
        places = (image.TransformIndexToPhysicalPoint((0, 0, k))[2] for k in range(len(values)))
        itk = {z: int(np.count_nonzero(v)) for z, v in zip(places, values, strict=True)}
        spacing = image.GetSpacing()
    found = [{z: n for z, n in each.items() if n} if isinstance(each, dict) else each
             for each in (high, nii, itk)]
    print(f"{name}: highdicom {found[0]}, dcm2niix {found[1]}, SimpleITK {found[2]} {spacing}")
    assert found[0] == PIXELS
    return found[1], found[2], spacing


assert look("all frames", (16, 24), "BINARY") == (PIXELS, PIXELS, (0.5, 0.8, 2))
assert look("sparse", (16, 24), "BINARY", sparse=True) == (
    {2: 5, 4: 6, 6: 7},
    {8: 7, 9: 6, 10: 5},
    (1, 1, 1),
)
# 6 x 18 x 21 pixels are 4 more than a multiple of 8; the frame at 0 mm is the last, and is empty.
nii, itk, _ = look("no multiple of 8", (18, 21), "BINARY")
assert nii == PIXELS and itk == {**PIXELS, 0: 4}
nii, itk, _ = look("label map", (16, 24), "LABELMAP")
assert nii == {8: 5, 6: 6, 2: 7} and "Unable to determine ImageIO reader" in itk
PYTHON
