"""Targets, weights and region labels move with their image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsseg.train.config import Augmentation
from wsseg.train.data.augment import (
    AugmentParams,
    apply,
    augment,
    largest_scale,
    transform_region_labels,
)
from wsseg.train.data.batch import Sample
from wsseg.train.data.region_labels import unknown_region_labels

SIZE = 96
OF_IMAGE = torch.tensor([True, False])
WHOLE = torch.ones(SIZE, SIZE, dtype=torch.bool)

rotations = st.builds(
    lambda degrees, share: (degrees, 0.5 + share * (largest_scale(degrees) - 0.5)),
    st.floats(-180, 180),
    st.floats(0, 1),
)


def disc(row, column, radius):
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def sample(mask, region_labels=None):
    """A case whose target is its mask, and whose weight is 1 in the mask and a half elsewhere."""
    both = torch.stack([mask, ~mask])
    return Sample(
        image=mask.float()[None] * 0.5 + 0.25,
        ratio=torch.tensor([float(mask.float().mean()), 0.4]),
        region_labels=unknown_region_labels(2) if region_labels is None else region_labels,
        marks=mask.long(),
        mask=both,
        has_mask=True,
        target=both.float(),
        target_weight=mask.float().expand(2, -1, -1) / 2 + 0.5,
        fixed=torch.zeros(2, dtype=torch.bool),
        proposed=torch.zeros(2, dtype=torch.bool),
        soft=both.float(),
        index=0,
    )


def boxed():
    """Region labels that a free rotation would spoil."""
    return replace(
        unknown_region_labels(2), box=torch.tensor([[0.2, 0.2, 0.6, 0.5], [0.0, 0.0, 0.1, 0.1]])
    )


def fills_its_box(mask):
    """Whether a mask is an upright rectangle."""
    rows, columns = np.nonzero(mask.numpy())
    return len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


@given(rotation=rotations, row=st.floats(20, 75), column=st.floats(20, 75))
def test_targets_and_weights_move_with_the_mask(rotation, row, column):
    degrees, scale = rotation
    before = sample(disc(row, column, 18.0))
    after = apply(AugmentParams(degrees=degrees, scale=scale), before, OF_IMAGE)
    # Bilinear against nearest: they differ along the outline alone, and by a share of a pixel.
    outline = 2 * np.pi * 18.0 * scale
    taught, mask = after.target * after.target_weight, after.mask[0]
    assert (taught[0] - mask.float()).abs().sum() <= 0.5 * outline
    area = float(before.mask[0].sum()) * scale**2
    assert taught[0].sum() == pytest.approx(area, abs=0.25 * outline)
    # The weight is 1 where the first class is and a half where the second is, before and after.
    torch.testing.assert_close(after.target_weight[0], taught.sum(0))


@given(rotation=rotations)
def test_a_taught_pixel_beside_untaught_ones_keeps_its_target(rotation):
    degrees, scale = rotation
    before = sample(WHOLE)
    alone = torch.zeros_like(before.target_weight)
    alone[:, 40:42, 50:52] = 1
    marked = replace(before, target=alone.clone(), target_weight=alone)
    after = apply(AugmentParams(degrees=degrees, scale=scale), marked, OF_IMAGE)
    there = after.target_weight > 1e-3
    assert there.any()
    torch.testing.assert_close(after.target[there], torch.ones(int(there.sum())))


def test_the_empty_border_is_not_taught():
    before = sample(WHOLE)
    after = apply(AugmentParams(scale=0.5), before, OF_IMAGE)
    border = torch.ones(SIZE, SIZE, dtype=torch.bool)
    border[22:-22, 22:-22] = False
    assert not after.target_weight[:, border].any()
    assert (after.target_weight[:, 26:-26, 26:-26] == 1).all()


@given(epoch=st.integers(1, 1000))
def test_a_case_with_a_box_is_never_freely_rotated(epoch):
    settings = Augmentation(rotate_degrees=180, shrink=0.5, turn=0.5)
    after = augment(sample(WHOLE, region_labels=boxed()), settings, OF_IMAGE, seed=0, epoch=epoch)
    # A rotated box would be unknown, see `RegionLabels.moved`.
    assert not after.region_labels.box.isnan().any()
    assert fills_its_box(after.mask[0])


def test_a_case_without_a_box_is_rotated_in_some_epochs():
    settings = Augmentation(rotate_degrees=180, shrink=0.5)
    seen = [
        fills_its_box(augment(sample(WHOLE), settings, OF_IMAGE, seed=0, epoch=epoch).mask[0])
        for epoch in range(20)
    ]
    assert 5 <= seen.count(False) <= 15


def test_hints_move_with_the_picture():
    change = AugmentParams(flip_horizontal=True, quarter_turns=1, scale=0.6)
    after = apply(change, sample(WHOLE, region_labels=boxed()), OF_IMAGE)
    assert torch.equal(
        after.region_labels.box, transform_region_labels(boxed(), change, OF_IMAGE).box
    )
    assert not torch.equal(after.region_labels.box, boxed().box)
