#!/usr/bin/env bash
# tifffile 2026.3.3 writes a NumPy bool mask as one bit with PhotometricInterpretation 0, white is
# zero, unless it is told a photometric. tifffile itself ignores that tag and gives the mask back;
# Pillow 13.0.0 obeys it and gives its complement. A region of 6 % becomes one of 94 %: between two
# programs that each do what they document. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 pillow==13.0.0 tifffile==2026.3.3
cd "$work"
venv/bin/python - <<'PYTHON'
import numpy as np
import tifffile
from PIL import Image

mask = np.zeros((40, 40), bool)
mask[10:20, 10:20] = True
tifffile.imwrite("mask.tif", mask)
with tifffile.TiffFile("mask.tif") as file:
    photometric = file.pages[0].photometric.name
shares = {
    "stored": mask.mean(),
    "tifffile": tifffile.imread("mask.tif").mean(),
    "Pillow": np.asarray(Image.open("mask.tif")).mean(),
}
print(photometric, shares)
assert photometric == "MINISWHITE"
assert shares == {"stored": 0.0625, "tifffile": 0.0625, "Pillow": 0.9375}
PYTHON
