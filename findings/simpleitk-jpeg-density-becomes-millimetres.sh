#!/usr/bin/env bash
# SimpleITK 2.5.7 takes the printing density of a JPEG or a TIFF for the physical size of its pixels
# (72 dots an inch: 0.353 mm), and ignores the one of a PNG or a BMP (1 mm, as if nothing were known).
# The same picture has an area 8 times as large in PNG as in JPEG, without a warning. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 pillow==13.0.0 SimpleITK==2.5.7
cd "$work"
venv/bin/python -W error - <<'PYTHON'
import SimpleITK as sitk
from PIL import Image

seen = {}
for kind in ("jpg", "tif", "png", "bmp"):
    Image.new("L", (60, 50), 128).save(f"p.{kind}", dpi=(72, 72))
    seen[kind] = round(sitk.ReadImage(f"p.{kind}").GetSpacing()[0], 4)
print("spacing in mm of one picture at 72 dots an inch:", seen)
assert seen == {"jpg": 0.3528, "tif": 0.3528, "png": 1.0, "bmp": 1.0}
PYTHON
