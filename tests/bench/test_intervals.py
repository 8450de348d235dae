"""Coverage and width of intervals, on made cases whose errors follow their scale."""

from functools import partial

import numpy as np
import pytest

from bench.intervals.care import FORMS, care
from bench.intervals.confidence import reliability
from bench.intervals.held_out import TEMPERATURES, Cases
from bench.intervals.networks import Measured
from bench.intervals.ours import confidence, ours, quantile_of
from bench.intervals.report import by_size, comparison, shifts
from bench.intervals.study import divisions, figures, within

LEVEL = 0.9


def made(images: int = 200, per_group: int = 2, seed: int = 0) -> Cases:
    """Ratios with normal errors of a known scale; the network is sure of half of the images."""
    rng = np.random.default_rng(seed)
    scale = np.where(np.arange(images) % 2, 0.01, 0.05)
    measured = rng.uniform(0.3, 0.7, images)
    of_temperature = np.ones(len(TEMPERATURES))
    return Cases(
        group=(np.arange(images) // per_group).astype(str),
        kind=np.where(np.arange(images) % 4 < 2, "benign", "malignant"),
        pixels=np.full(images, 1e4),
        true=measured + scale * rng.normal(size=images),
        measured=measured,
        soft=measured,
        variance=np.full(images, 0.01),
        scale=scale,
        iou=np.full(images, 0.5),
        tempered_soft=measured[:, None] * of_temperature,
        tempered_variance=np.full((images, 1), 0.01) * of_temperature,
        calibration_error=np.full((images, 1), 0.02) * of_temperature,
        cross_entropy=np.full((images, 1), 0.1) * of_temperature,
        region=measured[:, None] * of_temperature,
    )


def test_no_group_calibrates_and_tests():
    cases = made(per_group=5)
    for calibration, test in divisions(cases, 0.5, count=10):
        assert not set(cases.group[calibration]) & set(cases.group[test])
        assert calibration.sum() == test.sum() == 100


@pytest.mark.parametrize(
    "form", [form for form in FORMS.values() if form.added != "calibration error"]
)
def test_care_covers_the_level_that_its_addition_is_chosen_for(form):
    method = partial(care, form, quantile=quantile_of)
    assert figures(within([made()], 0.5, 50), method, LEVEL).coverage == pytest.approx(
        LEVEL, abs=0.03
    )


def test_intervals_that_follow_the_error_are_narrower_than_care_at_the_same_coverage():
    pairs = within([made()], 0.5, 50)
    own = figures(pairs, ours, LEVEL)
    peer = figures(
        pairs, partial(care, FORMS["CARE for the level, not tempered"], quantile=quantile_of), LEVEL
    )
    assert own.coverage == pytest.approx(peer.coverage, abs=0.03)
    # 1.645 * 2 * the mean scale of 0.03, against the quantile of the mixture, 2 * 0.064.
    assert own.width == pytest.approx(0.099, rel=0.1)
    assert own.width < 0.85 * peer.width


def test_care_adds_the_quantile_of_the_calibration_errors_to_the_statistical_interval():
    cases = made()
    low, high = care(FORMS["CARE"], cases, cases, LEVEL, quantile_of)
    # 1.645 standard deviations of 1e4 independent pixels with a variance of 0.01, and 0.02.
    assert (high - low) / 2 == pytest.approx(1.645 * np.sqrt(0.01 / 1e4) + 0.02, abs=1e-4)


def test_confidence_is_the_share_of_errors_within_a_tenth():
    pairs = within([made(images=800)], 0.5, 20)
    curve = reliability(pairs)
    assert curve.error < 0.05
    assert curve.brier < curve.constant
    sure = np.concatenate([confidence(*pair) > 0.9 for pair in pairs])
    assert sure.any()
    assert not sure.all()


def test_too_few_groups_for_a_level_are_a_row_that_says_so():
    lines = list(comparison({"few": within([made(images=40, per_group=4)], 0.5, 2)}))
    assert [line.split(" | ")[1] for line in lines[2:]].count("0.9") == 1
    assert "takes 9 groups" in "\n".join(lines)


def test_sizes_are_thirds_of_the_measured_ratios():
    cases = made()
    large = cases.measured > np.quantile(cases.measured, 0.8)
    missed = Cases(**{**vars(cases), "true": cases.measured + large})
    rows = list(by_size({"made": [(cases, missed)]}, LEVEL))[2:]
    assert [float(row.split(" | ")[2][:5]) for row in rows] == pytest.approx([1, 1, 0.4], abs=0.02)


def test_a_shift_is_calibrated_on_the_images_as_they_are():
    cases = made()
    worse = Cases(**{**vars(cases), "true": cases.measured + 0.3})
    table = list(shifts([Measured("busi", cases, {"worse": worse})], LEVEL, count=5))
    coverage = {row.split(" | ")[0].strip("| "): row.split(" | ")[2][:5] for row in table[2:]}
    assert coverage["worse"] == "0.000"
    assert float(coverage["the same kind of images"]) > 0.8
