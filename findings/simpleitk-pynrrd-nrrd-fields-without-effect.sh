#!/usr/bin/env bash
# SimpleITK 2.5.7 and pynrrd 1.1.3 read NRRD files whose header names units other than millimetres
# ("space units", "units") and the range that quantised values stand for ("old min", "old max"), and
# apply none of it, without a warning: 0.2 cm comes out of SimpleITK as 0.2 (mm everywhere else in it).
# Its metadata keep "units" (as NRRD_units[0], ...) but not "space units", the one that oriented images
# have; pynrrd's header keeps both. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 pynrrd==1.1.3 SimpleITK==2.5.7
cd "$work"
venv/bin/python -W error - <<'PYTHON'
import nrrd
import numpy as np
import SimpleITK as sitk

voxels = np.zeros((6, 5, 4), np.int16)
placed = {
    "space": "left-posterior-superior",
    "space directions": np.diag([0.2, 0.2, 0.5]),
    "space origin": [0, 0, 0],
    "space units": ["cm"] * 3,
}
nrrd.write("cm.nrrd", voxels, placed)
nrrd.write("um.nrrd", voxels, {"spacings": [200, 200, 500], "units": ["um"] * 3})
spacings, kept = {}, {}
for name in ("cm", "um"):
    image = sitk.ReadImage(f"{name}.nrrd")
    spacings[name] = image.GetSpacing()
    kept[name] = [image.GetMetaData(key) for key in image.GetMetaDataKeys() if "units" in key]
print("grids of 2 x 2 x 5 mm and 0.2 x 0.2 x 0.5 mm:", spacings, "units kept:", kept)
assert kept == {"cm": [], "um": ["um"] * 3}
assert spacings == {"cm": (0.2, 0.2, 0.5), "um": (200, 200, 500)}
assert nrrd.read_header("cm.nrrd")["space units"] == ["cm"] * 3

quantised = np.array([[0, 128, 255]], np.uint8)
nrrd.write("q.nrrd", quantised, {"old min": -1000.0, "old max": 3095.0})
read = {
    "SimpleITK": sitk.GetArrayFromImage(sitk.ReadImage("q.nrrd")).ravel().tolist(),
    "pynrrd": nrrd.read("q.nrrd")[0].ravel().tolist(),
}
print("0, 128, 255 that stand for -1000 to 3095:", read)
assert read == {"SimpleITK": [0, 128, 255], "pynrrd": [0, 128, 255]}
PYTHON
