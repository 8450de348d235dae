#!/usr/bin/env bash
# SimpleITK 2.5.7 (ITK 5.4) and NIfTI of several values a voxel. Of float triples with intent 1006
# (displacement vectors) it turns the sign of the first two on reading, from NIfTI's axes to its own;
# with intent 1007 (vectors) it does not, and 1007 is what it writes itself. So a field that it wrote
# keeps its values, and changes them once a program marks the file as 1006, displacements. The
# colours of an RGB picture read from PNG are written as 1007 too: by the header they are vectors.
# (In NRRD their axis is likewise of kind "vector".) November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet nibabel==5.4.2 numpy==2.4.6 pillow==13.0.0 SimpleITK==2.5.7
cd "$work"
venv/bin/python -W error - <<'PYTHON'
import nibabel as nib
import numpy as np
import SimpleITK as sitk
from PIL import Image

field = np.broadcast_to(np.float32([10, 20, 30]), (4, 5, 6, 3))
sitk.WriteImage(sitk.GetImageFromArray(field, isVector=True), "own.nii")
own = nib.load("own.nii")
read = {}
for intent in (1007, 1006):
    own.header.set_intent(intent)
    nib.Nifti1Image(own.dataobj, own.affine, own.header).to_filename(f"{intent}.nii")
    read[intent] = sitk.GetArrayFromImage(sitk.ReadImage(f"{intent}.nii"))[0, 0, 0].tolist()
intent = int(nib.load("own.nii").header["intent_code"])
print("SimpleITK writes intent", intent, "and reads [10, 20, 30] as", read)
assert intent == 1007
assert read == {1007: [10, 20, 30], 1006: [-10, -20, 30]}

Image.new("RGB", (6, 5), (200, 20, 30)).save("p.png")
sitk.WriteImage(sitk.ReadImage("p.png"), "p.nii")
sitk.WriteImage(sitk.ReadImage("p.png"), "p.nrrd")
colours = nib.load("p.nii")
with open("p.nrrd", "rb") as file:
    kinds = next(line for line in file if line.startswith(b"kinds:")).decode().strip()
print("RGB: intent", colours.header.get_intent()[0], colours.shape, "NRRD", kinds)
assert colours.header["intent_code"] == 1007 and colours.shape == (6, 5, 1, 1, 3)
assert kinds == "kinds: vector domain domain"
PYTHON
