"""Turns, medians, ratios from pairs, and who is left out."""

from contextlib import ExitStack

import pytest

from bench.speed.contest import Entrant, EntrantError, Turn, contest, memory
from bench.speed.results import Place
from bench.speed.scenario import Candidate, Scenario, fixed


def entrant(what, seconds, *peers, size=256, calls=None, **told):
    """An entrant whose turns take these seconds, for 10 slices each."""
    left = iter(seconds)

    def turn():
        if calls is not None:
            calls.append(what)
        return Turn(10, next(left), **told)

    return Entrant(what, "fp32", size, 1, turn, peers)


def test_entrants_take_turns():
    calls: list[str] = []
    contest("engines", [entrant(n, [1, 1, 1], calls=calls) for n in "ABC"], 3)
    assert calls == list("ABCABCABC")


def test_a_rate_is_the_median_over_rounds_and_a_ratio_that_of_pairs():
    # The second round is ten times slower for both: it changes no ratio.
    fast, slow = entrant("fast", [1, 10, 2], "slow fp32"), entrant("slow", [2, 20, 2])
    row = next(row for row in contest("engines", [fast, slow], 3) if row.what == "fast")
    assert row.per_second == pytest.approx(5)
    assert (row.ratio, row.ratio_low, row.ratio_high) == pytest.approx((2, 1, 2))


def test_every_peer_gives_a_row_and_none_a_row_without_ratio():
    entrants = [entrant("a", [1], "b fp32", "c fp32", "gone fp32"), entrant("b", [2])]
    rows = contest("engines", [*entrants, entrant("c", [4])], 1)
    assert [(row.what, row.peer, row.ratio) for row in rows] == [
        ("a", "b fp32", 2),
        ("a", "c fp32", 4),
        ("b", "", None),
        ("c", "", None),
    ]


def test_a_peer_of_the_same_size_goes_before_one_of_another():
    loops = [entrant("loop", [3], size=256), entrant("loop", [5], size=512)]
    ours = [entrant("ours", [1], "loop fp32", size=size) for size in (256, 512, 64)]
    ratios = [row.ratio for row in contest("peers", [*ours, *loops], 1) if row.what == "ours"]
    assert ratios == [3, 5, 3]


def test_memory_is_compared_as_memory():
    few, many = entrant("few", [1], peak_mb=100.0), entrant("many", [9], "few fp32", peak_mb=103.0)
    rows = contest("memory", [few, many], 1, measure=memory)
    assert rows[1].ratio == pytest.approx(1.03)
    assert rows[1].peak_mb == 103


def test_a_command_that_tells_of_its_network_has_a_row_for_it():
    rows = contest("peers", [entrant("peer", [4, 4], inside=2.0)], 2)
    assert [(row.what, row.per_second) for row in rows] == [
        ("peer", 2.5),
        ("peer: its network alone", 5),
    ]


def test_who_fails_in_a_turn_costs_no_other_its_figures(capsys):
    turns: list[int] = []

    def failing():
        turns.append(1)
        raise EntrantError("out of memory")

    broken = Entrant("broken", "fp32", 256, 1, failing)
    rows = contest("engines", [broken, entrant("sound", [1, 1], "broken fp32")], 2)
    assert [(row.what, row.peer) for row in rows] == [("sound", "")]
    assert len(turns) == 1
    assert "broken fp32 gave up: out of memory" in capsys.readouterr().out


def test_a_contest_that_nobody_finishes_is_an_error():
    def failing():
        raise EntrantError("broken")

    with pytest.raises(EntrantError, match="nothing of engines"):
        contest("engines", [Entrant("broken", "fp32", 256, 1, failing)], 1)


def test_who_cannot_take_part_is_left_out_and_told(capsys):
    closed: list[bool] = []

    def absent(stack: ExitStack):
        raise EntrantError("no such environment")

    def there(stack: ExitStack):
        stack.callback(closed.append, True)
        return lambda: Turn(1, 1)

    def candidates(setting, place):
        return [
            Candidate("gone", "fp32", 0, 0, absent),
            Candidate("there", "fp32", 0, 0, there, ("gone fp32",)),
            Candidate("simple", "", 0, 0, fixed(lambda: Turn(1, 1))),
        ]

    scenario = Scenario("s", "", "", "", lambda _: [], candidates, lambda _: 1)
    rows = scenario.measured(None, Place("s"))  # type: ignore[arg-type]
    assert [row.what for row in rows] == ["there", "simple"]
    assert closed == [True]
    assert "without gone fp32: no such environment" in capsys.readouterr().out
