#!/usr/bin/env bash
# Pillow 13.0.0 changes values of two kinds of picture without an error or a warning: a signed 16-bit
# JPEG 2000 comes out 32768 too large, and a PGM whose white is 4095 is stretched to 65535. imagecodecs
# 2026.3.6 keeps the signed values. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 pillow==13.0.0 imagecodecs==2026.3.6
cd "$work"
venv/bin/python - <<'PYTHON'
import io

import imagecodecs
import numpy as np
from PIL import Image


def pillow(content):
    return np.asarray(Image.open(io.BytesIO(content)))


signed = np.full((64, 64), -3000, np.int16)
content = imagecodecs.jpeg2k_encode(signed, level=0, reversible=True, codecformat="jp2")
kept, shifted = (int(a[0, 0]) for a in (imagecodecs.jpeg2k_decode(content), pillow(content)))
print("JPEG 2000, -3000: imagecodecs", kept, "Pillow", shifted)
assert (kept, shifted) == (-3000, 29768)

grey = np.array([[0, 1000, 4095]], ">u2")
pgm = pillow(b"P5\n3 1\n4095\n" + grey.tobytes())
print("PGM with white 4095:", grey[0].tolist(), "Pillow:", pgm[0].tolist())
assert pgm[0].tolist() == [0, 16004, 65535]
PYTHON
