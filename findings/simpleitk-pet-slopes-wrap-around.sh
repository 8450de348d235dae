#!/usr/bin/env bash
# SimpleITK 2.5.7 reads a DICOM series in the number type that the first slice's rescale needs. In PET
# each slice may have a slope of its own; where the first slice's is 1 the volume is 16-bit: values of
# later slices lose their fractions, and large ones wrap around to negative numbers. No warning. Each
# slice read alone is right, and so is dcm2niix 1.0.20260724. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dcm2niix==1.0.20260724 nibabel==5.4.2 numpy==2.4.6 \
    pydicom==3.0.2 SimpleITK==2.5.7
cd "$work"
PATH=$work/venv/bin:$PATH venv/bin/python -W error - <<'PYTHON'
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage, generate_uid


def look(name, slopes):
    """Write slices of 100 with these slopes; return them by SimpleITK, alone, and by dcm2niix."""
    study, series, frame = (generate_uid() for _ in range(3))
    folder = Path(name)
    folder.mkdir()
    for index, slope in enumerate(slopes):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = PositronEmissionTomographyImageStorage, generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.FrameOfReferenceUID, image.Modality, image.PatientID = frame, "PT", "p"
        image.SeriesNumber, image.InstanceNumber, image.PatientPosition = 1, index + 1, "HFS"
        image.Rows, image.Columns, image.SamplesPerPixel = 8, 6, 1
        image.PixelSpacing, image.SliceThickness = [2, 2], 5
        image.ImagePositionPatient = [0, 0, 5 * index]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 1
        image.PhotometricInterpretation, image.Units = "MONOCHROME2", "BQML"
        image.RescaleSlope, image.RescaleIntercept = slope, 0
        image.PixelData = np.full((8, 6), 100, np.int16).tobytes()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.save_as(folder / f"{index}.dcm", enforce_file_format=True)
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(name)
    volume = sitk.ReadImage(files)
    read = sitk.GetArrayFromImage(volume)[:, 0, 0].tolist()
    alone = [sitk.GetArrayFromImage(sitk.ReadImage(file)).flat[0] for file in files]
    command = ["dcm2niix", "-o", ".", "-f", name, name]
    subprocess.run(command, check=True, capture_output=True)
    nifti = np.asarray(nib.load(f"{name}.nii").dataobj)[0, 0]
    print(f"slopes {slopes}: {volume.GetPixelIDTypeAsString()} {read}")
    expected = np.multiply(slopes, 100)
    assert np.allclose(alone, expected) and np.allclose(nifti, expected)
    return read


assert look("fractions", [1, 0.333, 0.007, 1.5]) == [100, 33, 0, 150]
assert look("large", [1, 2, 1000, 5000]) == [100, 200, -31072, -24288]
assert np.allclose(look("other", [0.5, 0.333, 1000, 5000]), [50, 33.3, 100000, 500000])
PYTHON
