import pytest

from wsseg.serve.engines.benchmark import interleaved, paired_ratio, seconds


def test_actions_take_turns_and_their_answers_stay_in_order():
    calls = iter(range(6))
    found = interleaved({name: lambda: next(calls) for name in "ab"}, 3)
    assert found == {"a": [0, 2, 4], "b": [1, 3, 5]}


def test_a_round_that_is_slow_for_all_changes_no_ratio():
    assert paired_ratio([1, 10, 1], [2, 20, 2]) == 0.5


def test_rounds_that_do_not_belong_together_are_no_pairs():
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio([1, 2], [1])


def test_a_call_is_timed():
    assert 0 <= seconds(lambda: None) < 1
