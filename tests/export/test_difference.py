"""How far masks and ratios are apart: of what, over what."""

import numpy as np
import pytest

from wsseg.export.parity import Reference, difference, overall, reference_outputs
from wsseg.imaging import RatioDefinition

CLASSES = ("organ", "tumour")
RATIOS = (
    RatioDefinition(name="organ", numerator="organ"),
    RatioDefinition(name="tumour in organ", numerator="tumour", denominator="organ"),
)
THRESHOLDS = (0.5, 0.4)


@pytest.fixture(scope="module")
def standard(predictor, slices):
    return reference_outputs(predictor, slices, THRESHOLDS, CLASSES, RATIOS)


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
