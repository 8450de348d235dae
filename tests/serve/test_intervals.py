"""Intervals hold what was recorded as often as they state, for cases of groups not seen before."""

import math

import numpy as np
import pytest
from crepes import ConformalRegressor
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from tests.serve.conftest import (
    RATIOS,
    make_manifest,
    rows,
    run,
    write_model,
    write_pictures,
)
from wsseg.imaging import WssegError
from wsseg.imaging.definitions import PixelCounts
from wsseg.serve.intervals import (
    FLOOR,
    SoftAreas,
    calibrated,
    groups_needed,
    intervals_of,
    measured_ratio,
    quantile,
)
from wsseg.serve.manifest import Calibration, RatioCalibration
from wsseg.serve.options import InferOptions

SHARE = RATIOS[0]


def calibration_of(errors, groups=None, scales=None, ratios=None, name=SHARE.name):
    """A calibration from errors; by default of cases of one group each, all of scale 1."""
    errors = np.asarray(errors, float)
    ones = np.ones(len(errors))
    groups = [str(index) for index in range(len(errors))] if groups is None else groups
    return calibrated(
        name, errors, ones if scales is None else scales, ones if ratios is None else ratios, groups
    )


def manifest_with(*ratios: RatioCalibration):
    return make_manifest(calibration=whole(*ratios))


def whole(*ratios):
    return Calibration(cases_sha256="", left_out=0, engine_sha256="", floor=FLOOR, ratios=ratios)


# Coverage, exactly: whichever of the groups is the new one, all others are the calibration.


@given(
    scores=st.lists(st.floats(0, 10), min_size=10, max_size=40, unique=True),
    coverage=st.floats(0.05, 0.9),
)
def test_of_n_equal_cases_and_a_new_one_the_stated_share_is_covered_exactly(scores, coverage):
    count = len(scores)
    covered = [
        score <= quantile(calibration_of(scores[:place] + scores[place + 1 :]), coverage)
        for place, score in enumerate(scores)
    ]
    assert sum(covered) == math.ceil(coverage * count - 1e-9)


several = st.lists(st.lists(st.floats(0, 10), min_size=1, max_size=6), min_size=10, max_size=20)


@given(groups=several, coverage=st.floats(0.05, 0.9))
def test_a_case_of_a_new_group_is_covered_as_stated_however_large_the_groups_are(groups, coverage):
    shares = []
    for place, own in enumerate(groups):
        others = groups[:place] + groups[place + 1 :]
        errors = [score for group in others for score in group]
        names = [str(index) for index, group in enumerate(others) for _ in group]
        reach = quantile(calibration_of(errors, names), coverage)
        shares.append(np.mean([score <= reach for score in own]))
    assert np.mean(shares) >= coverage - 1e-9


def test_many_images_of_one_patient_count_as_one():
    patients = [*map(str, range(1, 20)), *["many"] * 500]
    errors = [*range(1, 20), *[0.5] * 500]
    assert quantile(calibration_of(errors, patients), 0.9) == 18
    assert quantile(calibration_of(errors), 0.9) == 0.5


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_without_groups_intervals_are_those_of_crepes(coverage):
    random = np.random.default_rng(0)
    errors, scales = random.exponential(0.1, 97), random.uniform(0.01, 0.3, 97)
    new, new_scales = random.uniform(0, 1, 20), random.uniform(0.01, 0.3, 20)
    reference = ConformalRegressor().fit(errors, sigmas=scales)
    low, high = reference.predict_int(
        new, sigmas=new_scales, confidence=coverage, y_min=0, y_max=1
    ).T
    half = quantile(calibration_of(errors, scales=scales), coverage) * new_scales
    np.testing.assert_allclose(np.maximum(new - half, 0), low, atol=1e-12)
    np.testing.assert_allclose(np.minimum(new + half, 1), high, atol=1e-12)


# How many groups a coverage takes.


@pytest.mark.parametrize(("coverage", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19)])
def test_a_coverage_takes_the_groups_that_reach_it(coverage, needed):
    assert groups_needed(coverage) == needed
    assert quantile(calibration_of(range(1, needed + 1)), coverage) == needed
    if needed > 1:
        with pytest.raises(WssegError, match="takes"):
            quantile(calibration_of(range(1, needed)), coverage)


def test_too_few_groups_are_an_error_that_says_how_many_it_takes():
    manifest = manifest_with(calibration_of(range(12)))
    with pytest.raises(WssegError) as error:
        intervals_of(manifest, 0.95)
    assert str(error.value) == (
        f"a coverage of 0.95 takes 19 groups (patients) with recorded ratios, and {SHARE.name} was "
        "calibrated on 12: ask for 0.923 or less, or calibrate on more"
    )
    assert intervals_of(manifest, 0.923)


def test_a_model_without_calibration_has_no_intervals_and_says_so_if_they_are_asked_for():
    assert intervals_of(make_manifest(), None) is None
    with pytest.raises(WssegError, match=r"no intervals.*wsseg-export with --calibrate cases\.csv"):
        intervals_of(make_manifest(), 0.9)


@pytest.mark.parametrize("coverage", [0, 1, 90, -0.5])
def test_a_coverage_lies_between_0_and_1(tmp_path, coverage):
    with pytest.raises(ValidationError, match="coverage"):
        InferOptions(model=tmp_path, coverage=coverage)


# Scale.


def soft(area, variance):
    return SoftAreas(np.array([area], np.float32), np.array([variance], np.float32))


def scale_of(counts, areas, definition=SHARE):
    measured = measured_ratio(definition, ("bright", "brightest"), counts, areas)
    return float(measured.scale()[0])


def counts(*classes, foreground, image):
    return PixelCounts(np.array([classes]), np.array([foreground]), image)


def test_the_scale_does_not_depend_on_the_resolution():
    coarse = scale_of(counts(40, 10, foreground=40, image=400), soft((50, 9), (12, 3)))
    fine = scale_of(counts(160, 40, foreground=160, image=1600), soft((200, 36), (48, 12)))
    assert fine == pytest.approx(coarse, rel=1e-6)
    assert coarse == pytest.approx(12 / 400 / math.sqrt(50 / 400), rel=1e-6)


def test_a_decided_slice_has_the_least_scale_and_an_unknown_one_none():
    pixels = counts(0, 0, foreground=0, image=400)
    assert scale_of(pixels, soft((0, 0), (0, 0))) == FLOOR
    assert math.isnan(scale_of(pixels, SoftAreas.unknown(1, 2)))


def test_the_doubt_about_a_denominator_widens_the_interval():
    pixels = counts(40, 10, foreground=40, image=400)
    within = next(ratio for ratio in RATIOS if ratio.denominator == "bright")
    sure = scale_of(pixels, soft((40, 9), (0, 3)), within)
    unsure = scale_of(pixels, soft((40, 9), (12, 3)), within)
    assert sure < unsure


# In the report.


@pytest.fixture
def calibrated_model(tmp_path):
    """The threshold model with a calibration of its first ratio."""
    errors = np.linspace(0.01, 0.4, 20)
    one = calibration_of(errors, scales=np.full(20, 0.1), ratios=np.full(20, 0.3))
    return write_model(tmp_path / "model", calibration=whole(one))


def test_the_report_has_an_interval_around_each_calibrated_ratio(calibrated_model, tmp_path):
    scans = write_pictures(tmp_path / "scans", 4)
    run(calibrated_model, tmp_path / "ratios.csv", scans)
    run(calibrated_model, tmp_path / "wide.csv", scans, coverage=0.95)
    narrow, wide = rows(tmp_path / "ratios.csv"), rows(tmp_path / "wide.csv")
    for one, other in zip(narrow, wide, strict=True):
        ends = [one["ratio_low"], one["ratio_high"], one["confidence"]]
        if one["ratio_name"] != SHARE.name:
            assert ends == ["", "", ""]
            continue
        low, high, confidence = map(float, ends)
        assert 0 <= low <= float(one["ratio"]) <= high <= 1
        assert float(other["ratio_low"]) <= low
        assert high < float(other["ratio_high"])
        assert 0 <= confidence <= 1
        assert other["confidence"] == one["confidence"]


def test_a_second_run_writes_the_same_bytes(calibrated_model, tmp_path):
    scans = write_pictures(tmp_path / "scans", 3)
    for name in ("a.csv", "b.csv"):
        run(calibrated_model, tmp_path / name, scans)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_skipped_slice_has_no_interval(calibrated_model, tmp_path):
    scans = write_pictures(tmp_path / "scans", 1)
    Image.new("L", (80, 80)).save(scans / "black.png")
    run(calibrated_model, tmp_path / "ratios.csv", scans)
    table = [row for row in rows(tmp_path / "ratios.csv") if row["ratio_name"] == SHARE.name]
    assert [bool(row["ratio_low"]) for row in table] == ["SKIPPED" not in r["flags"] for r in table]
    assert {bool(row["ratio_low"]) for row in table} == {True, False}


def test_a_slice_less_sure_than_nineteen_of_twenty_is_flagged(tmp_path):
    scans = write_pictures(tmp_path / "scans", 1)
    flags: list[set[str]] = []
    none, large = np.zeros(20), np.geomspace(9, 1, 20)
    for scale, ratios in ((FLOOR / 3, none), (FLOOR * 4 / 3, large), (FLOOR * 4 / 3, none)):
        one = calibration_of(np.linspace(0.01, 0.4, 20), scales=none + scale, ratios=ratios)
        model = write_model(tmp_path / f"model-{len(flags)}", calibration=whole(one))
        run(model, tmp_path / "ratios.csv", scans, overwrite=True)
        (row,) = (r for r in rows(tmp_path / "ratios.csv") if r["ratio_name"] == SHARE.name)
        flags.append(set(row["flags"].split(";")) & {"WIDE_INTERVAL", "LOW_CONFIDENCE"})
    assert flags == [{"WIDE_INTERVAL"}, {"LOW_CONFIDENCE"}, set()]


def test_a_calibration_of_a_ratio_that_the_model_lacks_is_refused():
    with pytest.raises(ValidationError, match="names a ratio that the model does not have"):
        manifest_with(calibration_of(range(9), name="another"))


def test_scores_that_do_not_ascend_are_refused():
    changed = calibration_of(range(9)).model_dump() | {"scores": (2, 1), "weights": (1, 1)}
    with pytest.raises(ValidationError, match="scores must ascend, with a weight each"):
        RatioCalibration.model_validate(changed)
