"""Agreement statistics against examples that were published, and where they do not exist."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.serve.agreement import known
from wsseg.serve.agreement.estimates import (
    Estimate,
    bias,
    describe,
    exact_factors,
    icc_agreement,
    icc_consistency,
    limits,
    mean_squares,
    repeatability,
    slope,
    within_variance,
)

# Shrout & Fleiss 1979, table 2: six targets, four judges.
JUDGES = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)
# Bland & Altman 1986, table 1: peak expiratory flow (l/min) of 17 subjects, two meters, twice.
WRIGHT = np.array(
    [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427.0]
)
WRIGHT_AGAIN = np.array(
    [490, 397, 512, 401, 470, 611, 415, 431, 638, 429, 420, 633, 275, 492, 165, 372, 421.0]
)
MINI = np.array(
    [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451.0]
)
MINI_AGAIN = np.array(
    [525, 415, 508, 444, 500, 625, 460, 390, 642, 432, 420, 605, 227, 467, 268, 370, 443.0]
)
# Zou 2013, of Bland & Altman 1999: cardiac output of four subjects by two methods, in pairs.
SUBJECT = np.repeat([1, 2, 3, 4], [5, 4, 6, 5])
RV = "7.83 7.42 7.89 7.12 7.88 6.16 7.26 6.71 6.54 4.75 5.24 4.86 4.78 6.05 5.42"
IC = "6.57 5.62 6.90 6.57 6.35 4.06 4.29 4.26 4.09 4.71 5.50 5.08 5.02 6.01 5.67"
CARDIAC = np.array(f"{RV} 4.21 3.61 3.72 3.87 3.92".split(), float) - np.array(
    f"{IC} 4.14 4.20 4.61 4.68 5.04".split(), float
)


def rounded(found: Estimate, digits: int = 2) -> tuple[float, ...]:
    return tuple(round(each, digits) for each in known(found))


def test_icc_of_shrout_and_fleiss_is_theirs():
    assert rounded(icc_agreement(JUDGES)) == (0.29, 0.02, 0.76)
    assert rounded(icc_consistency(JUDGES)) == (0.71, 0.34, 0.95)


def test_mean_squares_are_those_of_the_analysis_of_variance_of_statsmodels():
    import pandas
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    rows, columns = (each.ravel() for each in np.indices(JUDGES.shape))
    data = pandas.DataFrame({"y": JUDGES.ravel(), "image": rows, "method": columns})
    table = anova_lm(ols("y ~ C(image) + C(method)", data).fit())
    found = mean_squares(JUDGES)
    np.testing.assert_allclose((found.images, found.methods, found.rest), table["mean_sq"])


def test_bias_and_limits_of_the_flow_meters_are_those_of_bland_and_altman():
    found = describe(WRIGHT - MINI, np.arange(17))
    assert rounded(bias(found), 1) == (-2.1, -22.0, 17.8)
    assert round(found.sd, 1) == 38.8
    low, high = limits(found)
    # Their limits are 2 SD from the bias.
    assert round(found.mean - 2 * found.sd, 1) == -79.6
    assert low.value == pytest.approx(found.mean - 1.96 * found.sd, abs=0.01)
    assert high.value == pytest.approx(found.mean + 1.96 * found.sd, abs=0.01)


def test_repeatability_of_the_flow_meters_is_that_of_bland_and_altman():
    wright = np.column_stack([WRIGHT, WRIGHT_AGAIN]).tolist()
    mini = np.column_stack([MINI, MINI_AGAIN]).tolist()
    assert round(within_variance(wright)[0] ** 0.5, 1) == 15.3
    assert round(within_variance(mini)[0] ** 0.5, 1) == 19.9
    assert rounded(repeatability(wright), 1)[0] == 42.4
    assert rounded(repeatability(mini), 1)[0] == 55.2


def test_limits_of_several_images_a_patient_are_those_of_zou():
    low, high = limits(describe(CARDIAC, SUBJECT))
    assert round(describe(CARDIAC, SUBJECT).mean, 4) == 0.7255
    assert rounded(low, 1) == (-2.1, -9.8, -0.3)
    assert rounded(high, 1) == (3.6, 1.8, 11.3)


def test_readings_that_were_averaged_widen_the_limits_to_those_of_single_readings():
    """Bland & Altman 1999, equation 5.3: var(mean differences) + (1 - 1/2) within both methods."""
    means = (WRIGHT + WRIGHT_AGAIN) / 2
    readings = np.column_stack([MINI, MINI_AGAIN]).tolist()
    found = describe(means - (MINI + MINI_AGAIN) / 2, np.arange(17), readings)
    single = np.var(means - (MINI + MINI_AGAIN) / 2, ddof=1) + 0.5 * 19.9108**2
    assert found.sd == pytest.approx(single**0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("n", "share", "factor"),
    [(5, 0.95, 4.203), (10, 0.95, 2.911), (10, 0.99, 3.981), (20, 0.99, 3.295), (50, 0.95, 2.065)],
)
def test_exact_factors_are_the_tolerance_factors_of_the_published_tables(n, share, factor):
    """Natrella, Experimental Statistics (NBS Handbook 91), table A-7, confidence 0.95."""
    found = exact_factors(n, z=stats.norm.ppf(share), tail=0.05)[1]
    assert found == pytest.approx(factor, abs=0.002)


@pytest.mark.parametrize("n", [3, 10, 100])
def test_each_end_of_a_limit_misses_the_true_limit_in_one_sample_of_40(n):
    inner, outer = exact_factors(n)
    samples = np.random.default_rng(1).normal(size=(40_000, n))
    mean, sd = samples.mean(1), samples.std(1, ddof=1)
    assert np.mean(mean + outer * sd < 1.959964) == pytest.approx(0.025, abs=0.003)
    assert np.mean(mean + inner * sd > 1.959964) == pytest.approx(0.025, abs=0.003)


def test_slope_of_images_of_one_patient_each_is_that_of_scipy():
    found = slope(WRIGHT, WRIGHT - MINI, np.arange(17))
    expected = stats.linregress(WRIGHT, WRIGHT - MINI)
    assert found.value == pytest.approx(expected.slope)
    assert found.p == pytest.approx(expected.pvalue)
    value, _, high = known(found)
    assert high - value == pytest.approx(stats.t.ppf(0.975, 15) * expected.stderr)


def test_copies_of_an_image_do_not_make_its_slope_more_certain():
    alone = known(slope(WRIGHT, WRIGHT - MINI, np.arange(17)))
    copied = known(slope(*(np.repeat(each, 4) for each in (WRIGHT, WRIGHT - MINI, np.arange(17)))))
    assert copied[0] == pytest.approx(alone[0])
    assert copied[2] - copied[1] > 0.7 * (alone[2] - alone[1])


def test_readers_who_agree_get_a_coefficient_of_1_and_a_reason_in_place_of_an_interval():
    same = np.column_stack([MINI, MINI])
    for found in (icc_agreement(same), icc_consistency(same)):
        assert (found.value, found.low, found.high) == (1, None, None)
        assert "agree in every image" in found.note


def test_a_constant_difference_lowers_agreement_and_not_consistency():
    apart = np.column_stack([MINI, MINI + 30])
    value, low, high = known(icc_agreement(apart))
    assert low < value < high < 1
    assert icc_consistency(apart).value == 1
    assert "same amount" in icc_consistency(apart).note


def test_images_of_one_ratio_have_no_coefficient_and_the_reason_is_given():
    found = icc_agreement(np.full((5, 2), 0.1))
    assert (found.value, found.low, found.high) == (None, None, None)
    assert "same ratio" in found.note


def test_an_interval_that_would_be_upside_down_is_left_out_and_the_reason_is_given():
    found = icc_agreement(np.array([[0.2, 0.1], [0.1, 0.2], [0.3, 0.05]]))
    assert found.value is not None
    assert found.value < 0
    assert (found.low, found.high) == (None, None)
    assert "fails" in found.note


ratio = st.sampled_from([0.0, 1e-12, 0.1, 0.1 + 1e-16, 0.2, 0.3, 0.999999, 1.0]) | st.floats(0, 1)


@given(st.lists(st.tuples(ratio, ratio), min_size=3, max_size=12))
def test_every_interval_of_a_coefficient_holds_it_and_is_the_right_way_up(pairs):
    for found in (icc_agreement(np.array(pairs)), icc_consistency(np.array(pairs))):
        if found.low is None:
            assert found.note
        else:
            value, low, high = known(found)
            assert low <= value <= high <= 1


@given(st.lists(st.tuples(ratio, ratio), min_size=3, max_size=12), st.integers(2, 5))
def test_every_limit_lies_within_its_interval(pairs, patients):
    differences = np.array([a - b for a, b in pairs])
    for patient in (np.arange(len(pairs)), np.arange(len(pairs)) % patients):
        for found in limits(describe(differences, patient)):
            if not found.note:
                value, low, high = known(found)
                assert low <= value <= high
