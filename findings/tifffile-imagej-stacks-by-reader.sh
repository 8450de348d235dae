#!/usr/bin/env bash
# ImageJ's TIFF stacks in Python. tifffile 2026.3.3 writes a (Z, Y, X) array with imagej=True and no
# axes as one slice of Z channels. A stack may also lie behind one TIFF directory whose ImageJ
# description counts the images that follow (large stacks do). Of such a file with slices=5 tifffile
# returns 5 slices; Pillow 13.0.0 and SimpleITK 2.5.7 return the first and are silent. With images=5
# and no other count tifffile returns one slice too. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 pillow==13.0.0 SimpleITK==2.5.7 tifffile==2026.3.3
cd "$work"
venv/bin/python -W error - <<'PYTHON'
import numpy as np
import SimpleITK as sitk
import tifffile
from PIL import Image

stack = np.repeat(np.arange(5, dtype="<u2"), 64 * 48).reshape(5, 64, 48)
tifffile.imwrite("own.tif", stack, imagej=True)
with tifffile.TiffFile("own.tif") as file:
    print("written by tifffile:", file.series[0].axes, file.imagej_metadata)
    assert file.series[0].axes == "CYX" and file.imagej_metadata["channels"] == 5

seen = {}
for counts in ("images=5\nslices=5\n", "images=5\n"):
    description = f"ImageJ=1.53t\n{counts}loop=false\n"
    how = {"description": description, "metadata": None, "photometric": "minisblack"}
    tifffile.imwrite("one.tif", stack[0], **how)
    with open("one.tif", "ab") as file:  # the pixels of the first image end the file
        stack[1:].tofile(file)
    depth = sitk.ReadImage("one.tif").GetSize()[2:]
    with Image.open("one.tif") as picture:
        seen[counts] = tifffile.imread("one.tif").shape, picture.n_frames, depth
    print(repr(counts), "tifffile, Pillow, SimpleITK:", seen[counts])
assert seen["images=5\nslices=5\n"] == ((5, 64, 48), 1, ())
assert seen["images=5\n"] == ((64, 48), 1, ())
PYTHON
