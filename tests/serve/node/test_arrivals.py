"""When a series is complete."""

from wsseg.serve.node.arrivals import Arrivals

NEVER = 1e9


def test_a_pause_completes_a_series():
    assert completed(Arrivals(settle=0, settle_released=NEVER)) == ["series"]
    assert completed(Arrivals(settle=NEVER, settle_released=0)) == []


def completed(arrivals: Arrivals) -> list[str]:
    arrivals.came("series", 1)
    return arrivals.complete()


def test_the_release_of_all_who_sent_a_series_completes_it():
    arrivals = Arrivals(settle=NEVER, settle_released=0)
    arrivals.came("series", 1)
    arrivals.came("series", 2)
    arrivals.came("other", 2)
    arrivals.ended(1, released=True)
    assert arrivals.complete() == []
    arrivals.ended(2, released=True)
    assert arrivals.complete() == ["series", "other"]
    arrivals.came("series", 3)
    assert arrivals.complete() == ["other"]


def test_an_abort_completes_nothing():
    arrivals = Arrivals(settle=NEVER, settle_released=0)
    arrivals.came("series", 1)
    arrivals.ended(1, released=False)
    assert arrivals.complete() == []


def test_a_series_that_was_passed_on_begins_anew():
    arrivals = Arrivals(settle=NEVER, settle_released=0)
    arrivals.came("series", 1)
    arrivals.forget("series")
    arrivals.ended(1, released=True)
    assert len(arrivals) == 0


def test_a_sender_that_aborted_keeps_a_series_open_until_it_comes_again():
    arrivals = Arrivals(settle=NEVER, settle_released=0)
    arrivals.came("series", 1)
    arrivals.came("series", 2)
    arrivals.ended(1, released=False)
    arrivals.came("series", 2)
    arrivals.ended(2, released=True)
    assert arrivals.complete() == []
    arrivals.came("series", 3)
    arrivals.ended(3, released=True)
    assert arrivals.complete() == ["series"]
