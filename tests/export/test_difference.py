"""How far masks and ratios are apart: of what, over what."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsseg.export.difference import Reference, area_ratios, difference, overall
from wsseg.export.parity import (
    make_standard,
)
from wsseg.imaging.definitions import RatioDefinition

CLASSES = ("organ", "tumour")
RATIOS = (
    RatioDefinition(name="organ", numerator="organ"),
    RatioDefinition(name="tumour in organ", numerator="tumour", denominator="organ"),
)
THRESHOLDS = (0.5, 0.4)


@pytest.fixture(scope="module")
def standard(predictor, slices):
    return make_standard(predictor, slices, THRESHOLDS, CLASSES, RATIOS)


def test_averages_are_of_the_worst_class_over_the_slices_that_show_it(standard):
    masks = np.zeros((8, 2, 20, 20), np.uint8)
    masks[:, 0, :10] = 1  # the organ is in every slice, the tumour in one
    masks[3, 1, :4, :4] = 1
    probability = masks.astype(np.float32)
    reference = Reference(0, np.zeros((8, 1, 20, 20), np.float32), probability)
    lost = masks.copy()
    lost[:, 1] = 0
    found = difference(lost, reference, standard, probability=0, border=0)
    assert found.mask_iou == 0
    assert found.ratio_mean == pytest.approx(16 / 200)
    assert overall([found, found]).ratio_mean == pytest.approx(16 / 200)
    same = difference(masks, reference, standard, probability=0, border=0)
    assert (same.mask_iou, same.ratio_mean) == (1, 0)


@given(st.data())
def test_ratios_follow_their_definitions(data):
    masks = np.array(
        data.draw(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=2, max_size=2))
    )
    masks = masks.reshape(1, 2, 2, 3).astype(np.uint8)
    definitions = (
        RatioDefinition(name="a", numerator="organ"),
        RatioDefinition(name="b", numerator="organ", denominator="foreground"),
        RatioDefinition(name="c", numerator="tumour", denominator="organ"),
    )
    found = area_ratios(masks, CLASSES, definitions)[0]
    organ, tumour = (int(mask.sum()) for mask in masks[0])
    either = int((masks[0, 0] | masks[0, 1]).sum())
    wanted = [
        organ / 6,
        organ / either if either else np.nan,
        tumour / organ if organ else np.nan,
    ]
    assert np.array_equal(found, wanted, equal_nan=True)
