"""All figures of pairs: errors, limit of quantitation, and intervals by resampling patients."""

import numpy as np
import pytest

from tests.serve.agreement import known
from wsseg.serve.agreement.figures import FIGURES, FigureName, Pairs, figures
from wsseg.serve.agreement.resampling import Resampler, limit_of_quantitation

N = 240


def pairs(measured, recorded, patient=None):
    patient = np.arange(len(measured)) if patient is None else patient
    return Pairs(np.asarray(measured), tuple((each,) for each in recorded), patient)


@pytest.fixture(scope="module")
def recorded():
    return np.random.default_rng(3).uniform(0.005, 0.4, N)


@pytest.fixture(scope="module")
def measured(recorded):
    """The error has an SD of 0.004, and besides of 5 % of the ratio."""
    random = np.random.default_rng(4)
    return recorded + 0.004 * random.normal(size=N) + 0.05 * recorded * random.normal(size=N)


def test_errors_are_the_mean_absolute_and_the_root_mean_square_difference(measured, recorded):
    found = figures(pairs(measured, recorded))
    d = measured - recorded
    assert found["mean_absolute_error"].value == pytest.approx(np.abs(d).mean())
    assert found["root_mean_square_error"].value == pytest.approx(np.sqrt(np.square(d).mean()))
    names: tuple[FigureName, ...] = ("mean_absolute_error", "root_mean_square_error", "pearson")
    for name in names:
        value, low, high = known(found[name])
        assert low < value < high


def test_resampled_intervals_of_images_of_single_patients_are_near_the_formulas(measured, recorded):
    """Pairs of copies are half as many patients: resampled intervals widen as the formulas do."""
    single = figures(pairs(measured, recorded))
    copies = figures(
        pairs(np.repeat(measured, 2), np.repeat(recorded, 2), np.repeat(np.arange(N), 2))
    )
    names: tuple[FigureName, ...] = ("icc_2_1", "icc_3_1", "pearson")
    for name in names:
        value, low, high = known(copies[name])
        expected = known(single[name])
        assert value == pytest.approx(expected[0], abs=1e-3)
        assert high - low == pytest.approx(expected[2] - expected[1], rel=0.25)


def test_the_limit_of_quantitation_is_where_the_error_of_95_percent_falls_below_the_share(
    measured, recorded
):
    found = figures(pairs(measured, recorded), loq_error=0.3)["limit_of_quantitation"]
    # 1.96 * sd(x) = 0.3 x for sd(x) = 0.004 + 0.05 x * 0.8 or so.
    value, low, high = known(found)
    assert 0.015 < value < 0.05
    assert low < value < high
    beyond = recorded >= value
    within = np.abs(measured - recorded)[beyond] <= 0.3 * recorded[beyond]
    assert within.mean() > 0.95


def test_a_limit_of_quantitation_that_is_not_reached_is_none_with_the_reason(recorded):
    random = np.random.default_rng(5)
    wild = recorded * (1 + 0.5 * random.normal(size=N))
    found = figures(pairs(wild, recorded), loq_error=0.3)["limit_of_quantitation"]
    assert found.value is None
    assert "still exceeds 30 %" in found.note


def test_a_limit_of_quantitation_of_too_few_patients_has_no_interval_and_the_reason(
    measured, recorded
):
    few = np.arange(N) % 9
    found = figures(pairs(measured, recorded, few), loq_error=0.3)["limit_of_quantitation"]
    assert found.value is not None
    assert (found.low, found.high) == (None, None)
    assert "no interval: it takes at least 10 patients" in found.note


def test_recorded_zeros_do_not_change_the_limit_of_quantitation(measured, recorded):
    with_zeros = np.append(measured, [0.1] * 5), np.append(recorded, [0.0] * 5)
    alone, besides = (
        limit_of_quantitation(m, r, Resampler(np.arange(len(m))), error=0.3).value
        for m, r in ((measured, recorded), with_zeros)
    )
    assert besides == pytest.approx(alone)


def test_equal_pairs_give_equal_figures(measured, recorded):
    assert figures(pairs(measured, recorded)) == figures(pairs(measured, recorded))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 25])
@pytest.mark.parametrize("kind", ["equal", "constant", "one ratio", "one patient"])
def test_what_does_not_exist_is_none_with_a_reason_and_never_nan(n, kind, recorded):
    x = np.full(n, 0.2) if kind == "one ratio" else recorded[:n]
    y = x + 0.05 if kind == "constant" else x
    found = figures(pairs(y, x, np.zeros(n, int) if kind == "one patient" else None))
    assert tuple(found) == FIGURES
    for name, each in found.items():
        if each.value is None:
            assert each.note, name
        for number in (each.value, each.low, each.high, each.p):
            assert number is None or np.isfinite(number), name
