"""Decoding in a process of its own, which may crash or hang without costing the run."""

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# A decoder that needs longer for one file hangs.
PATIENCE_SECONDS = 300.0
_MODULE = "wsseg.imaging.dicom_worker"

_own = threading.local()


class DecoderCrashedError(RuntimeError):
    """The decoding process died or had to be killed."""


class DecoderRefusedError(RuntimeError):
    """The decoder cannot read the file; it is ready for the next one."""


class _Worker:
    """A running child process that decodes files on request; one for each thread."""

    def __init__(self) -> None:
        # -P: a folder of the user's that is called like a library must not be imported.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.parent = os.getpid()
        self._finalizer = weakref.finalize(self, _stop, self._process)

    def decode(self, path: Path, plugin: str, count: int) -> Iterator[NDArray[Any]]:
        if self._process.stdin is None or self._process.stdout is None:
            raise DecoderCrashedError
        watch = threading.Timer(PATIENCE_SECONDS, self._process.kill)
        watch.daemon = True
        watch.start()
        try:
            request = {"path": str(path.absolute()), "plugin": plugin, "count": count}
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            for _ in range(count):
                yield _frame(self._process.stdout)
        except BrokenPipeError as error:
            raise DecoderCrashedError from error
        finally:
            watch.cancel()

    def stop(self) -> None:
        self._finalizer()


def decode_apart(path: Path, plugin: str, count: int) -> Iterator[NDArray[Any]]:
    """`count` frames of a compressed DICOM file, as `plugin` of pydicom decodes them.

    Raises DecoderRefusedError, or DecoderCrashedError if the decoder dies or hangs; neither
    harms what is decoded next.
    """
    worker = getattr(_own, "worker", None)
    if worker is None or worker.parent != os.getpid():  # a forked process shares no pipes
        worker = _own.worker = _Worker()
    left = count
    try:
        for frame in worker.decode(path, plugin, count):
            left -= 1
            yield frame
    except DecoderRefusedError:
        left = 0
        raise
    finally:
        if left:
            # Answers may be left in the pipe, or nobody to give them: the next file starts anew.
            _own.worker = None
            worker.stop()


def _frame(stream: IO[bytes]) -> NDArray[Any]:
    line = stream.readline()
    if not line:
        raise DecoderCrashedError
    answer = json.loads(line)
    if "error" in answer:
        raise DecoderRefusedError(answer["error"])
    dtype = np.dtype(answer["dtype"])
    size = dtype.itemsize * math.prod(answer["shape"])
    content = stream.read(size)
    if len(content) < size:
        raise DecoderCrashedError
    return np.frombuffer(content, dtype).reshape(answer["shape"])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # a request the process never read
                pipe.close()
