import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsseg.train.targets import (
    NO_LABEL,
    PseudoLabel,
    agreement,
    blend,
    boxes_allow,
    certainty,
    size_matched_label,
)


def disc(row: float, column: float, radius: float, size: int = 48) -> np.ndarray:
    rows, columns = np.indices((size, size))
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


NO_MARKS = np.zeros((48, 48), np.uint8)


def everywhere(classes: int = 1) -> np.ndarray:
    return np.ones((classes, 48, 48), bool)


def exactly(*ratios: float) -> np.ndarray:
    return np.array([(ratio, ratio) for ratio in ratios])


@given(st.floats(0.001, 0.9), st.integers(0, 9))
def test_a_cut_has_the_known_area_whatever_the_map_says(ratio: float, seed: int) -> None:
    probability = np.random.default_rng(seed).random((1, 48, 48)).astype(np.float32) * 1e-3
    found = size_matched_label(probability, NO_MARKS, exactly(ratio), everywhere())
    assert (found == 1).sum() == round(ratio * 48 * 48)


def test_a_cut_takes_the_most_probable_pixels() -> None:
    probability = np.where(disc(20, 20, 9), 0.3, 0.1)[None].astype(np.float32)
    found = size_matched_label(
        probability, NO_MARKS, exactly(float(disc(20, 20, 9).mean())), everywhere()
    )
    assert np.array_equal(found[0] == 1, disc(20, 20, 9))


def test_what_does_not_touch_the_mark_is_dropped_however_probable() -> None:
    true, look_alike = disc(14, 14, 8), disc(34, 34, 8)
    probability = np.where(true, 0.6, np.where(look_alike, 0.9, 0.05))[None].astype(np.float32)
    marks = disc(14, 14, 2).astype(np.uint8)
    found = size_matched_label(probability, marks, exactly(float(true.mean())), everywhere())
    assert np.array_equal(found[0] == 1, true)
    unmarked = size_matched_label(probability, NO_MARKS, exactly(float(true.mean())), everywhere())
    assert np.array_equal(unmarked[0] == 1, look_alike)


def test_background_strokes_are_outside_every_cut() -> None:
    marks = np.zeros((48, 48), np.uint8)
    marks[20] = 255
    found = size_matched_label(
        np.full((1, 48, 48), 0.9, np.float32), marks, exactly(0.9), everywhere()
    )
    assert not (found[0][20] == 1).any()


def test_between_two_bounds_the_map_decides() -> None:
    probability = np.where(disc(20, 20, 9), 0.9, 0.1)[None].astype(np.float32)
    share = float(disc(20, 20, 9).mean())
    within = size_matched_label(
        probability, NO_MARKS, np.array([(share / 2, 2 * share)]), everywhere()
    )
    below = size_matched_label(
        probability, NO_MARKS, np.array([(2 * share, 3 * share)]), everywhere()
    )
    assert (within == 1).mean() == pytest.approx(share, abs=1e-3)
    assert (below == 1).mean() == pytest.approx(2 * share, abs=1e-3)


def test_classes_do_not_overlap_and_each_has_its_area() -> None:
    rows, columns = np.indices((48, 48))
    maps = [np.exp(-((rows - place) ** 2 + (columns - place) ** 2) / 162.0) for place in (20, 26)]
    found = (
        size_matched_label(
            np.stack(maps).astype(np.float32), NO_MARKS, exactly(0.1, 0.12), everywhere(2)
        )
        == 1
    )
    assert not (found[0] & found[1]).any()
    assert found.mean((1, 2)) == pytest.approx([0.1, 0.12], rel=0.05)


def test_unknown_and_absent_classes_are_left_out_and_left_empty() -> None:
    probability = np.full((2, 48, 48), 0.9, np.float32)
    found = size_matched_label(
        probability, NO_MARKS, np.array([(math.nan, math.nan), (0.0, 0.0)]), everywhere(2)
    )
    assert (found[0] == NO_LABEL).all()
    assert (found[1] == 0).all()


def test_a_map_that_is_low_where_it_is_cut_is_not_trusted() -> None:
    region = disc(20, 20, 9)
    found = region[None].astype(np.uint8)
    sure = certainty(np.where(region, 0.95, 0.0)[None].astype(np.float32), found)
    unsure = certainty(np.full((1, 48, 48), 0.05, np.float32), found)
    assert sure[0] == pytest.approx(0.95)
    assert unsure[0] == pytest.approx(0.05)


def test_blending_keeps_half_of_the_first_target_and_teaches_the_untaught() -> None:
    target = torch.tensor([[[1.0, 0.0, 0.0]]])
    weight = torch.tensor([[[0.5, 1.0, 0.0]]])
    found = PseudoLabel(torch.tensor([[[0, 0, 1]]], dtype=torch.uint8), torch.tensor([0.7]))
    inside, sure = blend(target, weight, torch.tensor([False]), found)
    assert inside.flatten().tolist() == [0.5, 0.0, 1.0]
    assert sure.flatten().tolist() == pytest.approx([1.0, 1.0, 0.7])


def test_a_guessed_class_is_taught_its_cut_alone_by_its_certainty() -> None:
    target, weight = torch.tensor([[[1.0, 0.0]]] * 2), torch.tensor([[[0.5, 0.5]]] * 2)
    found = PseudoLabel(torch.tensor([[[0, 1]]] * 2, dtype=torch.uint8), torch.tensor([0.25, 0.75]))
    inside, sure = blend(target, weight, torch.tensor([True, False]), found)
    assert inside.tolist() == [[[0.0, 1.0]], [[0.5, 0.5]]]
    assert sure.tolist() == [[[0.25, 0.25]], [[1.0, 1.0]]]


def test_blending_leaves_what_is_not_cut() -> None:
    target, weight = torch.rand(1, 4, 4), torch.rand(1, 4, 4)
    none = PseudoLabel(torch.full((1, 4, 4), NO_LABEL, dtype=torch.uint8), torch.zeros(1))
    inside, sure = blend(target, weight, torch.tensor([False]), none)
    assert torch.equal(inside, target)
    assert torch.equal(sure, weight)


def test_agreement_is_the_mean_overlap_of_classes_that_are_there() -> None:
    before = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]]], dtype=torch.uint8)
    after = torch.tensor([[[1, 0, 1, 0]], [[0, 0, 0, 0]]], dtype=torch.uint8)
    assert agreement(before, after) == pytest.approx(1 / 3)
    assert math.isnan(agreement(before[1:], after[1:]))


def test_a_cut_stays_in_its_box() -> None:
    box = np.array([[0.0, 0.0, 0.5, 0.5]])
    free = boxes_allow(box, 48)
    assert np.array_equal(np.argwhere(free[0]).max(0), [23, 23])
    probability = np.where(free, 0.2, 0.9).astype(np.float32)
    found = size_matched_label(probability, NO_MARKS, exactly(0.1), free)
    assert (found == 1).sum() == round(0.1 * 48 * 48)
    assert not (found == 1)[~free].any()


def test_a_class_without_a_box_may_be_anywhere() -> None:
    assert boxes_allow(np.full((2, 4), np.nan), 16).all()


def test_an_upper_bound_does_not_teach_that_nothing_is_there() -> None:
    probability = np.where(disc(20, 20, 9), 0.45, 0.02)[None].astype(np.float32)
    found = size_matched_label(probability, NO_MARKS, np.array([(0.0, 0.2)]), everywhere())
    assert not (found == 1).any()
    assert certainty(probability, found) == pytest.approx([0.55])
    marks = disc(20, 20, 2).astype(np.uint8)
    marked = size_matched_label(probability, marks, np.array([(0.0, 0.2)]), everywhere())
    assert np.array_equal(marked[0] == 1, marks == 1)


def test_a_class_that_is_there_has_a_pixel_however_small_it_is() -> None:
    probability = np.where(disc(20, 20, 1), 0.3, 0.1)[None].astype(np.float32)
    found = size_matched_label(probability, NO_MARKS, exactly(1e-5), everywhere())
    assert (found == 1).sum() == 1
