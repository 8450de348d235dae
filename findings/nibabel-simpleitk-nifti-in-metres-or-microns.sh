#!/usr/bin/env bash
# A NIfTI header names the unit of its voxel sizes (xyzt_units: metres, millimetres or microns).
# SimpleITK 2.5.7 applies it, and so returns millimetres; nibabel 5.4.2 returns the numbers as they are
# stored, from get_zooms() as from affine. Of one valid file in microns the two give volumes that are
# 10^9 apart, neither with a warning. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet nibabel==5.4.2 numpy==2.4.6 SimpleITK==2.5.7
cd "$work"
venv/bin/python -W error - <<'PYTHON'
import nibabel as nib
import numpy as np
import SimpleITK as sitk

for unit, factor in (("meter", 1000), ("mm", 1), ("micron", 0.001), ("unknown", 1)):
    image = nib.Nifti1Image(np.zeros((6, 5, 4), np.int16), np.diag([2, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    image.to_filename("u.nii")
    read = nib.load("u.nii")
    zooms = [float(zoom) for zoom in read.header.get_zooms()]
    spacing = sitk.ReadImage("u.nii").GetSpacing()
    print(f"{unit}: nibabel {zooms}, SimpleITK {spacing}")
    assert zooms == np.diag(read.affine)[:3].tolist() == [2, 3, 4]
    assert np.allclose(spacing, np.multiply([2, 3, 4], factor))
PYTHON
