"""Counting a prediction at its own resolution, when it is done, and what is shown of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsseg.imaging import RatioDefinition, Window
from wsseg.train.cases import Case, read_cases, spread
from wsseg.train.config import TrainConfig
from wsseg.train.data.dataset import CaseDataset, Native
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.metrics import CaseCounts, case_iou
from wsseg.train.report import agreement, choose_examples, reported_ratios
from wsseg.train.validation import (
    count,
    evaluate,
    is_due,
    validation_interval,
    weakly_labelled,
)

CASE = Case(row=2, image=Path("slice.png"), ratios=(0.25,))


def test_a_pixel_belongs_to_a_class_from_probability_one_half_on():
    native = Native(
        torch.zeros(1, 1, 4),
        torch.tensor([[[True, True, False, False]]]),
        torch.tensor([[1, 1, 0, 0]]),
    )
    counts = count(CASE, native, torch.tensor([[[0.5, 0.49, 0.9, 0.0]]]), ("image",))
    assert counts.predicted.tolist() == [2]
    assert counts.overlap is not None
    assert counts.overlap.tolist() == [1]
    assert counts.marked.tolist() == [2]
    assert counts.found.tolist() == [1]
    assert counts.ratio.tolist() == [0.5]
    assert counts.known.tolist() == [0.25]


def test_cases_are_judged_on_their_own_grids_in_the_order_asked_for(make_blobs, tmp_path):
    table = read_cases(make_blobs(tmp_path, 3, 1))
    cases = CaseDataset(table.cases, table.classes, (), Preprocess(Window(), 32, 1))
    counts = evaluate(
        lambda raw: (raw > 120).float(), cases, (2, 0), ("image",), torch.device("cpu")
    )
    assert [case.row for case in counts] == [4, 2]
    assert [case_iou(case) > 0.9 for case in counts] == [True, True]
    for case, number in zip(counts, (2, 0), strict=True):
        assert case.ratio[0] == pytest.approx(table.cases[number].ratios[0], abs=0.02)


@given(validated=st.integers(0, 2000), trained=st.integers(1, 2000), epochs=st.integers(1, 50))
def test_the_last_epoch_is_always_validated(validated, trained, epochs):
    interval = validation_interval(validated, trained)
    config = TrainConfig(epochs=epochs)
    assert is_due(epochs, interval, config)
    if validated <= 2 * trained:
        assert all(is_due(epoch, interval, config) for epoch in range(1, epochs + 1))


def test_many_validation_cases_are_judged_only_every_few_epochs():
    assert validation_interval(600, 100) == 3


def test_a_case_is_weakly_labelled_by_a_ratio_marks_or_points():
    bare = Case(row=2, image=Path("a.png"), ratios=(None,))
    pointed = Case(row=3, image=Path("a.png"), ratios=(None,), points=((1, 1, 1),))
    assert weakly_labelled([bare, CASE, pointed]) == 2


@given(count=st.integers(1, 50), wanted=st.integers(1, 12))
def test_samples_are_different_cases_spread_over_the_table(count, wanted):
    places = spread(range(count), wanted)
    assert len(set(places)) == len(places) == min(count, wanted)
    assert places[0] == 0
    assert wanted == 1 or places[-1] == count - 1


def _counts(iou, row=2):
    one = np.array([100.0])
    unknown = np.array([np.nan])
    return CaseCounts(
        row, 100 * iou * one / 100, 0 * one, 0 * one, unknown, unknown, one, 100 * iou * one / 100
    )


@given(st.lists(st.floats(0, 1), max_size=30))
def test_examples_are_the_worst_the_middle_and_the_best_each_once(ious):
    chosen = choose_examples([_counts(iou) for iou in ious])
    places = [place for _, place in chosen]
    assert len(set(places)) == len(places) == min(len(ious), 9)
    by_kind = {kind: [ious[place] for k, place in chosen if k == kind] for kind, _ in chosen}
    if len(ious) >= 3:
        assert min(ious) in by_kind["worst"]
        assert max(ious) in by_kind["best"]
        assert max(by_kind["worst"]) <= min(by_kind["median"])
        assert max(by_kind["median"]) <= min(by_kind["best"])


def test_agreement_goes_by_the_best_evidence_a_case_has():
    zero, nan = np.array([0.0]), np.array([np.nan])
    weak = CaseCounts(2, zero, zero, zero, np.array([0.2]), np.array([0.4]))
    marked = CaseCounts(2, zero, np.array([4.0]), np.array([1.0]), nan, nan)
    assert agreement(_counts(0.3)) == pytest.approx(0.3)
    assert agreement(weak) == 0.5
    assert agreement(marked) == 0.25
    assert choose_examples([CaseCounts(2, zero, zero, zero, nan, nan)]) == []


def test_a_model_reports_the_ratios_of_the_settings_or_each_class_over_the_image():
    named = RatioDefinition(name="tumour burden", numerator="tumour", denominator="kidney")
    assert reported_ratios(TrainConfig(ratios=(named,)), ("kidney", "tumour")) == (named,)
    assert [r.name for r in reported_ratios(TrainConfig(), ("kidney", "tumour"))] == [
        "kidney",
        "tumour",
    ]
