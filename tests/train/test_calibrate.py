"""From which probability on a pixel counts: fitted to known areas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.train.conftest import prepared
from wsseg.imaging import RatioDefinition
from wsseg.train.calibration import AS_GOOD, CANDIDATES, DEFAULT, best_thresholds, fit_thresholds
from wsseg.train.cases import read_cases
from wsseg.train.config import TrainConfig
from wsseg.train.networks import last_layer
from wsseg.train.run_folder import load_run
from wsseg.train.trainer import train

CONFIG = TrainConfig(
    network="mobilenet_v2", size=32, epochs=1, batch=2, accelerator="cpu", precision="fp32"
)


def areas_of(maps: np.ndarray) -> np.ndarray:
    """Area ratio (n, k, candidates) of maps (n, k, pixels)."""
    return np.stack([(maps >= limit).mean(-1) for limit in CANDIDATES], -1)


def errors(found: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean absolute error of one class at each candidate."""
    there = ~np.isnan(known)
    spread: np.ndarray = np.abs(found[there, 0] - known[there, None]).mean(0)
    return spread


def test_the_candidates_have_the_middle_among_them():
    assert DEFAULT in CANDIDATES
    assert (CANDIDATES[0], CANDIDATES[-1]) == (0.3, 0.7)


@given(seed=st.integers(0, 500), count=st.integers(1, 8), unknown=st.integers(0, 3))
def test_the_threshold_errs_least_of_all_candidates_or_as_little(seed, count, unknown):
    random = np.random.default_rng(seed)
    found = areas_of(random.random((count + unknown, 1, 60)))
    known = random.random((count + unknown, 1))
    known[count:] = math.nan
    (threshold,) = best_thresholds(found, known)
    spread = errors(found, known[:, 0])
    (place,) = np.flatnonzero(threshold == CANDIDATES)
    assert spread[place] <= AS_GOOD * spread.min()
    # No candidate nearer to the middle is as good.
    nearer = np.abs(CANDIDATES - DEFAULT) < abs(threshold - DEFAULT) - 1e-9
    assert (spread[nearer] > AS_GOOD * spread.min()).all()


@given(true=st.sampled_from(CANDIDATES.tolist()), seed=st.integers(0, 50))
def test_the_threshold_that_gave_the_ratios_is_found(true, seed):
    maps = np.random.default_rng(seed).random((4, 1, 5000))
    (threshold,) = best_thresholds(areas_of(maps), (maps >= true).mean(-1))
    assert threshold == true


def test_it_stays_in_the_middle_where_that_is_as_good():
    # Nothing lies between 0.2 and 0.8: every candidate gives the same area.
    maps = np.repeat([0.1, 0.9], 50).reshape(1, 1, 100)
    assert best_thresholds(areas_of(maps), np.array([[0.5]])) == (DEFAULT,)
    assert best_thresholds(areas_of(maps), np.array([[0.1]])) == (DEFAULT,)


def test_classes_have_thresholds_of_their_own_and_the_middle_where_nothing_is_known():
    maps = np.random.default_rng(0).random((3, 3, 5000))
    known = np.stack([(maps[:, 0] >= 0.4).mean(-1), (maps[:, 1] >= 0.66).mean(-1)], -1)
    known = np.concatenate([known, np.full((3, 1), math.nan)], -1)
    assert best_thresholds(areas_of(maps), known) == (0.4, 0.66, DEFAULT)


def test_a_case_of_unknown_ratio_has_no_say():
    maps = np.random.default_rng(0).random((2, 1, 5000))
    known = np.array([[(maps[0] >= 0.42).mean()], [math.nan]])
    assert best_thresholds(areas_of(maps), known) == (0.42,)


@pytest.fixture(scope="module")
def table(make_blobs, tmp_path_factory):
    columns, known = "ratio,mask", ["ratio"] * 5 + ["mask"]
    return read_cases(make_blobs(tmp_path_factory.mktemp("blobs"), 6, 1, columns, known))


@torch.no_grad()
def _known_at(data, learner, limit):
    """Spread the network's maps over both sides of the middle, and let cases know the ratio that
    their map has from `limit` on."""
    weight, bias = last_layer(learner.predictor().network).parameters()
    samples = [data.train.item(place) for place in range(4)]
    images = learner.preprocess.normalise(torch.stack([sample.image for sample in samples]))
    logits = learner.predictor().network(images).logits
    weight.mul_(2 / logits.std())
    bias.copy_((bias - logits.mean()) * 2 / logits.std())
    maps = learner.predictor().network(images).logits.sigmoid()
    for sample, one in zip(samples, maps, strict=True):
        sample.ratio.fill_((one >= limit).float().mean())


def test_thresholds_are_fitted_to_the_training_ratios_of_the_averaged_network(table):
    data, learner = prepared(table, CONFIG)
    _known_at(data, learner, 0.6)
    assert fit_thresholds(learner, data.train) == (0.6,)


def test_ratios_of_another_denominator_leave_the_middle(table):
    of_foreground = RatioDefinition(name="roi", numerator="roi", denominator="foreground")
    config = CONFIG.model_copy(update={"ratios": (of_foreground,)})
    data, learner = prepared(table, config)
    _known_at(data, learner, 0.6)
    assert fit_thresholds(learner, data.train) == (DEFAULT,)


@pytest.mark.usefixtures("quick")
def test_a_record_carries_the_thresholds_that_were_fitted(table, tmp_path, monkeypatch):
    monkeypatch.setattr("wsseg.train.report.fit_thresholds", lambda learner, cases: (0.38,))
    assert train(table.path, tmp_path / "run", CONFIG).thresholds == (0.38,)
    assert load_run(tmp_path / "run").record.thresholds == (0.38,)
