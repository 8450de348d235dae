"""An engine that hangs, crashes or raises, in a process of its own, costs one scan its result."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.serve.conftest import make_manifest, make_scan, rows, run, write_pictures
from tests.serve.engines import faulty
from tests.serve.test_batching import segment
from wsseg.imaging import Failure
from wsseg.imaging.errors import WssegError
from wsseg.serve.batching import Limits
from wsseg.serve.engines.base import (
    EngineFailedError,
    EngineGoneError,
    EngineHungError,
    EngineLostError,
    EngineOptions,
    OutOfMemoryError,
)
from wsseg.serve.engines.child import ChildEngine
from wsseg.serve.engines.process import _spare, prepared
from wsseg.serve.measure import MeasuredScan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="engines share no memory there"),
]
ROOT = Path(__file__).parents[3]
SHORT = 1.0
"""Seconds after which an engine of these tests counts as hung."""


@pytest.fixture
def starts(tmp_path: Path, monkeypatch) -> Path:
    """A folder with a file for each time that an engine was opened."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    folder = tmp_path / "starts"
    folder.mkdir()
    monkeypatch.setenv(faulty.FOLDER_OF_STARTS, str(folder))
    return folder


def child(opener: str = "opened", seconds: float = 60.0) -> ChildEngine:
    return ChildEngine(
        Path(), make_manifest(), EngineOptions(), seconds, f"tests.serve.engines.faulty:{opener}"
    )


def batch(*firsts: float) -> np.ndarray:
    """A slice for each number, which is its first pixel."""
    pixels = np.random.default_rng(0).uniform(0, 255, (len(firsts), 1, 6, 8)).astype(np.float32)
    pixels[:, 0, 0, 0] = firsts
    return pixels


def scans(*firsts: tuple[float, ...]):
    """A scan for each tuple, with a slice for each of its numbers."""
    return [make_scan(batch(*each)[:, 0] + 0.0, f"scan{n}") for n, each in enumerate(firsts)]


def outcomes(found) -> list[str]:
    """ "ok" for a scan that was measured, else the reason why not."""
    return ["ok" if isinstance(item, MeasuredScan) else item.reason for item in found]


def test_a_process_of_its_own_gives_the_bits_of_this_process(starts: Path):
    engine, pixels = child(), batch(1, 2, 3)
    found, probability = engine.with_probability(pixels)
    expected, same = faulty.FaultyEngine().with_probability(pixels)
    for name in ("masks", "pixel_areas", "soft_areas"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert found.area_variances is None
    np.testing.assert_array_equal(probability, same)
    assert (engine.name, engine.precision, engine.file) == ("faulty-gpu", "fp16", "model.onnx")


def test_results_stay_when_the_next_batch_is_larger(starts: Path):
    engine = child()
    first = engine(batch(1))
    before = first.masks.copy()
    engine(np.zeros((9, 1, 40, 50), np.float32))
    np.testing.assert_array_equal(first.masks, before)


@pytest.mark.parametrize(
    ("first", "error", "words"),
    [
        (faulty.ABORT, EngineLostError, "ended by SIGABRT"),
        (faulty.HANG, EngineHungError, "did not answer within 1 s"),
        (faulty.LOOP, EngineHungError, "did not answer within 1 s"),
        (faulty.RAISE, EngineFailedError, "ZeroDivisionError: division by zero"),
        (faulty.NO_MEMORY, OutOfMemoryError, "out of memory"),
    ],
)
def test_an_engine_that_fails_at_a_batch_computes_the_next_one(
    first: float, error: type[Exception], words: str, starts: Path
):
    engine = child(seconds=SHORT)
    with pytest.raises(error, match=words):
        engine(batch(1, first))
    assert engine(batch(1)).masks.shape == (1, 2, 6, 8)
    assert len(list(starts.iterdir())) == (2 if issubclass(error, EngineLostError) else 1)


def test_only_the_scan_at_which_the_engine_is_lost_again_is_blamed(starts: Path):
    engine = child(seconds=SHORT)
    stack = scans((1, 2), (3, faulty.ABORT), (4, 5), (6,), (7, faulty.HANG), (8,))
    found = list(segment(stack, engine, Limits(slices=8)))
    failed = [item for item in found if isinstance(item, Failure)]
    assert outcomes(found) == ["ok", "engine_failed", "ok", "ok", "engine_hung", "ok"]
    assert [each.source for each in failed] == ["scan1", "scan4"]
    assert "try it with another --engine" in failed[0].message


def test_a_scan_that_shares_a_slice_with_a_fatal_one_is_measured(starts: Path):
    fatal, other = scans((1, faulty.ABORT), (2, 3))
    other.pixels[0] = fatal.pixels[0]
    found = list(segment([fatal, other], child(), Limits(slices=8)))
    assert outcomes(found) == ["engine_failed", "ok"]
    np.testing.assert_array_equal(
        found[1].areas.pixel[0], (other.pixels[0] >= faulty.LEVELS[0, :]).sum((1, 2))
    )


def test_an_engine_that_does_not_start_again_ends_the_run(starts: Path):
    engine = child("opens_once")
    with pytest.raises(EngineGoneError, match="faulty-gpu in fp16 failed and does not"):
        list(segment(scans((1,), (faulty.ABORT,), (2,)), engine, Limits(slices=1)))


def test_an_engine_that_dies_when_it_is_opened_is_an_error_of_one_line(starts: Path):
    with pytest.raises(
        EngineGoneError, match=r"does not start: its process ended by SIGABRT"
    ) as told:
        child("dies_when_opened")
    assert told.value.exit_code == 4
    assert "\n" not in str(told.value)


def test_what_a_user_can_correct_is_told_from_the_process(starts: Path):
    with pytest.raises(WssegError, match="this model has no engine: export one"):
        child("refuses")


def test_another_engine_does_not_take_the_place_of_a_lost_one(starts: Path):
    engine = child("another_the_second_time")
    with pytest.raises(EngineLostError):
        engine(batch(faulty.ABORT))
    with pytest.raises(EngineGoneError, match="only faulty-cpu in fp16 starts"):
        engine(batch(1))


def test_a_process_that_was_killed_is_taken_for_want_of_memory(starts: Path):
    engine = child()
    pixels = batch(faulty.HANG)
    threading.Timer(0.5, os.kill, (engine.pid, signal.SIGKILL)).start()
    with pytest.raises(OutOfMemoryError, match="no memory left"):
        engine(pixels)


def test_signals_to_the_group_do_not_end_a_batch(starts: Path):
    engine = child()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(engine.pid, number)
    assert engine(batch(1)).masks.any()
    assert len(list(starts.iterdir())) == 1


def test_a_prepared_process_is_taken_and_one_that_ended_is_not(starts: Path):
    with prepared():
        waiting = _spare[0].pid
        assert child().pid == waiting
    with prepared():
        os.kill(_spare[0].pid, signal.SIGKILL)
        while not _spare[0].ended:
            time.sleep(0.01)
        assert child()(batch(1)).masks.any()


SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests.serve.engines.test_child import batch, child
engine = child()
engine(batch(1))
print(engine.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process of its parent's end"
)
def test_the_process_ends_with_a_parent_that_is_killed(starts: Path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_in_a_process_of_its_own_writes_the_tables_of_one_process(
    model: Path, tmp_path: Path
):
    folder = write_pictures(tmp_path / "scans", 5)
    run(model, tmp_path / "here" / "ratios.csv", folder, masks=tmp_path / "here" / "masks")
    run(model, tmp_path / "r" / "ratios.csv", folder, masks=tmp_path / "r" / "masks", isolate=True)
    for path in (tmp_path / "here").rglob("*"):
        if path.is_file():
            other = tmp_path / "r" / path.relative_to(tmp_path / "here")
            assert other.read_bytes() == path.read_bytes()
    assert len(rows(tmp_path / "r" / "ratios.csv")) == 15


def test_a_process_that_was_started_for_nothing_ends():
    with prepared():
        process = _spare[0].pid
        assert Path(f"/proc/{process}").exists()
    assert not Path(f"/proc/{process}").exists()
    assert not _spare
