"""The rule that tells the best epoch, and the choice it makes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsseg.imaging import WssegError
from wsseg.train.validation import choose_rule, update, weak_score

SHARE = st.floats(0, 1)


@pytest.mark.parametrize(
    ("masks", "weak", "rule"), [(1, 3, "mask"), (0, 3, "weak"), (0, 0, "last")]
)
def test_auto_takes_the_strongest_evidence_there_is(masks, weak, rule):
    assert choose_rule("auto", cases=3, masks=masks, weak=weak) == rule


@pytest.mark.parametrize(("wanted", "lacks"), [("mask", "a mask"), ("weak", "a ratio or marks")])
def test_asking_for_evidence_that_is_not_there_is_an_error(wanted, lacks):
    with pytest.raises(WssegError, match=f"none of the 4 validation cases has {lacks}"):
        choose_rule(wanted, cases=4, masks=0, weak=0)


@given(recall=SHARE, error=SHARE)
def test_the_weak_score_is_within_its_bounds(recall, error):
    score = weak_score({"mark_recall": recall, "relative_ratio_error": error})
    assert -1 <= score <= 1


def test_neither_the_full_nor_the_empty_mask_wins_by_the_weak_score():
    good = weak_score({"mark_recall": 0.9, "relative_ratio_error": 0.2})
    full = weak_score({"mark_recall": 1.0, "relative_ratio_error": 0.94})
    empty = weak_score({"mark_recall": 0.0, "relative_ratio_error": 1.0})
    assert good > full > empty


def _course(rule, scores):
    choice = None
    for epoch, score in enumerate(scores, start=1):
        choice = update(choice, epoch, rule, {} if score is None else {"iou": score})
    return choice


def test_the_best_epoch_is_kept_and_the_later_one_of_equals():
    assert _course("mask", [0.1, 0.6, 0.5]).epoch == 2
    assert _course("mask", [0.0, 0.0, 0.0]).epoch == 3


def test_an_epoch_without_validation_never_replaces_one_with():
    assert _course("mask", [None, None, 0.3, None]).epoch == 3


def test_without_validation_the_last_epoch_is_kept():
    choice = _course("last", [0.9, 0.1])
    assert (choice.epoch, choice.score) == (2, None)
