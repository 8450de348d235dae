"""Prefetching: in order, bounded, and over when the consumer is gone."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsseg.serve.pipeline import PrefetchLimits, prefetch


@given(
    items=st.lists(st.integers(0, 50), max_size=30),
    threads=st.integers(1, 4),
    results=st.integers(1, 8),
    nbytes=st.integers(0, 100),
)
def test_results_are_those_of_map_in_the_same_order(items, threads, results, nbytes):
    found = prefetch(lambda x: x * 2, items, PrefetchLimits(threads, results, nbytes), lambda x: x)
    assert list(found) == [x * 2 for x in items]


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (PrefetchLimits(2, 5, 1000), 5),
        (PrefetchLimits(2, 50, 30), 3),
        (PrefetchLimits(2, 50, 0), 1),
    ],
)
def test_no_more_is_begun_than_there_is_room_for(limits: PrefetchLimits, most: int):
    drawn: list[int] = []

    def items():
        for index in range(40):
            drawn.append(index)
            yield index

    for taken, _ in enumerate(prefetch(lambda x: x, items(), limits, lambda _: 10), start=1):
        assert len(drawn) - taken <= most


def test_an_error_comes_in_its_turn():
    def work(x: int) -> int:
        if x == 2:
            raise ValueError("two")
        return x

    found = prefetch(work, range(5), PrefetchLimits(2, 4, 100), lambda _: 1)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(found)


def test_closing_cancels_what_has_not_begun():
    may_go_on = threading.Event()
    begun: list[int] = []

    def work(x: int) -> int:
        begun.append(x)
        if x:
            may_go_on.wait(10)
        return x

    found = prefetch(work, range(20), PrefetchLimits(1, 10, 1000), lambda _: 1)
    assert next(found) == 0
    threading.Timer(0.2, may_go_on.set).start()
    found.close()
    assert len(begun) <= 2
