"""The arithmetic of areas: ratios by their definitions, IoU and Dice, and what empty masks give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wsseg.imaging import (
    PixelCounts,
    RatioDefinition,
    area_ratios,
    denominator_of,
    dice,
    iou,
    mask_iou,
)
from wsseg.imaging.definitions import known, quotient

CLASSES = ("organ", "tumour")
RATIOS = (
    RatioDefinition(name="a", numerator="organ"),
    RatioDefinition(name="b", numerator="organ", denominator="foreground"),
    RatioDefinition(name="c", numerator="tumour", denominator="organ"),
)
MASK = arrays.arrays(bool, (4, 5))


@given(masks=arrays.arrays(bool, (3, 2, 2, 3)))
def test_ratios_of_masks_that_overlap_follow_their_definitions(masks):
    found = area_ratios(
        PixelCounts.of_masks(masks.astype(np.uint8)),
        [denominator_of(ratio, CLASSES) for ratio in RATIOS],
        [CLASSES.index(ratio.numerator) for ratio in RATIOS],
    )
    for slice_masks, ratios in zip(masks, found, strict=True):
        organ, tumour = (int(mask.sum()) for mask in slice_masks)
        either = int((slice_masks[0] | slice_masks[1]).sum())
        wanted = [
            organ / 6,
            organ / either if either else np.nan,
            tumour / organ if organ else np.nan,
        ]
        assert np.array_equal(ratios, wanted, equal_nan=True)


def test_without_numerators_each_class_has_one_denominator():
    masks = np.zeros((2, 2, 4), bool)
    masks[0, 0, :1] = True
    masks[1, 0, :4] = True
    assert area_ratios(PixelCounts.of_masks(masks), (1, "foreground")).tolist() == [0.25, 1.0]


@given(labels=arrays.arrays(np.uint8, (4, 5), elements=st.integers(0, 3)))
def test_a_label_map_counts_as_the_masks_of_its_labels_do(labels):
    masks = labels == np.arange(1, 4)[:, None, None]
    of_labels, of_masks = PixelCounts.of_labels(labels, 3), PixelCounts.of_masks(masks)
    assert of_labels.image == of_masks.image == 20
    for area in ("image", "foreground", 0, 1, 2):
        assert of_labels.of(area) == of_masks.of(area)


@pytest.mark.parametrize("denominator", ["foreground", 0])
def test_a_ratio_to_nothing_is_not_known(denominator):
    (ratio,) = area_ratios(PixelCounts.of_masks(np.zeros((1, 2, 2), bool)), (denominator,))
    assert np.isnan(ratio)
    assert np.isnan(quotient(0, 0))
    assert known(ratio) is None
    assert known(np.float64(0.25)) == 0.25


@given(one=MASK, other=MASK)
def test_iou_and_dice_are_of_the_pixels_in_both_masks(one, other):
    overlap, either = int((one & other).sum()), int((one | other).sum())
    counts = np.array(overlap), one.sum(), other.sum()
    both = one.sum() + other.sum()
    assert mask_iou(one, other) == iou(*counts) == (overlap / either if either else 1)
    assert dice(*counts) == (2 * overlap / both if both else 1)


def test_two_empty_masks_agree_and_an_empty_one_disagrees_with_any_other():
    empty, full = np.zeros((1, 3, 3), np.uint8), np.ones((1, 3, 3), np.uint8)
    assert mask_iou(np.stack((empty, empty)), np.stack((empty, full))).tolist() == [[1], [0]]
    counts = np.array([0, 0]), np.array([0, 0]), np.array([0, 9])
    assert iou(*counts).tolist() == dice(*counts).tolist() == [1, 0]
