"""Validation figures, checked against torchmetrics and against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

from wsseg.imaging import PixelCounts, area_ratios
from wsseg.train.metrics import (
    CaseCounts,
    case_dice,
    case_iou,
    mark_masks,
    mark_recall,
    missed,
    pixels,
    ratio_error,
    relative_ratio_error,
    summarise,
)

MASKS = arrays.arrays(bool, (2, 5, 6))


def _counts(predicted, true=None, marks=None, known=(np.nan, np.nan), row=2):
    predicted = torch.from_numpy(np.asarray(predicted))
    true = None if true is None else torch.from_numpy(np.asarray(true))
    marks = torch.zeros(predicted.shape[1:], dtype=torch.int64) if marks is None else marks
    marked = mark_masks(marks, len(predicted))
    counts = PixelCounts.of_masks(predicted.numpy())
    return CaseCounts(
        row=row,
        predicted=pixels(predicted),
        marked=pixels(marked),
        found=pixels(marked & predicted),
        ratio=area_ratios(counts, ["image"] * len(predicted)),
        known=np.array(known[: len(predicted)], np.float64),
        true=None if true is None else pixels(true),
        overlap=None if true is None else pixels(true & predicted),
    )


@given(predicted=MASKS, true=MASKS)
def test_iou_and_dice_are_those_of_torchmetrics(predicted, true):
    there = [k for k in range(2) if predicted[k].any() or true[k].any()]
    ious = [1.0] * (2 - len(there)) + [
        float(binary_jaccard_index(torch.from_numpy(predicted[k]), torch.from_numpy(true[k])))
        for k in there
    ]
    dices = [1.0] * (2 - len(there)) + [
        float(binary_f1_score(torch.from_numpy(predicted[k]), torch.from_numpy(true[k])))
        for k in there
    ]
    case = _counts(predicted, true)
    assert case_iou(case) == pytest.approx(np.mean(ious), abs=1e-6)
    assert case_dice(case) == pytest.approx(np.mean(dices), abs=1e-6)


@given(masks=st.lists(st.tuples(arrays.arrays(bool, (1, 4, 4)), arrays.arrays(bool, (1, 4, 4)))))
def test_pooled_figures_are_those_of_all_pixels_together(masks):
    figures = summarise([_counts(predicted, true) for predicted, true in masks])
    if not masks:
        assert figures == {}
        return
    predicted, true = (torch.from_numpy(np.stack(part)) for part in zip(*masks, strict=True))
    if predicted.any() or true.any():
        whole = float(binary_jaccard_index(predicted, true))
        assert figures["pooled_iou"] == pytest.approx(whole, abs=1e-6)
        assert figures["pooled_dice"] == pytest.approx(2 * whole / (1 + whole), abs=1e-6)
    else:
        assert figures["pooled_iou"] == figures["pooled_dice"] == 1


def test_nothing_predicted_where_nothing_is_agrees_fully():
    empty = np.zeros((1, 3, 3), bool)
    figures = summarise([_counts(empty, empty)])
    assert figures["iou"] == figures["dice"] == figures["pooled_iou"] == 1


@given(predicted=MASKS, known=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_ratio_errors_stay_within_0_and_1(predicted, known):
    case = _counts(predicted, known=known)
    assert 0 <= ratio_error(case) <= 1
    assert 0 <= relative_ratio_error(case) <= 1


def test_a_ratio_error_is_relative_to_the_larger_of_the_two():
    half = np.zeros((1, 4, 4), bool)
    half[0, :2] = True
    assert relative_ratio_error(_counts(half, known=(0.25,))) == pytest.approx(0.5)
    assert relative_ratio_error(_counts(half, known=(1.0,))) == pytest.approx(0.5)
    assert ratio_error(_counts(half, known=(0.25,))) == pytest.approx(0.25)
    assert relative_ratio_error(_counts(~half & half, known=(0.0,))) == 0


def test_mark_recall_counts_marked_pixels_of_marked_classes_only():
    predicted = np.zeros((2, 2, 4), bool)
    predicted[0, 0, :3] = True
    marks = torch.tensor([[1, 1, 0, 255], [1, 1, 0, 0]])
    assert mark_recall(_counts(predicted, marks=marks)) == 0.5


def test_figures_without_evidence_are_left_out_and_do_not_weigh():
    full = np.ones((1, 2, 2), bool)
    figures = summarise([_counts(full, full), _counts(full), _counts(full, known=(0.5,))])
    assert figures["iou"] == 1
    assert figures["ratio_error"] == 0.5
    assert "mark_recall" not in figures


def test_a_class_is_missed_where_no_case_that_has_it_shows_a_pixel_of_it():
    nothing, something = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    something[1, 0, 0] = True
    assert missed([]) == []
    assert missed([_counts(nothing, known=(0.0, np.nan))]) == []
    assert missed([_counts(nothing, known=(0.1, 0.2))] * 3) == [(0, 3), (1, 3)]
    by_mask = _counts(nothing, true=something)
    by_mark = _counts(nothing, marks=torch.eye(4, dtype=torch.int64))
    assert missed([by_mask, by_mark]) == [(0, 1), (1, 1)]
    assert missed([_counts(nothing, known=(0.1, 0.2)), _counts(something)]) == [(0, 1)]
