"""What every command does the same way: errors to exit codes, logs, progress, shared options."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsseg.cli.streams import JsonLines, PlainLines, Stream, printable, unfiltered
from wsseg.imaging.disk import not_written
from wsseg.imaging.errors import AllFailedError, WssegError, missing_packages

if TYPE_CHECKING:
    from rich.console import Console
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

JSON_LOG = "--json-log"
JsonLogOption = Annotated[
    bool,
    typer.Option(
        JSON_LOG, help="Log one JSON object a line to stderr; the last one has the exit code."
    ),
]

INTERRUPTED = 130

_log = logging.getLogger("wsseg")


def start_logging(*, as_json: bool = False, verbose: bool = False) -> None:
    """Send wsseg's log and warnings of Python to stderr: for people, or as JSON for machines."""
    handler: logging.Handler
    if as_json:
        handler = logging.StreamHandler(unfiltered(sys.stderr))
        handler.setFormatter(JsonLines())
    elif not sys.stderr.isatty():
        handler = logging.StreamHandler(unfiltered(sys.stderr))
        handler.setFormatter(PlainLines())
    else:
        from rich.logging import RichHandler

        class PrintableHandler(RichHandler):
            def render_message(self, record: logging.LogRecord, message: str) -> Any:
                return super().render_message(record, printable(message))

        handler = PrintableHandler(
            console=console(stderr=True), show_path=False, show_time=verbose, markup=False
        )
    _log.handlers[:] = [handler]
    _log.setLevel(logging.DEBUG if verbose else logging.INFO)
    _log.propagate = False


def console(*, stderr: bool = False, **options: Any) -> "Console":
    """A rich console for tables and bars, which shows text of files as it is. options: rich's."""
    from rich.console import Console
    from rich.text import Text

    class PrintableConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    stream = unfiltered(sys.stderr if stderr else sys.stdout)
    return PrintableConsole(file=stream, stderr=stderr, **options)


def say(text: str) -> None:
    """Tell what was done on stderr: plainly, or as a line of the log for machines."""
    if _logs_json():
        _log.info("%s", text)
    else:
        typer.echo(text, err=True)


@contextmanager
def guarded(*, interrupted: str = "", prints: bool = False) -> Iterator[None]:
    """Turn what a user can fix into one line and its exit code; let bugs keep their traceback.

    A polite kill, such as a container's stop or a terminal that is closed, ends like Ctrl-C:
    scratch files are cleaned up. interrupted: what is then kept, and how to go on. prints: what the
    command prints is all that it makes, so that it fails where that cannot be written.
    """
    former = _ends_like_an_interrupt()
    try:
        with missing_packages(), _told_of_the_system():
            yield
            if prints and isinstance(sys.stdout, Stream) and sys.stdout.failed:
                why = sys.stdout.failed.strerror
                raise AllFailedError(f"standard output could not be written: {why}")
    except WssegError as error:
        _fail(str(error), "error", error.exit_code)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as interrupt:
        _fail(f"interrupted{interrupted and f': {interrupted}'}", "interrupted", INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from interrupt
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _told_of_the_system() -> Iterator[None]:
    """An error of the system that nobody has put into words becomes a line too."""
    try:
        yield
    except WssegError:
        raise
    except OSError as error:
        known: WssegError | None = not_written(error)
        if known is None and error.filename:
            known = AllFailedError(f"{error.filename}: {error.strerror}")
        if known is None and "temporary directory" in (error.strerror or ""):
            known = AllFailedError(
                "no folder for temporary files can be written to: make room in it, or set TMPDIR "
                "to another"
            )
        if known is None:
            raise
        _log.debug("an error of the system", exc_info=error)
        raise known from error


def _fail(text: str, event: str, exit_code: int) -> None:
    if _logs_json():
        _log.error("%s", text, extra={"event": event, "exit_code": exit_code})
    else:
        typer.echo(f"error: {text}" if event == "error" else text, err=True)


def _logs_json() -> bool:
    return any(isinstance(handler.formatter, JsonLines) for handler in _log.handlers)


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
        console=console(stderr=True),
        disable=not shown or not sys.stderr.isatty(),
    )
