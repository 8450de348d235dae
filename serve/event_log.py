"""The log of runs: when each began and ended, with which model, and how; nothing of any patient."""

import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import wsseg
from wsseg.imaging.errors import WssegError

INTERRUPTED = 130
CRASHED = 1
BEGIN = b'{"time": "'
"""How every line begins; a file that begins otherwise is not appended to."""

logger = logging.getLogger(__name__)


@dataclass
class Facts:
    """What is known of a run at its end. values: plain numbers and words of wsseg's own."""

    values: dict[str, Any] = field(default_factory=dict)


@contextmanager
def recorded(path: Path | None) -> Iterator[Facts]:
    """Append a line to the log when the block begins, and one when it ends, however it does.

    A run that was killed has the first line alone. Names of files and messages of errors, which may
    quote them, are left out. Nothing is written without a path. Raises WssegError before the block
    if the log cannot be written; afterwards that is a warning, because the results are there.
    """
    facts = Facts()
    if path is None:
        yield facts
        return
    run = {"run": uuid.uuid4().hex, "wsseg_version": wsseg.__version__}
    began = time.monotonic()
    try:
        if path.exists() and not _is_log(path):
            raise WssegError(f"{path} is no event log of wsseg: name another file by --event-log")
        _append(path, {"event": "run_started", **run})
    except OSError as error:
        raise WssegError(
            f"the event log {path} cannot be written: {error.strerror}; check its folder and "
            "permissions, or leave --event-log out"
        ) from error
    end: dict[str, Any] = {"exit_code": CRASHED}
    try:
        yield facts
        end = {}
    except WssegError as error:
        end = {"exit_code": error.exit_code, "error": type(error).__name__}
        raise
    except (KeyboardInterrupt, SystemExit):
        end = {"exit_code": INTERRUPTED}
        raise
    except BaseException as error:
        end["error"] = type(error).__name__
        raise
    finally:
        seconds = round(time.monotonic() - began, 3)
        try:
            _append(path, {"event": "run_ended", **run, "seconds": seconds, **facts.values, **end})
        except OSError as error:
            logger.warning("the end of the run is not in the event log: %s", error.strerror)


def _is_log(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(BEGIN)) in (b"", BEGIN)


def _append(path: Path, line: dict[str, Any]) -> None:
    """Append a line in one write, so that several runs may share a log, and one may rotate it."""
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    text = json.dumps({"time": stamp, **line}, allow_nan=False) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
