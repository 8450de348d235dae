"""The process of an engine as its parent sees it: started, asked, watched and ended.

Only the standard library, and what needs no other, is imported here, so that a command can start
the process before it imports what it needs itself.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from wsseg.imaging.stopping import end_process

if TYPE_CHECKING:
    from wsseg.serve.engines.shared import SharedArrays

LAST_LINES = 20
_MODULE = "wsseg.serve.engines.child_main"

logger = logging.getLogger(__name__)


def nameless_file() -> int:
    """The descriptor of a file without a name, which the system frees with its last user.

    On Linux it is memory, and needs no room in /dev/shm, of which a container has little. Elsewhere
    it is a temporary file.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("wsseg-engine")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class EndedError(Exception):
    """The process has ended; the text says how."""


class SilentError(Exception):
    """The process did not answer in time."""


def _watch(descriptor: int, ends: tuple[int, int], started: SimpleQueue[Any]) -> None:
    """Start the process and log what it prints, until it ends.

    In a thread that lives as long as the process: Linux ends it with the thread that started it.
    """
    try:
        process = subprocess.Popen(
            # -P: a folder in the working directory may be named like a library.
            [sys.executable, "-P", "-m", _MODULE, str(descriptor)],
            stdin=ends[0],
            stdout=ends[1],
            stderr=subprocess.PIPE,
            pass_fds=[descriptor],
        )
    except BaseException as error:
        started.put(error)
        return
    lines: deque[str] = deque(maxlen=LAST_LINES)
    started.put((process, lines))
    printed: IO[bytes] | None = process.stderr
    if printed:
        with printed:
            for line in printed:
                lines.append(line.decode(errors="replace").rstrip())
    process.wait()


class EngineProcess:
    """A process for an engine. memory: the file that it shares with this one."""

    def __init__(self) -> None:
        self.memory = nameless_file()
        requests, self._requests = Pipe(duplex=False)
        self._answers, answers = Pipe(duplex=False)
        started: SimpleQueue[Any] = SimpleQueue()
        with requests, answers:
            ends = (requests.fileno(), answers.fileno())
            threading.Thread(
                target=_watch, args=(self.memory, ends, started), name="wsseg-watch", daemon=True
            ).start()
            found = started.get()
        if isinstance(found, BaseException):
            raise found
        process: subprocess.Popen[bytes] = found[0]
        self._process, self._lines = process, found[1]
        pipes = (self._requests, self._answers)
        self.stop = weakref.finalize(self, _stop, self._process, pipes, self.memory, os.getpid())

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a request; what is logged before it is logged here."""
        with suppress(OSError):  # an error of opening may wait to be read
            self._requests.send_bytes(json.dumps(request).encode())
        return self.answer(seconds)

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next answer. Raises SilentError if none comes in time, EndedError if none will."""
        deadline = time.monotonic() + seconds
        try:
            while True:
                if not self._answers.poll(max(0.0, deadline - time.monotonic())):
                    raise SilentError
                answer: dict[str, Any] = json.loads(self._answers.recv_bytes())
                if "log" not in answer:
                    return answer
                _log(answer["log"])
        except (EOFError, OSError) as error:
            raise EndedError(self._end()) from error

    @cached_property
    def arrays(self) -> "SharedArrays":
        """The arrays in `memory`."""
        from wsseg.serve.engines.shared import SharedArrays

        return SharedArrays(self.memory)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def killed(self) -> bool:
        """Whether somebody else killed it: mostly the system, for want of memory."""
        return self._process.poll() == -signal.SIGKILL

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self._process.poll() is not None

    def _end(self) -> str:
        """How the process ended, and what it printed last."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        code = self._process.returncode
        for line in list(self._lines):
            logger.debug("the engine's process printed: %s", line)
        if code is None:
            return "closed its output"
        with suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def _log(told: dict[str, Any]) -> None:
    target = logging.getLogger(told["name"])
    if target.isEnabledFor(told["level"]):
        record = target.makeRecord(
            *(told["name"], told["level"], "", 0, "%s", (told["message"],), None),
            extra=told["extra"],
        )
        target.handle(record)


def _stop(
    process: subprocess.Popen[bytes],
    pipes: tuple[Connection, Connection],
    memory: int,
    parent: int,
) -> None:
    end_process(process, parent)
    for pipe in pipes:
        pipe.close()
    os.close(memory)


_spare: list[EngineProcess] = []


@contextmanager
def prepared() -> Iterator[None]:
    """Start a process ahead of its engine: both then import what they need at the same time.

    If the block ends without an engine, the process ends with it.
    """
    if os.name == "posix":
        _spare.append(EngineProcess())
    try:
        yield
    finally:
        while _spare:
            _spare.pop().stop()


def take() -> EngineProcess:
    """The process that was prepared, or a new one."""
    while _spare:
        process = _spare.pop()
        if not process.ended:
            return process
    return EngineProcess()
