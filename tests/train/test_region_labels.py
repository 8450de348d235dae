"""Region labels as shares of the frame, and their change with the image."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsseg.train.cases import Box, Case, Region, region_box, region_moments
from wsseg.train.data.augment import (
    AugmentParams,
    apply,
    largest_scale,
    transform_region_labels,
)
from wsseg.train.data.batch import Sample
from wsseg.train.data.region_labels import (
    RegionLabels,
    case_region_labels,
    unknown_region_labels,
)

SIZE = 64
OF_IMAGE = torch.tensor([True, False])
FIELDS = ("bounds", "present", "box", "centroid", "spread")


def measured(mask: torch.Tensor) -> RegionLabels:
    """RegionLabels of masks (k, s, s), stated as a row of the table would state them."""
    regions = []
    for layer in mask.numpy():
        centroid, spread = region_moments(layer)
        share = float(layer.mean())
        regions.append(
            Region(
                low=share, high=2 * share, present=True,
                box=region_box(layer), centroid=centroid, spread=spread,
            )
        )  # fmt: skip
    case = Case(row=2, image=Path("a.png"), ratios=(None,) * len(mask), regions=tuple(regions))
    return case_region_labels(case, (SIZE, SIZE))


def moved(mask: torch.Tensor, change: AugmentParams) -> torch.Tensor:
    sample = Sample(
        image=mask[:1].float(),
        ratio=torch.tensor([0.1] * len(mask)),
        region_labels=unknown_region_labels(len(mask)),
        marks=torch.zeros(SIZE, SIZE, dtype=torch.long),
        mask=mask,
        has_mask=True,
        target=mask.float(),
        target_weight=mask.float(),
        fixed=torch.zeros(len(mask), dtype=torch.bool),
        proposed=torch.zeros(len(mask), dtype=torch.bool),
        soft=torch.zeros(0, SIZE, SIZE),
        index=0,
    )
    return apply(change, sample, OF_IMAGE).mask


def rough(seed: int) -> torch.Tensor:
    """Two uneven regions, each of a part of the frame and without symmetry."""
    random = np.random.default_rng(seed)
    masks = np.zeros((2, SIZE, SIZE), bool)
    for mask in masks:
        top, left = random.integers(0, SIZE - 12, 2)
        bottom, right = top + random.integers(4, SIZE - top), left + random.integers(4, SIZE - left)
        mask[top:bottom, left:right] = random.random((bottom - top, right - left)) < 0.4
        mask[top, left] = True
    return torch.from_numpy(masks)


def ellipses(seed: int) -> torch.Tensor:
    random = np.random.default_rng(seed)
    rows, columns = np.indices((SIZE, SIZE))
    masks = []
    for _ in range(2):
        row, column = random.uniform(22, 42, 2)
        high, wide = random.uniform(8, 20, 2)
        masks.append(((rows - row) / high) ** 2 + ((columns - column) / wide) ** 2 <= 1)
    return torch.from_numpy(np.stack(masks))


flips_and_turns = st.builds(AugmentParams, st.booleans(), st.booleans(), st.integers(0, 3))


@given(seed=st.integers(0, 999), change=flips_and_turns)
def test_flipped_and_turned_hints_are_those_of_the_flipped_and_turned_mask(seed, change):
    mask = rough(seed)
    expected, found = (
        measured(moved(mask, change)),
        transform_region_labels(measured(mask), change, OF_IMAGE),
    )
    for field in FIELDS:
        torch.testing.assert_close(getattr(found, field), getattr(expected, field))


@given(seed=st.integers(0, 999), scale=st.floats(0.6, 0.95), change=flips_and_turns)
def test_shrunk_hints_are_those_of_the_shrunk_mask_to_a_pixel(seed, scale, change):
    mask = ellipses(seed)
    both = AugmentParams(
        change.flip_horizontal, change.flip_vertical, change.quarter_turns, scale=scale
    )
    expected, found = (
        measured(moved(mask, both)),
        transform_region_labels(measured(mask), both, OF_IMAGE),
    )
    pixel = 1 / SIZE
    # The tip of an ellipse may fall between the pixels that are kept.
    assert (found.box - expected.box).abs().max() <= 1.5 * pixel
    assert (found.centroid - expected.centroid).abs().max() <= 0.5 * pixel
    assert (found.spread - expected.spread).abs().max() <= 0.5 * pixel
    # Half of the pixels along the largest outline; the upper bound is twice the share.
    assert (found.bounds[0] - expected.bounds[0]).abs().max() <= 2 * 0.5 * 2 * np.pi * 20 / SIZE**2
    assert torch.equal(found.bounds[1], measured(mask).bounds[1])


@given(seed=st.integers(0, 999), degrees=st.floats(-180, 180), change=flips_and_turns)
def test_a_rotated_centroid_is_that_of_the_rotated_mask(seed, degrees, change):
    mask = ellipses(seed)
    both = AugmentParams(
        change.flip_horizontal, change.flip_vertical, change.quarter_turns,
        degrees, largest_scale(degrees),
    )  # fmt: skip
    expected, found = (
        measured(moved(mask, both)),
        transform_region_labels(measured(mask), both, OF_IMAGE),
    )
    assert (found.centroid - expected.centroid).abs().max() <= 0.75 / SIZE


def test_a_free_rotation_leaves_no_box_and_no_spread_that_may_be_wrong():
    turned = transform_region_labels(
        measured(ellipses(0)), AugmentParams(degrees=5.0, scale=0.9), OF_IMAGE
    )
    assert turned.box.isnan().all()
    assert turned.spread.isnan().all()
    assert not turned.upright


@pytest.mark.parametrize(
    ("region", "upright"),
    [
        (Region(), False),
        (Region(low=0.1, present=True, centroid=(1.0, 2.0)), False),
        (Region(box=Box(0, 0, 2, 2)), True),
        (Region(spread=(1.0, 1.0)), True),
    ],
)
def test_boxes_and_spreads_are_to_be_kept_upright(region, upright):
    case = Case(row=2, image=Path("a.png"), ratios=(None, None), regions=(Region(), region))
    assert case_region_labels(case, (8, 8)).upright == upright


def test_freed_hints_have_lost_what_a_rotation_would_lose_and_nothing_else():
    whole = measured(ellipses(0))
    freed = whole.free
    assert not freed.upright
    assert freed.box.isnan().all()
    assert freed.spread.isnan().all()
    for field in ("bounds", "present", "centroid"):
        assert torch.equal(getattr(freed, field), getattr(whole, field))


def test_a_row_becomes_shares_of_its_own_frame():
    region = Region(
        low=0.1, present=False, box=Box(2, 4, 8, 20), centroid=(4.5, 9.5), spread=(1.0, 4.0)
    )
    case = Case(row=2, image=Path("a.png"), ratios=(None, 0.2), regions=(Region(), region))
    region_labels = case_region_labels(case, (10, 40))
    assert region_labels.bounds[1, 0] == pytest.approx(0.1)
    assert math.isnan(region_labels.bounds[1, 1])
    assert region_labels.present[1] == 0
    torch.testing.assert_close(region_labels.box[1], torch.tensor([0.2, 0.1, 0.8, 0.5]))
    torch.testing.assert_close(region_labels.centroid[1], torch.tensor([0.5, 0.25]))
    torch.testing.assert_close(region_labels.spread[1], torch.tensor([0.1, 0.1]))
    assert all(getattr(region_labels, field)[0].isnan().all() for field in FIELDS)


def test_empty_hints_are_those_of_a_case_that_says_nothing():
    bare = case_region_labels(Case(row=2, image=Path("a.png"), ratios=(0.1, None)), (8, 8))
    for field in FIELDS:
        assert getattr(unknown_region_labels(2), field).shape == getattr(bare, field).shape
        assert getattr(unknown_region_labels(2), field).isnan().all()
        assert getattr(bare, field).isnan().all()


@given(change=flips_and_turns)
def test_what_is_unknown_stays_unknown(change):
    still = transform_region_labels(unknown_region_labels(2), change, OF_IMAGE)
    assert all(getattr(still, field).isnan().all() for field in FIELDS)
