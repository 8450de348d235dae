#!/usr/bin/env bash
# pydicom 3.0.2, asked for one frame of a multi-frame image of one bit a pixel (a DICOM segmentation),
# fails on some frames where rows times columns is no multiple of 8: frames follow each other bit by bit
# (PS3.5, 8.1.1), and it takes a byte too few. All frames at once are right. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 pydicom==3.0.2
cd "$work"
venv/bin/python - <<'PYTHON'
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import pack_bits, pixel_array
from pydicom.uid import ExplicitVRLittleEndian

frames = np.random.default_rng(0).integers(0, 2, (5, 15, 13)).astype(np.uint8)
dataset = Dataset()
dataset.file_meta = FileMetaDataset()
dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 15, 13, 5
dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
dataset.BitsAllocated = dataset.BitsStored = 1
dataset.HighBit = dataset.PixelRepresentation = 0
dataset.PixelData = pack_bits(frames)
dataset["PixelData"].VR = "OB"

together = [bool((frame == stored).all()) for frame, stored in zip(pixel_array(dataset), frames)]
alone = []
for index, stored in enumerate(frames):
    try:
        alone.append(bool((pixel_array(dataset, index=index) == stored).all()))
    except ValueError as error:
        alone.append(f"{type(error).__name__}: {error}")
print("all frames at once, each right:", together)
print("frame by frame:", alone)
assert all(together)
assert alone[:2] == [True, True] and "cannot reshape" in str(alone[2])
PYTHON
