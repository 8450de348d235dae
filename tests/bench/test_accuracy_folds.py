"""Which pictures the benchmark teaches, and which it holds out."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy.datasets import Picture
from bench.accuracy.folds import FOLDS, dealt_folds, fold_of, parts


def named(groups: list[str]) -> list[Picture]:
    return [Picture(n, Path("i.png"), Path("l.png"), group) for n, group in enumerate(groups)]


groups = st.lists(st.sampled_from([f"p{number}" for number in range(20)]), min_size=1)


@given(groups, st.integers(0, FOLDS - 1), st.booleans())
def test_a_group_is_never_split(groups, fold, dealt):
    pictures = named(groups)
    seen: dict[str, set[str]] = {}
    for picture, part in zip(pictures, parts(pictures, fold, dealt=dealt), strict=True):
        seen.setdefault(picture.group, set()).add(part)
    assert all(len(found) == 1 for found in seen.values())


@given(groups, st.booleans())
def test_every_picture_is_held_out_exactly_once(groups, dealt):
    pictures = named(groups)
    by_fold = [parts(pictures, fold, dealt=dealt) for fold in range(FOLDS)]
    for held in zip(*by_fold, strict=True):
        assert sum(part == "held-out" for part in held) == 1


@given(st.sets(st.integers(0, 99), min_size=1))
def test_dealt_folds_differ_by_at_most_one_group(numbers):
    folds = dealt_folds({str(number) for number in numbers}).values()
    sizes = [list(folds).count(fold) for fold in range(FOLDS)]
    assert max(sizes) - min(sizes) <= 1


def test_the_fold_of_a_near_duplicate_group_is_its_hash():
    expected = int(hashlib.sha256(b"benign_327").hexdigest(), 16) % 5
    assert fold_of("benign_327") == expected == 4


@pytest.mark.parametrize("dealt", [True, False])
def test_of_many_groups_a_fifth_is_held_out_and_a_seventh_of_the_rest_validates(dealt):
    found = parts(named([f"p{number}" for number in range(2000)]), 0, dealt=dealt)
    assert found.count("held-out") / 2000 == pytest.approx(0.2, abs=0.03)
    assert found.count("val") / 1600 == pytest.approx(0.15, abs=0.03)
