"""The engine works while the rest goes on, and on as many batches at once as it takes."""

import contextlib
import threading

import numpy as np
import pytest

from tests.serve.conftest import BROKEN_VALUE, LEVELS, ThresholdEngine, make_scan
from tests.serve.test_batching import make_scans, segment
from wsseg.serve.batching import Limits
from wsseg.serve.engines.base import EngineError, Prediction
from wsseg.serve.measure import MeasuredScan

PATIENCE = 10.0  # seconds until a test that would wait for ever fails


class Meeting(ThresholdEngine):
    """Takes several calls at once; each of the first waits until `in_flight` have begun."""

    def __init__(self, in_flight: int) -> None:
        super().__init__()
        self.in_flight = in_flight
        self.most_at_once = 0
        self._inside = 0
        self._lock = threading.Lock()
        self._all_in = threading.Barrier(in_flight)

    def __call__(self, pixels: np.ndarray, /) -> Prediction:
        with self._lock:
            self._inside += 1
            self.most_at_once = max(self.most_at_once, self._inside)
        self._all_in.wait(PATIENCE)
        found = super().__call__(pixels)
        with self._lock:
            self._inside -= 1
        return found


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_as_many_batches_are_at_work_as_the_engine_takes_and_no_more(in_flight: int):
    engine = Meeting(in_flight)
    scans = make_scans([(2, (6, 8))] * 6)
    found = list(segment(scans, engine, Limits(slices=2)))
    assert engine.most_at_once == in_flight
    assert [item.scan.ref for item in found] == [scan.ref for scan in scans]
    for item, scan in zip(found, scans, strict=True):
        masks = np.asarray(scan.pixels)[:, None] >= LEVELS.reshape(1, 2, 1, 1)
        np.testing.assert_array_equal(item.areas.pixel, masks.sum((2, 3)))


def test_the_next_batch_is_ready_before_the_engine_is_through_with_one():
    """The engine ends its first batch only once the third scan was drawn."""
    drawn = threading.Event()

    class Waiting(ThresholdEngine):
        def __call__(self, pixels: np.ndarray, /) -> Prediction:
            assert drawn.wait(PATIENCE)
            return super().__call__(pixels)

    def scans():
        for number, scan in enumerate(make_scans([(1, (6, 8))] * 4)):
            if number == 1:
                drawn.set()
            yield scan

    assert len(list(segment(scans(), Waiting(), Limits(slices=1)))) == 4


def test_no_more_batches_wait_than_one():
    begun = threading.Semaphore(0)
    drawn: list[int] = []
    seen: list[int] = []

    class Slow(ThresholdEngine):
        def __call__(self, pixels: np.ndarray, /) -> Prediction:
            seen.append(len(drawn))
            assert begun.acquire(timeout=PATIENCE)
            return super().__call__(pixels)

    def scans():
        for number, scan in enumerate(make_scans([(1, (6, 8))] * 10)):
            drawn.append(number)
            begun.release()
            yield scan

    list(segment(scans(), Slow(), Limits(slices=1)))
    assert all(drawn <= number + 3 for number, drawn in enumerate(seen))


def test_an_engine_that_does_not_say_takes_one_call_at_a_time():
    """No call meets another one at the barrier, where two would wait for each other."""
    met: list[int] = []
    barrier = threading.Barrier(2)

    class Alone(ThresholdEngine):
        def __call__(self, pixels: np.ndarray, /) -> Prediction:
            with contextlib.suppress(threading.BrokenBarrierError):
                met.append(barrier.wait(0.1))
            return super().__call__(pixels)

    assert len(list(segment(make_scans([(1, (6, 8))] * 4), Alone(), Limits(slices=1)))) == 4
    assert not met


@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_batch_that_fails_among_others_costs_its_own_scan_only(in_flight: int):
    scans = make_scans([(2, (6, 8))] * 5)
    np.asarray(scans[1].pixels)[0, 0, 0] = BROKEN_VALUE
    engine = ThresholdEngine()
    engine.in_flight = in_flight  # type: ignore[attr-defined]
    found = list(segment(scans, engine, Limits(slices=3)))
    assert [isinstance(item, MeasuredScan) for item in found] == [True, False, True, True, True]


def test_an_error_of_another_kind_in_an_engine_costs_its_own_scan_only():
    class Mistaken(ThresholdEngine):
        def __call__(self, pixels: np.ndarray, /) -> Prediction:
            if (pixels[:, 0, 0, 0] == BROKEN_VALUE).any():
                raise ZeroDivisionError("division by zero")
            return super().__call__(pixels)

    scans = make_scans([(2, (6, 8))] * 3)
    np.asarray(scans[1].pixels)[0, 0, 0] = BROKEN_VALUE
    first, failed, last = segment(scans, Mistaken())
    assert (failed.source, failed.reason) == ("scan1", "engine_failed")
    assert "slice 0: could not be computed: ZeroDivisionError: division by zero" in failed.message
    assert isinstance(first, MeasuredScan)
    assert isinstance(last, MeasuredScan)


def test_an_interrupted_run_begins_no_further_batch():
    engine = ThresholdEngine()
    stream = segment(make_scans([(1, (6, 8))] * 50), engine, Limits(slices=1))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(engine.shapes) <= 3
    assert not [t for t in threading.enumerate() if t.name.startswith("wsseg-engine")]


def test_a_known_slice_that_the_engine_fails_alone_is_a_failure():
    class Half(ThresholdEngine):
        def with_probability(self, pixels, /):
            raise EngineError("no probability today")

    from wsseg.serve.recover import KnownRatio

    scan = make_scan(np.zeros((1, 6, 8)))
    known = {0: (KnownRatio(2, "bright", 0, 0.25),)}
    found = list(
        segment([scan], Half(), skip=lambda _scan: lambda _pixels: True, known=lambda _: known)
    )
    assert [(item.reason, item.source) for item in found] == [("engine", "scan")]
