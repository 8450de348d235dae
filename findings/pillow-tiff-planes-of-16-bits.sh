#!/usr/bin/env bash
# Pillow 13.0.0 opens a 16-bit RGB TIFF whose colours lie in planes of their own (PlanarConfiguration
# 2), and returns wrong pixels without an error or a warning if the file is uncompressed: it takes low
# and high bytes of one plane for neighbouring 8-bit pixels. The same pixels under zlib come out right.
# Pillow also reads int8 as unsigned and uint32 as signed. Written by tifffile 2026.3.3, November 2026.
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

rows, columns = np.mgrid[:50, :60]
planes = np.stack([columns * 4, rows * 5, rows + columns]).astype(np.uint16) * 256 + 77
for name, how in (("raw.tif", {}), ("zlib.tif", {"compression": "zlib"})):
    tifffile.imwrite(name, planes, photometric="rgb", planarconfig="separate", **how)
raw, zlib = (np.asarray(Image.open(name))[10, :6, 0].tolist() for name in ("raw.tif", "zlib.tif"))
print("red, upper bytes, stored:", (planes[0, 10, :6] >> 8).tolist())
print("under zlib:", zlib, " uncompressed:", raw)
assert zlib == [0, 4, 8, 12, 16, 20]
assert raw == [77, 0, 77, 4, 77, 8]

tifffile.imwrite("int8.tif", np.full((4, 4), -5, np.int8), photometric="minisblack")
tifffile.imwrite("uint32.tif", np.full((4, 4), 2**31 + 7, np.uint32), photometric="minisblack")
signed, unsigned = (int(np.asarray(Image.open(f))[0, 0]) for f in ("int8.tif", "uint32.tif"))
print("int8 -5 is read as", signed, "and uint32", 2**31 + 7, "as", unsigned)
assert (signed, unsigned) == (251, 7 - 2**31)
PYTHON
