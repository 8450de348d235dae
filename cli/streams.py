"""The standard streams of a command: losing them costs no result, and they show text as it is.

What a library, a warning or a message quotes from a file comes through here before a terminal sees
it. Progress bars and tables, which move the cursor on purpose, go to `terminal` of a stream.
"""

import errno
import io
import json
import logging
import os
import re
import select
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO, cast

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Control characters; those that reverse or hide text; ends of lines; what is no character.
_UNSAFE = frozenset(("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"))
# Lines and tabs; and the joiners of letters, which Persian and Indian languages are written with.
_SAFE = "\n\t\u200c\u200d"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LAST_LINES_SECONDS = 1.0
"""How long the end of a command waits for what libraries wrote."""


def printable(text: str) -> str:
    r"""Text that a terminal shows and does not obey: what could command it is escaped, as `\x1b`.

    Lines and tabs stay. Escaped are other control characters, those that reverse or hide text, and
    what is no character, such as a byte of a file name in an old encoding.
    """
    if str.isprintable(text):  # TypeError for bytes, as a text stream has it
        return text
    return "".join(
        c
        if c in _SAFE or unicodedata.category(c) not in _UNSAFE
        else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


class _Tolerant(io.RawIOBase):
    """A raw stream that drops what cannot be written: a terminal may be gone, or a disk full.

    failed: the reason why something was dropped.
    """

    def __init__(self, inner: io.FileIO) -> None:
        self._inner = inner
        self.failed: OSError | None = None

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        with suppress(OSError):
            return self._inner.isatty()
        return False

    def fileno(self) -> int:
        return self._inner.fileno()

    def write(self, content: Any) -> int:
        rest = memoryview(content).cast("B")
        total = len(rest)
        while rest and not self.failed:
            try:
                written = self._inner.write(rest)
                if written is None:  # a pipe that does not wait, and is full
                    select.select([], [self._inner], [])
                rest = rest[written or 0 :]
            except OSError as error:
                self.failed = error
        return total

    def close(self) -> None:
        """Stay open: two text streams share it, and what is logged at the very end is shown too."""


class Stream(io.TextIOWrapper):
    """A standard stream that passes on `printable` text, and never fails.

    terminal: the same stream, for what moves the cursor or colours on purpose.
    """

    def __init__(self, inner: io.FileIO) -> None:
        self._tolerant = _Tolerant(inner)
        super().__init__(cast(Any, self._tolerant), "utf-8", "backslashreplace", write_through=True)
        self.terminal: TextIO = io.TextIOWrapper(
            cast(Any, self._tolerant), "utf-8", "backslashreplace", write_through=True
        )

    def write(self, text: str) -> int:
        """Write the text, or drop it where that fails."""
        super().write(printable(text))
        return len(text)

    @property
    def failed(self) -> OSError | None:
        """Why text was dropped; None if none was, or if nobody reads on, as behind `| head`."""
        failed = self._tolerant.failed
        return None if failed and failed.errno == errno.EPIPE else failed


class JsonStream(Stream):
    """A standard error stream in which each line becomes a JSON object, whoever writes it."""

    def __init__(self, inner: io.FileIO) -> None:
        super().__init__(inner)
        self._begun = ""
        self._lock = threading.Lock()

    def isatty(self) -> bool:
        """No: nothing is drawn for a reader of JSON."""
        return False

    def write(self, text: str) -> int:
        """Write each line of the text that is whole."""
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self.pass_on(line)
        return len(text)

    def pass_on(self, line: str) -> None:
        """Write a line of a library as an object; nothing for an empty line."""
        if line := _COLOURS.sub("", line).rstrip():
            self.terminal.write(_json_line("warning", "stderr", line) + "\n")

    def finish(self, exit_code: int) -> None:
        """Write what has no end of line yet, and the last object, which has the exit code."""
        begun, self._begun = self._begun, ""
        self.pass_on(begun)
        words = f"ended with exit code {exit_code}"
        last = _json_line("info", "wsseg", words, {"event": "exit", "exit_code": exit_code})
        self.terminal.write(last + "\n")


class PlainLines(logging.Formatter):
    """A line for each message, with its time in UTC: for files, where nobody wants lines broken."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, and the traceback of an error after it."""
        stamp = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        line = f"{stamp} {record.levelname} {printable(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and whatever `extra` brought."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        message, level = record.getMessage(), record.levelname.lower()
        return _json_line(level, record.name, message, fields, record.created)


def _json_line(
    level: str,
    logger: str,
    message: str,
    fields: Mapping[str, Any] = MappingProxyType({}),
    created: float | None = None,
) -> str:
    """A line of the log for machines, in ASCII. created: seconds since the epoch; None for now."""
    moment = datetime.now(UTC) if created is None else datetime.fromtimestamp(created, UTC)
    line = {
        "time": moment.isoformat(timespec="milliseconds"),
        "level": level,
        "logger": logger,
        "message": message,
        **fields,
    }
    return json.dumps(line, default=str)


def unfiltered(stream: TextIO) -> TextIO:
    """The stream for what moves the cursor or colours on purpose."""
    return stream.terminal if isinstance(stream, Stream) else stream


@contextmanager
def safe_streams(*, as_json: bool) -> Iterator[Callable[[int], None]]:
    """Replace the standard streams while a command runs; yields a function for its exit code.

    as_json: everything on standard error is one JSON object a line, also what libraries write past
    Python; the last one has the exit code.
    """
    _fill_missing()
    former = sys.stdout, sys.stderr
    codes: list[int] = []
    sys.stdout = Stream(io.FileIO(1, "w", closefd=False))
    try:
        if as_json:
            with _lines_of_libraries() as stream:
                sys.stderr = stream
                yield codes.append
        else:
            sys.stderr = Stream(io.FileIO(2, "w", closefd=False))
            yield codes.append
    finally:
        if isinstance(sys.stderr, JsonStream):
            sys.stderr.finish(codes[-1] if codes else 1)
        sys.stdout, sys.stderr = former


@contextmanager
def _lines_of_libraries() -> Iterator[JsonStream]:
    """Standard error as JSON, to which a thread passes what is written to its descriptor."""
    real = os.dup(2)
    source, target = os.pipe()
    os.dup2(target, 2)
    os.close(target)
    stream = JsonStream(io.FileIO(real, "w", closefd=False))

    def read() -> None:
        with os.fdopen(source, encoding="utf-8", errors="backslashreplace") as lines:
            for line in lines:
                stream.pass_on(line)

    thread = threading.Thread(target=read, name="wsseg-stderr", daemon=True)
    thread.start()
    try:
        yield stream
    finally:
        os.dup2(real, 2)  # closes the last end that this process writes to
        thread.join(LAST_LINES_SECONDS)


def _fill_missing() -> None:
    """Open the null device in place of closed standard streams, lest an output take their place.

    Libraries write warnings to descriptor 2, whatever file that is.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
