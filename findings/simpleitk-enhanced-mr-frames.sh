#!/usr/bin/env bash
# SimpleITK 2.5.7 reads an Enhanced MR image (DICOM, many frames in one file) without a warning where
# its one volume is not what the frames say: with frames out of spatial order, or with one position
# missing, the pixel spacing of 2 x 1 mm is lost and comes back as 1 mm; the first frame's rescale
# slope is used for every frame; two time points become one stack twice as high. dcm2niix 1.0.20260724
# gets order, slopes and times right, but closes the gap of the missing position without a word.
# highdicom 0.28.2 (get_volume) gets order and slopes right and refuses the others. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dcm2niix==1.0.20260724 highdicom==0.28.2 nibabel==5.4.2 \
    numpy==2.4.6 pydicom==3.0.2 SimpleITK==2.5.7
cd "$work"
PATH=$work/venv/bin:$PATH venv/bin/python -W error - <<'PYTHON'
import subprocess
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid


def data(**attributes):
    dataset = Dataset()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def per_frame(place, slope, time):
    return data(
        PlanePositionSequence=[data(ImagePositionPatient=[0, 0, 5 * place])],
        PixelValueTransformationSequence=[
            data(RescaleIntercept=0, RescaleSlope=slope, RescaleType="US")
        ],
        FrameContentSequence=[
            data(
                StackID="1",
                InStackPositionNumber=place + 1,
                TemporalPositionIndex=time,
                DimensionIndexValues=[1, place + 1, time],
            )
        ],
    )


def write(path, frames):
    """Write 8 rows x 6 columns of one value for each (place, slope, time, value)."""
    organization, group = generate_uid(), 0x00209111
    image = data(
        SOPClassUID=EnhancedMRImageStorage,
        SOPInstanceUID=generate_uid(),
        StudyInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
        FrameOfReferenceUID=generate_uid(),
        Modality="MR",
        PatientID="p",
        PatientPosition="HFS",
        ImageType=["ORIGINAL", "PRIMARY", "M", "NONE"],
        VolumetricProperties="VOLUME",
        NumberOfFrames=len(frames),
        Rows=8,
        Columns=6,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
        DimensionOrganizationSequence=[data(DimensionOrganizationUID=organization)],
        DimensionIndexSequence=[
            data(
                DimensionIndexPointer=tag,
                FunctionalGroupPointer=group,
                DimensionOrganizationUID=organization,
            )
            for tag in (0x00209056, 0x00209057, 0x00209128)
        ],
        SharedFunctionalGroupsSequence=[
            data(
                PixelMeasuresSequence=[
                    data(PixelSpacing=[2, 1], SliceThickness=5, SpacingBetweenSlices=5)
                ],
                PlaneOrientationSequence=[data(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            )
        ],
        PerFrameFunctionalGroupsSequence=[per_frame(*frame[:3]) for frame in frames],
        PixelData=np.uint16([np.full((8, 6), frame[3]) for frame in frames]).tobytes(),
    )
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir()
    image.save_as(path, enforce_file_format=True)


def look(name, frames):
    """Return spacing and values as SimpleITK, dcm2niix and highdicom give them."""
    path = Path(name) / "in" / "x.dcm"
    path.parent.parent.mkdir()
    write(path, frames)
    itk = sitk.ReadImage(path)
    command = ["dcm2niix", "-o", name, "-f", "n", path.parent]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "istance" not in said and len(list(Path(name).glob("*.nii"))) == 1
    nifti = nib.load(f"{name}/n.nii")
    zooms = tuple(map(float, nifti.header.get_zooms()[:3]))
    try:
        volume = highdicom.imread(path).get_volume()
        high = sorted(volume.array[:, 0, 0].tolist())
    except RuntimeError as error:
        high = str(error)
    seen = {
        "SimpleITK": (itk.GetSpacing(), sitk.GetArrayFromImage(itk)[:, 0, 0].tolist()),
        "dcm2niix": (zooms, np.asarray(nifti.dataobj)[0, 0].tolist()),
        "highdicom": high,
    }
    for reader, what in seen.items():
        print(f"{name}: {reader}: {what}")
    return seen


plain = [(place, 1, 1, 10 * place) for place in range(4)]
seen = look("in order", plain)
assert seen["SimpleITK"] == ((1, 2, 5), [0, 10, 20, 30])

seen = look("out of order", [plain[i] for i in (2, 0, 3, 1)])
assert seen["SimpleITK"] == ((1, 1, 1), [20, 0, 30, 10])
assert seen["dcm2niix"] == ((1, 2, 5), [0, 10, 20, 30])
assert seen["highdicom"] == [0, 10, 20, 30]

seen = look("a place missing", [(place, 1, 1, 10 * place) for place in (0, 1, 3, 4)])
assert seen["SimpleITK"] == ((1, 1, 1), [0, 10, 30, 40])
assert seen["dcm2niix"] == ((1, 2, 5), [0, 10, 30, 40])
assert "regularly" in seen["highdicom"]

seen = look("slopes", [(place, place + 2, 1, 100) for place in range(4)])
assert seen["SimpleITK"][1] == [200] * 4
assert seen["dcm2niix"][1] == [200, 300, 400, 500] == seen["highdicom"]

twice = [(place, 1, time, 100 * time + place) for time in (1, 2) for place in range(4)]
seen = look("two times", twice)
assert seen["SimpleITK"] == ((1, 2, 5), [100, 101, 102, 103, 200, 201, 202, 203])
assert seen["dcm2niix"][1] == [[100, 200], [101, 201], [102, 202], [103, 203]]
assert "Multiple frames" in seen["highdicom"]
PYTHON
