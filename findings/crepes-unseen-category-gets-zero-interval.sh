#!/usr/bin/env bash
# crepes 0.9.1 with Mondrian categories (an interval's width from the calibration cases of the same
# category, such as scanner or site): a test case of a category that no calibration case had gets
# the interval [0, 0], whatever was predicted for it, without an error or a warning. A category with
# too few cases does get an infinite interval and a warning. The same from ConformalRegressor,
# ConformalPredictiveSystem and WrapRegressor. A second thing: where level times (n + 1) is whole,
# 0.8 and 0.9 take one calibration error more than needed (9 cases at 0.9: infinite, though the
# largest error would do); 0.95 does not. MAPIE 1.6.0 takes the needed one, and refuses 9 cases.
# November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet crepes==0.9.1 mapie==1.6.0 numpy==2.4.6 scikit-learn==1.9.1
cd "$work"
venv/bin/python -W error - <<'PYTHON'
import warnings
from fractions import Fraction
from math import ceil

import numpy as np
from crepes import ConformalPredictiveSystem, ConformalRegressor, WrapRegressor
from mapie.regression import SplitConformalRegressor
from sklearn.dummy import DummyRegressor

errors = np.random.default_rng(0).normal(size=100)
sites = np.repeat(["A", "B"], 50)
for kind in (ConformalRegressor, ConformalPredictiveSystem):
    calibrated = kind()
    calibrated.fit(residuals=errors, bins=sites)
    asked = {"bins": np.array(["A", "B", "C"]), "confidence": 0.9}
    intervals = calibrated.predict_int(np.full(3, 30.0), **asked)
    print(kind.__name__, "30 predicted at A, B and the unseen C:", intervals.round(2).tolist())
    assert (intervals[:2, 0] > 25).all() and (intervals[:2, 1] < 35).all()
    assert intervals[2].tolist() == [0, 0]

predictor = WrapRegressor(DummyRegressor(strategy="constant", constant=30.0))
predictor.fit(np.zeros((2, 1)), [0, 0])
site_numbers = np.repeat([[0.0], [1.0]], 50, axis=0)
predictor.calibrate(site_numbers, 30 + errors, mc=lambda features: features[:, 0].astype(int))
unseen = predictor.predict_int(np.array([[2.0]]), confidence=0.9)
print("WrapRegressor:", unseen.tolist())
assert unseen.tolist() == [[0, 0]]

calibrated = ConformalRegressor()
calibrated.fit(residuals=errors[:53], bins=np.repeat([0, 1], [50, 3]))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    few = calibrated.predict_int(np.full(1, 30.0), bins=np.array([1]), confidence=0.9)
print("3 cases in the category:", few.tolist(), "warnings:", len(caught))
assert few.tolist() == [[-np.inf, np.inf]] and len(caught) == 1


def by_crepes(count, level):
    calibrated = ConformalRegressor()
    calibrated.fit(residuals=np.arange(1.0, count + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(calibrated.predict_int(np.zeros(1), confidence=level)[0, 1])


def by_mapie(count, level):
    zeros = np.zeros((count, 1))
    model = DummyRegressor(strategy="constant", constant=0.0).fit(zeros, zeros[:, 0])
    calibrated = SplitConformalRegressor(model, confidence_level=level, prefit=True)
    calibrated.conformalize(zeros, np.arange(1.0, count + 1))
    try:
        return float(calibrated.predict_interval(zeros[:1])[1][0, 1, 0])
    except ValueError:
        return "refused"


seen = {}
for count, level in ((9, "0.9"), (49, "0.8"), (49, "0.9"), (50, "0.9"), (39, "0.95")):
    needed = ceil((count + 1) * Fraction(level))
    seen[count, level] = [needed, by_crepes(count, float(level)), by_mapie(count, float(level))]
    print(count, "errors 1, 2, 3, ..., level", level, "needed, crepes, MAPIE:", seen[count, level])
assert seen == {
    (9, "0.9"): [9, np.inf, "refused"],
    (49, "0.8"): [40, 41, 40],
    (49, "0.9"): [45, 46, 45],
    (50, "0.9"): [46, 46, 46],
    (39, "0.95"): [38, 38, 38],
}
PYTHON
