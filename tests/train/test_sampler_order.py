"""The order of the cases in an epoch, and how processes share it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsseg.imaging import WssegError
from wsseg.train.data.sampler import batch_shares, epoch_indices, with_repeats


def test_an_epoch_has_every_case_once_and_an_order_of_its_own():
    order = epoch_indices(50, 3, 1)
    assert sorted(order) == list(range(50))
    assert order == epoch_indices(50, 3, 1)
    assert order != epoch_indices(50, 3, 2)
    assert order != epoch_indices(50, 4, 1)


located_sets = st.integers(1, 80).flatmap(
    lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1), min_size=1))
)


@given(cases=located_sets, least=st.floats(0, 1), seed=st.integers(0, 9))
def test_located_cases_are_repeated_to_the_wanted_share_of_an_epoch(cases, least, seed):
    count, located = cases
    order = epoch_indices(count, seed, 1, located=sorted(located), least=least)
    assert len(order) == count
    found = sum(place in located for place in order)
    assert found >= round(least * count)
    assert order == epoch_indices(count, seed, 1, located=sorted(located), least=least)
    if len(located) >= round(least * count):
        assert order == epoch_indices(count, seed, 1)
    else:
        assert found == round(least * count)


@given(cases=located_sets, least=st.floats(0, 1))
def test_no_located_case_is_repeated_once_more_than_another_is_seen(cases, least):
    count, located = cases
    order = epoch_indices(count, 0, 1, located=sorted(located), least=least)
    times = [order.count(place) for place in located]
    assert min(times) >= 1
    assert max(times) - min(times) <= 1
    others = [place for place in order if place not in located]
    assert len(set(others)) == len(others)


def test_every_other_case_is_seen_in_some_epoch():
    seen = {
        place
        for epoch in range(40)
        for place in epoch_indices(20, 0, epoch, located=[3, 5], least=0.5)
    }
    assert seen == set(range(20))


def test_the_located_cases_are_spread_over_the_epoch():
    order = epoch_indices(400, 0, 1, located=range(8), least=0.5)
    halves = [sum(place < 8 for place in half) for half in (order[:200], order[200:])]
    assert sum(halves) == 200
    assert min(halves) > 80


def test_without_located_cases_every_case_is_seen_once():
    assert epoch_indices(9, 0, 1, located=[], least=0.5) == epoch_indices(9, 0, 1)


def test_each_place_knows_how_often_it_came_before():
    assert with_repeats([2, 0, 2, 2, 1, 0]) == [(2, 0), (0, 0), (2, 1), (2, 2), (1, 0), (0, 1)]


@given(count=st.integers(1, 60), share=st.integers(1, 5), world=st.sampled_from([1, 2, 3, 4]))
def test_processes_together_see_the_batches_of_one(count, share, world):
    size = max(share * world, 2 * world)
    order = epoch_indices(count, 0, 0)
    alone = list(batch_shares(order, size))
    parts = [list(batch_shares(order, size, rank, world)) for rank in range(world)]
    together = [[place for part in step for place in part] for step in zip(*parts, strict=True)]
    assert together == alone
    assert {len(batch) for batch in alone} == {size}
    assert len(alone) == max(1, count // size)


def test_fewer_cases_than_a_batch_are_repeated_to_fill_one():
    assert list(batch_shares([2, 0, 1], 8)) == [[2, 0, 1, 2, 0, 1, 2, 0]]


@pytest.mark.parametrize(("size", "world"), [(1, 1), (3, 2)])
def test_a_batch_that_cannot_be_normed_or_shared_out_is_refused(size, world):
    with pytest.raises(WssegError, match="change batch or devices"):
        list(batch_shares([0, 1, 2, 3], size, 0, world))


def test_no_training_case_is_refused():
    with pytest.raises(WssegError, match="no training case"):
        list(batch_shares([], 4))
