"""Changes of a picture keep its ratios true, and move its labels along."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsseg.train.config import Augmentation
from wsseg.train.data.augment import AugmentParams, apply, augment, largest_scale
from wsseg.train.data.batch import Sample
from wsseg.train.data.region_labels import unknown_region_labels

SIZE = 96
OF_IMAGE = torch.tensor([True, False])
WHOLE = torch.ones(SIZE, SIZE, dtype=torch.bool)
STILL = Augmentation(
    flip_horizontal=0, shrink=1, contrast=0, brightness=0, noise=0, rotate_degrees=0
)


def disc(centre=(50.0, 40.0), radius=20.0, size=SIZE):
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def sample(mask=None, marks=None, index=0):
    """A case whose target is its mask, and whose weight is 1 in the mask and a half elsewhere."""
    mask = disc() if mask is None else mask
    image = mask.float()[None] * 0.5 + 0.25
    both = torch.stack([mask, ~mask])
    return Sample(
        image=image,
        ratio=torch.tensor([float(mask.float().mean()), 0.4]),
        region_labels=unknown_region_labels(2),
        marks=mask.long() if marks is None else marks,
        mask=both,
        has_mask=True,
        target=both.float(),
        target_weight=mask.float().expand(2, -1, -1) / 2 + 0.5,
        fixed=torch.zeros(2, dtype=torch.bool),
        proposed=torch.zeros(2, dtype=torch.bool),
        soft=both.float(),
        index=index,
    )


rotations = st.builds(
    lambda degrees, share: (degrees, 0.5 + share * (largest_scale(degrees) - 0.5)),
    st.floats(-180, 180),
    st.floats(0, 1),
)


@given(
    rotation=rotations,
    quarter_turns=st.integers(0, 3),
    flips=st.tuples(st.booleans(), st.booleans()),
    row=st.floats(20, 75),
    column=st.floats(20, 75),
)
def test_the_ratio_stays_true_to_the_mask(rotation, quarter_turns, flips, row, column):
    degrees, scale = rotation
    before = sample(disc((row, column), 18.0))
    change = AugmentParams(
        flip_horizontal=flips[0],
        flip_vertical=flips[1],
        quarter_turns=quarter_turns,
        degrees=degrees,
        scale=scale,
    )
    after = apply(change, before, OF_IMAGE)
    area = after.mask[0].float().mean()
    # The pixels of a disc are its area give or take a part of a pixel along its outline.
    outline = 2 * np.pi * 18.0 * scale / SIZE**2
    assert abs(area - after.ratio[0]) <= 0.25 * outline
    assert after.ratio[1] == before.ratio[1]
    # The intensities keep their sum as well, but for half a grey pixel around the picture:
    # nothing left the frame.
    expected = (before.image.sum() * scale**2).item()
    edge = 0.25 * 0.5 * 4 * scale * SIZE
    assert after.image.sum().item() == pytest.approx(expected, abs=edge)


@given(change=st.builds(AugmentParams, st.booleans(), st.booleans(), st.integers(0, 3)))
def test_flips_and_turns_move_pixels_and_change_none(change):
    random = torch.Generator().manual_seed(0)
    before = sample(torch.rand(SIZE, SIZE, generator=random) < 0.3)
    after = apply(change, before, OF_IMAGE)
    assert torch.equal(after.ratio, before.ratio)
    assert torch.equal(after.mask[0], after.marks.bool())
    torch.testing.assert_close(after.image[0], after.mask[0] * 0.5 + 0.25)
    assert after.mask[0].sum() == before.mask[0].sum()
    assert torch.equal(after.target, after.mask.float())
    assert torch.equal(after.target_weight[0], after.mask[0] / 2 + 0.5)


def test_each_flip_and_turn_is_the_one_it_names():
    before = sample(disc((20.0, 70.0), 5.0))
    for change, expected in [
        (AugmentParams(flip_horizontal=True), before.mask[0].flip(1)),
        (AugmentParams(flip_vertical=True), before.mask[0].flip(0)),
        (AugmentParams(quarter_turns=1), before.mask[0].rot90()),
    ]:
        assert torch.equal(apply(change, before, OF_IMAGE).mask[0], expected)


@pytest.mark.parametrize("degrees", [10.0, -35.0, 90.0, 170.0])
def test_a_shrunk_and_rotated_picture_stays_in_its_frame(degrees):
    before = sample(WHOLE)
    scale = largest_scale(degrees)
    after = apply(AugmentParams(degrees=degrees, scale=scale), before, OF_IMAGE)
    assert after.mask[0].float().mean() == pytest.approx(scale**2, abs=0.01)
    assert after.ratio[0] == pytest.approx(scale**2)


def test_the_empty_border_is_black_and_not_marked():
    before = sample(WHOLE)
    after = apply(AugmentParams(scale=0.5, brightness=0.2), before, OF_IMAGE)
    border = torch.ones(SIZE, SIZE, dtype=torch.bool)
    border[22:-22, 22:-22] = False
    assert not after.image[0][border].any()
    assert not after.marks[border].any()
    assert not after.mask[0][border].any()


@pytest.mark.slow
@given(
    rotation=rotations,
    places=st.lists(
        st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE - 1)), min_size=1, max_size=9
    ),
)
def test_every_single_marked_pixel_survives_near_its_new_place(rotation, places):
    degrees, scale = rotation
    change = AugmentParams(degrees=degrees, scale=scale)
    marks = torch.zeros(SIZE, SIZE, dtype=torch.long)
    for row, column in places:
        marks[row, column] = 255
    after = apply(change, sample(marks=marks), OF_IMAGE)
    for row, column in places:
        # Where this pixel really went: a bright spot of its own, moved by the same change.
        spot = torch.zeros(1, SIZE, SIZE)
        spot[0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 1
        moved = apply(change, replace(after, image=spot), OF_IMAGE).image[0]
        near = torch.nn.functional.max_pool2d(moved[None], 3, stride=1, padding=1)[0] > 0
        assert (after.marks[near] == 255).any()


def test_labels_are_moved_without_mixing():
    marks = disc((50.0, 40.0), 10.0) * 2 + disc((50.0, 70.0), 8.0) * 255
    after = apply(AugmentParams(degrees=17.0, scale=0.7), sample(marks=marks), OF_IMAGE)
    assert set(after.marks.unique().tolist()) == {0, 2, 255}


def test_settings_of_nothing_change_nothing():
    before = sample()
    after = augment(before, STILL, OF_IMAGE, seed=1, epoch=2)
    assert torch.equal(after.image, before.image)
    assert torch.equal(after.marks, before.marks)
    assert torch.equal(after.ratio, before.ratio)
    assert torch.equal(after.target, before.target)
    assert torch.equal(after.target_weight, before.target_weight)


def test_a_case_is_changed_alike_in_the_same_epoch_and_otherwise_in_others():
    settings = Augmentation(turn=0.5)
    first = augment(sample(), settings, OF_IMAGE, seed=1, epoch=2)
    again = augment(sample(), settings, OF_IMAGE, seed=1, epoch=2)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.marks, again.marks)
    for other in (
        augment(sample(), settings, OF_IMAGE, seed=1, epoch=3),
        augment(sample(), settings, OF_IMAGE, seed=2, epoch=2),
        augment(sample(), settings, OF_IMAGE, seed=1, epoch=2, repeat=1),
        augment(sample(index=1), settings, OF_IMAGE, seed=1, epoch=2),
    ):
        assert not torch.equal(first.image, other.image)


def test_intensities_stay_within_0_and_1_and_leave_marks_and_masks_alone():
    before = sample()
    change = AugmentParams(contrast=0.9, brightness=0.4, noise=0.5, noise_seed=3)
    after = apply(change, before, OF_IMAGE)
    assert after.image.min() >= 0
    assert after.image.max() <= 1
    assert not torch.equal(after.image, before.image)
    assert torch.equal(after.marks, before.marks)
    assert torch.equal(after.mask, before.mask)
    assert torch.equal(after.ratio, before.ratio)
    assert torch.equal(after.target, before.target)
    assert torch.equal(after.target_weight, before.target_weight)
