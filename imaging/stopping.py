"""What stops when nobody waits for it any more: reading threads, and processes of our own."""

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from wsseg.imaging.errors import ReadError

_own = threading.local()


@contextmanager
def reading_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads; where the block ends by an exception, they stop at their next check."""
    stop = threading.Event()
    with ThreadPoolExecutor(
        count, thread_name_prefix="wsseg", initializer=_stop_with, initargs=(stop,)
    ) as pool:
        try:
            yield pool
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _stop_with(stop: threading.Event) -> None:
    _own.stop = stop


def check_not_stopped() -> None:
    """Raise ReadError in a thread of a pool whose block has ended by an exception."""
    stop: threading.Event | None = getattr(_own, "stop", None)
    if stop is not None and stop.is_set():
        raise ReadError("stopped", "the run was interrupted")


def end_process(process: "subprocess.Popen[bytes]", parent: int) -> None:
    """End a process that this one started. parent: who started it.

    A forked process must not end those of its parent, which its copies of objects stand for.
    """
    if parent == os.getpid():
        process.kill()
        process.wait()
    else:
        process.returncode = 0  # else Popen warns of a running process
