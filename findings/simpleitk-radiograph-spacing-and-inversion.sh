#!/usr/bin/env bash
# SimpleITK 2.5.7 on DICOM radiographs, without a warning. Spacing: of computed and digital radiographs
# and X-ray angiograms it takes Imager Pixel Spacing (at the detector) where the file also has a
# calibrated Pixel Spacing, and 1 mm where it has only that one; dcm2niix 1.0.20260724 takes Pixel
# Spacing. Values: under MONOCHROME1 it inverts the stored values, before the rescale; pydicom 3.0.2
# and dcm2niix do not. A Modality LUT is not applied, as by dcm2niix. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dcm2niix==1.0.20260724 nibabel==5.4.2 numpy==2.4.6 \
    pydicom==3.0.2 SimpleITK==2.5.7
cd "$work"
PATH=$work/venv/bin:$PATH venv/bin/python -W error - <<'PYTHON'
import subprocess

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut


def look(name, kind, modality, **attributes):
    """Write 8 x 6 pixels of 100; return spacing and value by SimpleITK, dcm2niix, pydicom."""
    image = Dataset()
    image.SOPClassUID = kind
    for key in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(image, key, uid.generate_uid())
    image.Modality, image.PatientID, image.InstanceNumber = modality, "p", 1
    image.Rows, image.Columns, image.SamplesPerPixel = 8, 6, 1
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation, image.PhotometricInterpretation = 0, "MONOCHROME2"
    for key, value in attributes.items():
        setattr(image, key, value)
    image.PixelData = np.full((8, 6), 100, np.uint16).tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    image.save_as("x.dcm", enforce_file_format=True)
    itk = sitk.ReadImage("x.dcm")
    command = ["dcm2niix", "-s", "y", "-w", "1", "-f", "x", "x.dcm"]
    subprocess.run(command, check=True, capture_output=True)
    nifti = nib.load("x.nii")
    stored = pydicom.dcmread("x.dcm")
    spacings = [round(float(s), 3) for s in (itk.GetSpacing()[0], nifti.header.get_zooms()[0])]
    values = [int(sitk.GetArrayFromImage(itk).flat[0]), int(np.asarray(nifti.dataobj).flat[0])]
    values.append(int(apply_modality_lut(stored.pixel_array, stored).flat[0]))
    print(name, "spacing (SimpleITK, dcm2niix):", spacings, "value (and pydicom):", values)
    return spacings, values


kinds = (
    ("CR", uid.ComputedRadiographyImageStorage),
    ("DX", uid.DigitalXRayImageStorageForPresentation),
    ("XA", uid.XRayAngiographicImageStorage),
)
for modality, kind in kinds:
    both = {"PixelSpacing": [0.1, 0.1], "ImagerPixelSpacing": [0.2, 0.2]}
    spacings, _ = look(f"{modality}, both spacings:", kind, modality, **both)
    assert spacings == [0.2, 0.1]
    spacings, _ = look(f"{modality}, pixel spacing only:", kind, modality, PixelSpacing=[0.1, 0.1])
    assert spacings == [1.0, 0.1]

dark = {"PhotometricInterpretation": "MONOCHROME1", "ImagerPixelSpacing": [0.2, 0.2]}
_, values = look("MONOCHROME1, 12 bits:", kinds[0][1], "CR", **dark)
assert values == [3995, 100, 100]
dark |= {"RescaleSlope": 2, "RescaleIntercept": -1000, "RescaleType": "US"}
_, values = look("and rescaled:", kinds[0][1], "CR", **dark)
assert values == [6990, -800, -800]

lut = Dataset()
lut.add_new("LUTDescriptor", "US", [256, 0, 16])
lut.ModalityLUTType = "US"
lut.add_new("LUTData", "US", [1000 + 3 * index for index in range(256)])
_, values = look("Modality LUT:", kinds[0][1], "CR", ModalityLUTSequence=[lut])
assert values == [100, 100, 1300]
PYTHON
