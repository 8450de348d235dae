"""Each kind of mark on one region: how much, where, and what it tells."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from wsseg.imaging import WssegError
from wsseg.train.simulate import (
    KINDS,
    MEASURES,
    PAINTERS,
    TOUCHING_CORNERS,
    MarkOptions,
    components,
    deepest,
    depth,
    disc_mark,
    erode_mark,
    generator,
    paint_marks,
    point_mark,
    random_disc_mark,
    random_point_mark,
)

masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
regions = masks.filter(np.any)
percents = st.floats(0.01, 100)
seeds = st.integers(0, 1000)


def expected_count(pixels: int, percent: float) -> int:
    return max(1, round(percent / 100 * pixels)) if pixels else 0


def draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def rectangle(rows: tuple[int, int], columns: tuple[int, int], side: int = 32) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def disc(radius: float, centre: tuple[int, int] = (20, 20), side: int = 41) -> np.ndarray:
    rows, columns = np.indices((side, side))
    inside: np.ndarray = np.hypot(rows - centre[0], columns - centre[1]) <= radius
    return inside


# --- every kind ---


@pytest.mark.parametrize("kind", PAINTERS)
@given(region=regions, percent=percents, seed=seeds)
def test_a_mark_lies_inside_and_is_never_empty(kind, region, percent, seed):
    mark = PAINTERS[kind](region, percent, draw(seed))
    assert mark.any()
    assert not np.any(mark & ~region)


@pytest.mark.parametrize("kind", ["erode", "disc", "random-disc"])
@given(region=masks, percent=percents)
def test_the_share_of_pixels_is_exact(kind, region, percent):
    mark = PAINTERS[kind](region, percent, draw(0))
    assert np.count_nonzero(mark) == expected_count(int(region.sum()), percent)


@pytest.mark.parametrize("kind", PAINTERS)
def test_an_empty_region_has_no_mark(kind):
    assert not PAINTERS[kind](np.zeros((4, 5), bool), 8.0, draw(0)).any()


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.5, float("nan")])
@pytest.mark.parametrize("kind", ["erode", "disc", "random-disc", "scribble"])
def test_an_impossible_share_is_refused(kind, percent):
    with pytest.raises(WssegError, match="percent of a region cannot be marked"):
        PAINTERS[kind](np.ones((3, 3), bool), percent, draw(0))


@pytest.mark.parametrize("kind", PAINTERS)
@given(region=masks)
def test_every_component_is_marked_on_its_own_if_asked_for(kind, region):
    options = MarkOptions(kind=kind, per_component=True)
    marks = paint_marks(region.astype(np.uint8), 8.0, options, row=2)
    numbers, count = ndimage.label(region, structure=TOUCHING_CORNERS)
    assert set(numbers[marks == 1]) == set(range(1, count + 1))


@pytest.mark.parametrize("kind", ["random-disc", "random-point", "scribble"])
def test_a_mark_depends_on_seed_row_and_class_alone(kind):
    one, two = disc(7, (11, 11)), disc(7, (29, 29))
    both = paint_marks((one + 2 * two).astype(np.uint8), 8.0, MarkOptions(kind), row=3)
    again = paint_marks((one + 2 * two).astype(np.uint8), 8.0, MarkOptions(kind), row=3)
    alone = paint_marks((2 * two).astype(np.uint8), 8.0, MarkOptions(kind), row=3)
    assert np.array_equal(both, again)
    assert np.array_equal(both == 2, alone == 2)
    others = [
        paint_marks((2 * two).astype(np.uint8), 8.0, MarkOptions(kind, seed=seed), row=row)
        for seed, row in ((1, 3), (0, 4))
    ]
    assert all(not np.array_equal(alone, other) for other in others)


def test_streams_of_different_uses_are_independent():
    drawn = {
        generator(seed, use, row).integers(1 << 62)
        for seed in (0, 1)
        for use in ("mark", "share", "ratio")
        for row in (0, 1)
    }
    assert len(drawn) == 12


# --- eroded ---


@given(masks, percents)
def test_no_unmarked_pixel_is_deeper_than_a_marked_one(region, percent):
    mark = erode_mark(region, percent)
    rest = region & ~mark
    if mark.any() and rest.any():
        assert depth(region)[mark].min() >= depth(region)[rest].max()


@given(masks)
def test_all_of_a_region_is_the_region(region):
    assert np.array_equal(erode_mark(region, 100.0), region)


@given(masks, st.tuples(percents, percents).map(sorted))
def test_a_larger_share_holds_the_smaller_one(region, pair):
    small, large = (erode_mark(region, percent) for percent in pair)
    assert not np.any(small & ~large)


@given(masks)
def test_depth_is_the_distance_to_what_is_outside_the_frame_included(region):
    expected = ndimage.distance_transform_edt(np.pad(region, 20))[20:-20, 20:-20]
    assert np.array_equal(depth(region), expected)


@given(masks)
def test_components_put_together_are_the_region(region):
    parts = list(components(region))
    assert np.array_equal(np.sum([np.zeros_like(region, int), *parts], axis=0), region)


def test_a_region_that_the_frame_cuts_is_not_marked_at_its_cut():
    region = np.zeros((9, 9), bool)
    region[:, :5] = True
    assert np.flatnonzero(erode_mark(region, 2.0)).tolist() == [2 * 9 + 2]


def test_a_small_component_keeps_its_mark_only_on_its_own():
    labels = (rectangle((1, 13), (1, 13)) | rectangle((16, 19), (16, 19))).astype(np.uint8)
    together, apart = (
        paint_marks(labels, 8.0, MarkOptions(per_component=each), row=2) for each in (False, True)
    )
    assert not together[16:19, 16:19].any()
    assert np.flatnonzero(apart[16:19, 16:19]).tolist() == [4]


# --- discs and points ---


def test_a_disc_lies_around_the_deepest_pixel():
    region = rectangle((4, 25), (4, 25))
    mark = disc_mark(region, 20.0)
    distance = np.hypot(*(np.indices(region.shape) - np.reshape((14, 14), (2, 1, 1))))
    assert deepest(region) == (14, 14)
    assert distance[mark].max() <= distance[region & ~mark].min()


@given(regions, percents, seeds)
def test_a_random_disc_is_what_is_nearest_some_pixel_of_it(region, percent, seed):
    mark = random_disc_mark(region, percent, draw(seed))
    apart = [
        np.square(np.indices(region.shape) - np.reshape(place, (2, 1, 1))).sum(0)
        for place in np.argwhere(region)
    ]
    rest = region & ~mark
    assert any(not rest.any() or far[mark].max() <= far[rest].min() for far in apart)


def test_random_discs_are_found_all_over_the_region():
    region = rectangle((0, 10), (0, 10), side=10)
    found = np.sum([random_disc_mark(region, 4.0, draw(seed)) for seed in range(300)], axis=0)
    assert found.min() > 0


def test_a_point_is_the_deepest_pixel():
    region = rectangle((2, 9), (3, 12))
    assert np.argwhere(point_mark(region)).tolist() == [list(deepest(region))]


@given(regions, seeds)
def test_a_random_point_is_one_pixel(region, seed):
    assert np.count_nonzero(random_point_mark(region, draw(seed))) == 1


# --- options ---


def test_every_kind_is_either_painted_or_written():
    assert sorted([*PAINTERS, *MEASURES]) == sorted(KINDS)


@pytest.mark.parametrize("wrong", [{"share": 101.0}, {"share": -1.0}, {"ratio_noise": 120.0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(WssegError, match="give 0 to 100"):
        MarkOptions(**wrong)
