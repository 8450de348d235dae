#!/usr/bin/env bash
# statsmodels 0.15.0, mean_diff_plot (Bland and Altman's plot). Of two pandas Series it takes the
# differences by index and the means by position: with the same cases in another order the points
# belong to no case, without an error or a warning. Its limits of agreement divide by n, not n - 1
# (in 5 pairs they are 11 % too narrow). And the axis ends at 1.5 times the limits: the outlier that
# widened them lies outside of the picture. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet matplotlib==3.11.2 numpy==2.4.6 pandas==3.1.1 scipy==1.17.1 \
    statsmodels==0.15.0
cd "$work"
export MPLBACKEND=agg MPLCONFIGDIR=$work
venv/bin/python -W error - <<'PYTHON'
import numpy as np
import pandas as pd
from statsmodels.graphics.agreement import mean_diff_plot


def drawn(first, second):
    """Return the points, the lower and upper limit, and the range of the axis."""
    axes = mean_diff_plot(first, second).axes[0]
    limits = [float(line.get_ydata()[0]) for line in axes.lines[1:]]
    return np.asarray(axes.collections[0].get_offsets()), limits, axes.get_ylim()


one = pd.Series([0.1, 0.2, 0.3, 0.4], index=["p1", "p2", "p3", "p4"])
two = pd.Series([0.15, 0.15, 0.35, 0.35], index=["p1", "p2", "p3", "p4"])
points, _, _ = drawn(one, two)
turned, _, _ = drawn(one, two[::-1])
print("mean and difference of p1 to p4:", points.round(3).tolist())
print("second reader in the order p4 to p1:", turned.round(3).tolist())
assert np.allclose(points, [[0.125, -0.05], [0.175, 0.05], [0.325, -0.05], [0.375, 0.05]])
assert np.allclose(turned, [[0.225, -0.05], [0.275, 0.05], [0.225, -0.05], [0.275, 0.05]])

first, second = np.array([10.0, 12, 15, 11, 14]), np.array([9.0, 13, 13, 12, 11])
_, limits, _ = drawn(first, second)
differences = first - second
by = {d: float(2 * 1.96 * differences.std(ddof=d)) for d in (0, 1)}
print("limits:", np.round(limits, 3).tolist(), "width by n and by n - 1:", by)
assert np.isclose(limits[1] - limits[0], by[0]) and by[0] < 0.9 * by[1]

reference = np.linspace(0.1, 0.9, 30)
measured = reference + np.tile([0.01, -0.01], 15)
measured[7] = reference[7] + 0.5
points, limits, axis = drawn(measured, reference)
outside = [number for number, point in enumerate(points) if not axis[0] <= point[1] <= axis[1]]
print("limits with an outlier of 0.5:", np.round(limits, 3), "axis:", np.round(axis, 3))
print("cases outside of the axis:", outside)
assert outside == [7]
PYTHON
