#!/usr/bin/env bash
# nibabel 5.4.2 saves a float array of labels 0, 1, 2 under an integer header by spreading it over the
# whole range of the integer type: under uint8 label 1 comes back as 0.99608, under int16 as 1.0000153
# and label 2 as a hair less than 2. Who truncates to integers, as .astype(int) does, loses a class:
# label 1 is gone under uint8. One way into it is a label map that went through get_fdata() and was
# saved with the header of an integer image. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet nibabel==5.4.2 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import nibabel as nib
import numpy as np

labels = np.zeros((8, 8, 4))
labels[2:5], labels[5:] = 1, 2
integer = nib.Nifti1Image(labels.astype(np.uint8), np.eye(4))
saved = nib.Nifti1Image(labels, integer.affine, integer.header)
read = np.asarray(nib.Nifti1Image.from_bytes(saved.to_bytes()).dataobj)
print("saved:", np.unique(labels), " read:", np.unique(read), " truncated:", np.unique(read.astype(int)))
print("share of label 1:", (labels == 1).mean(), "->", (read.astype(int) == 1).mean())
assert saved.get_data_dtype() == np.uint8
assert np.allclose(np.unique(read), [0, 0.99607849, 2.0], atol=1e-6)
assert np.unique(read.astype(int)).tolist() == [0, 2]

saved.header.set_data_dtype(np.int16)
read = np.asarray(nib.Nifti1Image.from_bytes(saved.to_bytes()).dataobj)
print("under int16:", [f"{value:.7f}" for value in np.unique(read)], np.unique(read.astype(int)))
assert np.unique(read.astype(int)).tolist() == [0, 1]
PYTHON
