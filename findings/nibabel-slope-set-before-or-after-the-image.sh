#!/usr/bin/env bash
# nibabel 5.4.2: what header.set_slope_inter does depends on when it is called. Before Nifti1Image
# is made from that header the slope is dropped (whole numbers come back unscaled, fractions under a
# slope that nibabel chooses). After it, on image.header, the slope is written, but the array is
# rounded to the stored type without dividing by it: of probabilities under 1/255 and uint8 only 0
# and 0.0039 are left. Neither gives an error or a warning. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet nibabel==5.4.2 numpy==2.4.6
cd "$work"
venv/bin/python -W error - <<'PYTHON'
import nibabel as nib
import numpy as np


def read_back(values, slope, before):
    """Save under uint8 with a slope set before or after the image is made; return slope, values."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    if before:
        header.set_slope_inter(slope, 0)
    image = nib.Nifti1Image(values, np.eye(4), header)
    if not before:
        image.header.set_slope_inter(slope, 0)
    read = nib.Nifti1Image.from_bytes(image.to_bytes())
    return round(float(read.dataobj.slope), 6), np.asarray(read.dataobj)


probabilities = np.linspace(0, 0.9, 24, dtype=np.float32).reshape(2, 3, 4)
tenths = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
for before in (True, False):
    slope, read = read_back(probabilities, 1 / 255, before)
    error = float(np.abs(read - probabilities).max())
    when = "before" if before else "after"
    print(f"1/255 {when}: slope {slope}, {len(np.unique(read))} values, error up to {error:.4f}")
    whole, tens = read_back(tenths, 0.1, before)
    print(f"0.1 {when}: slope {whole}, 23 stored is read as {tens.max():.4f}")
    if before:
        assert slope == 0.003529 and error < 0.002 and (whole, tens.max()) == (1, 23)
    else:
        assert slope == 0.003922 and error > 0.89 and np.allclose(np.unique(read), [0, 1 / 255])
        assert whole == 0.1 and np.isclose(tens.max(), 2.3)
PYTHON
