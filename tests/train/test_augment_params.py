"""What is drawn for a training picture, before it is applied."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsseg.train.config import Augmentation
from wsseg.train.data.augment import draw_params, largest_scale


@given(seed=st.integers(0, 1000))
def test_what_is_drawn_keeps_to_the_settings(seed):
    settings = Augmentation(turn=0.5, shrink=0.8, rotate_degrees=180)
    change = draw_params(settings, np.random.default_rng(seed))
    assert not change.flip_vertical
    assert 0.8 - 1e-9 <= change.scale <= largest_scale(change.degrees) + 1e-9
    assert abs(change.contrast) <= settings.contrast
    assert abs(change.brightness) <= settings.brightness
    assert 0 <= change.noise <= settings.noise


def test_about_half_of_the_samples_keep_their_scale():
    random = np.random.default_rng(0)
    scales = [draw_params(Augmentation(), random).scale for _ in range(400)]
    assert 150 < scales.count(1.0) < 250


@given(seed=st.integers(0, 1000))
def test_what_is_drawn_for_an_upright_case_is_the_same_but_for_the_free_rotation(seed):
    settings = Augmentation(turn=0.5, flip_vertical=0.5, rotate_degrees=90)
    free, upright = (
        draw_params(settings, np.random.default_rng(seed), upright=upright)
        for upright in (False, True)
    )
    assert upright == replace(free, degrees=0.0)
