"""The confidence in a ratio: how probable it is that its error is within a tolerance.

A logistic curve is fitted to the calibration cases. It depends on how many scales of the error the
tolerance is, and on the ratio, because the error of a small region is seldom within a tenth of it.
A ridge keeps it away from 0 and 1 where there are few groups. It is an estimate: unlike the
coverage of an interval, nothing guarantees it.
"""

import numpy as np
from numpy.typing import NDArray

from wsseg.serve.manifest import ConfidenceCurve

TOLERANCE = 0.1
"""Share of the ratio that its error may have."""
LEAST_TOLERANCE = 1e-3
"""The least error that is allowed: a tenth of nothing is nothing."""
RIDGE = 1.0
"""Of each standardised coefficient: as much as one group weighs."""
STEPS = 500
SMALL = 1e-9
"""Step after which the coefficients no longer change in the digits that are kept."""
DIGITS = 6
"""Decimals of a coefficient, so that the last bits of another processor do not show."""

Floats = NDArray[np.float64]


def tolerance(ratios: Floats) -> Floats:
    """The largest error (n,) of ratios that counts as within, in units of the ratio."""
    return np.maximum(TOLERANCE * ratios, LEAST_TOLERANCE)


def confidence(curve: ConfidenceCurve, ratios: Floats, scales: Floats) -> Floats:
    """The probability (n,) that the error of a ratio is within its tolerance; NaN for NaN.

    ratios, scales: (n,) in units of the ratio.
    """
    coefficients = np.array([curve.intercept, curve.of_tolerance, curve.of_ratio])
    return _logistic(_features(ratios, scales) @ coefficients)


def fit_curve(errors: Floats, scales: Floats, ratios: Floats, weights: Floats) -> ConfidenceCurve:
    """The curve of n cases, all arrays (n,). weights: 1 over the number of cases of the group.

    Minimises the weighted cross-entropy with a ridge on standardised features. Each step uses the
    largest curvature that a logistic curve can have, so that none overshoots (Böhning and Lindsay,
    Annals of the Institute of Statistical Mathematics 1988).
    """
    within = errors <= tolerance(ratios)
    plain = _features(ratios, scales)
    mean = np.average(plain, axis=0, weights=weights)
    deviation = np.sqrt(np.average((plain - mean) ** 2, axis=0, weights=weights))
    mean[0], deviation[deviation < 1e-9] = 0.0, 1.0
    features = (plain - mean) / deviation
    curvature = features.T @ (features * weights[:, None]) / 4 + RIDGE * np.eye(3)
    inverse = np.linalg.inv(curvature)
    fitted = np.zeros(3)
    for _ in range(STEPS):
        surplus = weights * (_logistic(features @ fitted) - within)
        step = inverse @ (features.T @ surplus + RIDGE * fitted)
        fitted -= step
        if abs(step).max() < SMALL:
            break
    slopes = fitted / deviation
    slopes[0] = fitted[0] - slopes[1:] @ mean[1:]
    intercept, of_tolerance, of_ratio = np.round(slopes, DIGITS).tolist()
    return ConfidenceCurve(intercept=intercept, of_tolerance=of_tolerance, of_ratio=of_ratio)


def _features(ratios: Floats, scales: Floats) -> Floats:
    """One, and what `ConfidenceCurve` multiplies (n, 3)."""
    within = np.log(tolerance(ratios) / scales)
    return np.stack([np.ones_like(within), within, np.log(ratios + LEAST_TOLERANCE)], axis=1)


def _logistic(values: Floats) -> Floats:
    # Not 1 / (1 + exp(-x)), which overflows where an unusual case lies far down the curve.
    half: Floats = np.tanh(values / 2)
    return (1 + half) / 2
