"""The process of an engine, which may hang or crash: it opens the engine and computes batches.

Standard input and output are pipes of `multiprocessing.connection`, whose messages are JSON; the
arrays lie in a file that both processes have open, see `shared`. Its number is the only argument.

The first request is {"opener", "folder", "manifest", "options", "level"}, and its answer {"engine"}
with the engine's name, precision, file and whether it gives the probability. Each further request
is {"pixels", "probability"}, the place of a batch and whether the probability is asked for, and its
answer {"arrays"}, places behind that of the batch: masks, pixel areas, soft areas, variances if
there are any, probability if it was asked for. Where something fails, the answer is {"error",
"message"}. What is logged meanwhile comes before the answer, as {"log"}. The process ends when its
input is closed.
"""

import json
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from wsseg.imaging.errors import WssegError
from wsseg.serve.engines.base import (
    ERRORS,
    Engine,
    EngineOptions,
    unexpected_error,
)
from wsseg.serve.engines.shared import SharedArrays
from wsseg.serve.manifest import Manifest

PR_SET_PDEATHSIG = 1
# The parent finishes the batch at hand before it ends, whoever was told to end.
IGNORED = ("SIGINT", "SIGTERM", "SIGHUP")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Told(logging.Handler):
    """Sends what is logged to the parent, which has the user's handlers."""

    def __init__(self, answers: Connection) -> None:
        super().__init__()
        self._answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + "".join(traceback.format_exception(*record.exc_info))
        extra = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        told = {"name": record.name, "level": record.levelno, "message": message, "extra": extra}
        _send(self._answers, log=told)


def main() -> None:
    """Answer requests until the input is closed."""
    for name in IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    _end_with_parent()
    requests = Connection(os.dup(sys.stdin.fileno()), writable=False)
    answers = Connection(os.dup(sys.stdout.fileno()), readable=False)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # runtimes print there
    with suppress(EOFError, BrokenPipeError):
        engine = _opened(json.loads(requests.recv_bytes()), answers)
        arrays = SharedArrays(int(sys.argv[1]))
        while engine:
            _answer(json.loads(requests.recv_bytes()), engine, arrays, answers)


def _end_with_parent() -> None:
    """Let Linux end this process with its parent, even in the middle of a batch."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _opened(request: dict[str, Any], answers: Connection) -> Engine | None:
    """The engine that the request asks for, which the parent is told of; None if it fails."""
    log = logging.getLogger("wsseg")
    log.addHandler(_Told(answers))
    log.setLevel(request["level"])
    log.propagate = False
    try:
        module, _, name = request["opener"].partition(":")
        opener = getattr(import_module(module), name)
        manifest = Manifest.model_validate_json(request["manifest"])
        options = EngineOptions(**request["options"])
        engine: Engine = opener(Path(request["folder"]), manifest, options)
        told = {
            "name": engine.name,
            "precision": engine.precision,
            "file": engine.file,
            "gives_probability": engine.gives_probability,
        }
    except WssegError as error:
        _send(answers, error="user", message=str(error))
        return None
    except Exception:
        _send(answers, error="bug", message=traceback.format_exc())
        return None
    _send(answers, engine=told)
    return engine


def _answer(
    request: dict[str, Any], engine: Engine, arrays: SharedArrays, answers: Connection
) -> None:
    """Compute one batch."""
    kind, shape, start = request["pixels"]
    try:
        pixels = arrays.get((kind, shape, start))
        if request["probability"]:
            prediction, probability = engine.with_probability(pixels)
        else:
            prediction, probability = engine(pixels), None
        found: list[NDArray[Any]] = [
            prediction.masks,
            prediction.pixel_areas,
            prediction.soft_areas,
        ]
        found += [] if prediction.area_variances is None else [prediction.area_variances]
        found += [] if probability is None else [probability]
        places = arrays.put(found, start=start + pixels.nbytes)
    except Exception as error:
        logging.getLogger(__name__).debug("the engine raised", exc_info=True)
        reported = unexpected_error(error)
        kind = next(name for name, each in ERRORS.items() if isinstance(reported, each))
        _send(answers, error=kind, message=str(reported))
    else:
        _send(answers, arrays=places)


def _send(answers: Connection, **message: Any) -> None:
    answers.send_bytes(json.dumps(message, default=str).encode())


if __name__ == "__main__":
    main()
