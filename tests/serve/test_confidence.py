"""Confidence is the share of ratios whose error is within a tenth, and stays modest where little
is known."""

import numpy as np
import pytest
from scipy.optimize import minimize

from wsseg.serve.confidence import LEAST_TOLERANCE, RIDGE, confidence, fit_curve, tolerance


def made(count, seed=0):
    """Errors, scales and ratios; the error of a small region is larger than its scale tells."""
    rng = np.random.default_rng(seed)
    ratios = np.exp(rng.uniform(np.log(0.01), np.log(0.5), count))
    scales = ratios * rng.uniform(0.02, 0.3, count)
    errors = abs(rng.normal(size=count)) * scales * (0.1 / ratios) ** 0.3
    return errors, scales, ratios


def curve_of(count):
    errors, scales, ratios = made(count)
    return fit_curve(errors, scales, ratios, np.ones(count))


def test_a_tenth_of_nothing_is_a_thousandth():
    np.testing.assert_allclose(tolerance(np.array([0, 0.005, 0.3])), [0.001, 0.001, 0.03])


def test_of_new_slices_with_equal_confidence_that_share_is_within_a_tenth():
    curve = curve_of(2000)
    errors, scales, ratios = made(20_000, seed=1)
    said = confidence(curve, ratios, scales)
    within = errors <= tolerance(ratios)
    for alike in np.array_split(np.argsort(said), 5):
        assert within[alike].mean() == pytest.approx(said[alike].mean(), abs=0.06)
    assert said.max() - said.min() > 0.5


def test_the_curve_has_the_least_cross_entropy_with_its_ridge():
    errors, scales, ratios = made(40)
    weights = np.repeat([1.0, 0.25], [20, 20])
    features = np.stack([np.log(tolerance(ratios) / scales), np.log(ratios + LEAST_TOLERANCE)], 1)
    mean = np.average(features, axis=0, weights=weights)
    features = (features - mean) / np.sqrt(np.average((features - mean) ** 2, 0, weights))

    def loss(b):
        values = b[0] + features @ b[1:]
        signs = np.where(errors <= tolerance(ratios), 1, -1)
        return weights @ np.logaddexp(0, -signs * values) + RIDGE / 2 * b @ b

    best = minimize(loss, np.zeros(3)).x
    expected = 1 / (1 + np.exp(-(best[0] + features @ best[1:])))
    curve = fit_curve(errors, scales, ratios, weights)
    np.testing.assert_allclose(confidence(curve, ratios, scales), expected, atol=1e-4)


def test_cases_of_one_group_count_as_one():
    errors, scales, ratios = (np.concatenate([each, each[:5]]) for each in made(30))
    once = fit_curve(errors[:30], scales[:30], ratios[:30], np.ones(30))
    halves = np.concatenate([np.full(5, 0.5), np.ones(25), np.full(5, 0.5)])
    twice = fit_curve(errors, scales, ratios, halves)
    np.testing.assert_allclose(
        confidence(twice, ratios, scales), confidence(once, ratios, scales), atol=1e-5
    )


@pytest.mark.parametrize("error", [0.0, 1.0])
def test_a_few_cases_that_agree_make_nothing_certain(error):
    curve = fit_curve(np.full(4, error), np.full(4, 0.01), np.full(4, 0.2), np.ones(4))
    sure = confidence(curve, np.array([0.2, 0.001, 0.9]), np.array([0.01, 0.5, 0.005]))
    assert np.all((sure > 0.1) & (sure < 0.9))


def test_an_unknown_scale_has_no_confidence():
    curve = curve_of(20)
    sure = confidence(curve, np.array([0.2, np.nan, 0.2]), np.array([np.nan, 0.01, 0.01]))
    assert np.isnan(sure).tolist() == [True, True, False]
