"""What every command does the same way: errors to exit codes, logs, progress, shared options."""

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsseg.imaging.errors import WssegError, missing_packages

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

SheetOption = Annotated[
    str | None,
    typer.Option("--sheet", help="Sheet of an Excel workbook. [default: the first]"),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore-columns",
        metavar="NAME",
        help="Column to skip, by name or pattern (Patient*, or * for all that have no meaning "
        "here). Repeat for several.",
    ),
]
RatioOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ratio",
        help="Ratio definition NAME=CLASS/DENOMINATOR; the denominator is image, foreground or "
        "another class. Repeat for several. [default: every class over the image]",
    ),
]
CodeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--code",
        metavar="CLASS=CODE",
        help="Code of a class for DICOM results, SCHEME:VALUE or SCHEME:VALUE:MEANING, such as "
        "lesion=SCT:52988006. CLASS.category=CODE and CLASS.anatomy=CODE say what kind of thing it "
        "is and which organ contains it. Repeat for several.",
    ),
]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
INTERRUPTED = 130


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and whatever `extra` brought."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start_logging(*, as_json: bool = False, verbose: bool = False) -> None:
    """Send wsseg's log to stderr: for people, or one JSON object a line for machines."""
    handler: logging.Handler
    if as_json:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
    else:
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(
            console=Console(stderr=True), show_path=False, show_time=verbose, markup=False
        )
    log = logging.getLogger("wsseg")
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


@contextmanager
def guarded(*, interrupted: str = "") -> Iterator[None]:
    """Turn what a user can fix into one line and its exit code; let bugs keep their traceback.

    A polite kill, such as a container's stop or a terminal that is closed, ends like Ctrl-C:
    scratch files are cleaned up. interrupted: what is then kept, and how to go on.
    """
    former = _ends_like_an_interrupt()
    try:
        with missing_packages():
            yield
    except WssegError as error:
        log = logging.getLogger("wsseg")
        if any(isinstance(h.formatter, JsonLines) for h in log.handlers):
            log.error(  # noqa: TRY400 - a user's mistake needs no traceback
                "%s", error, extra={"event": "error", "exit_code": error.exit_code}
            )
        else:
            typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as interrupt:
        typer.echo(f"interrupted{interrupted and f': {interrupted}'}", err=True)
        raise typer.Exit(INTERRUPTED) from interrupt
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _ends_like_an_interrupt() -> dict[int, Any]:
    """Treat other ways to end a command as Ctrl-C; returns what was done with them before.

    One that is ignored, as `nohup` has it, or that belongs to a library, stays as it is.
    """
    former = {}
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            former[number] = signal.signal(number, signal.default_int_handler)
    return former


def progress_bar(*columns: "str | ProgressColumn", shown: bool) -> "Progress":
    """A bar on stderr with these columns after its count; nothing unless `shown` on a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeElapsedColumn(),
        "left",
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown or not sys.stderr.isatty(),
    )
