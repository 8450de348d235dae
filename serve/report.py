"""ratios.csv and the tables beside it, which appear together when a run has ended."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from wsseg.imaging.errors import AllFailedError, Failure, WssegError
from wsseg.serve.tables import (
    FailureRow,
    RecoveredRow,
    Row,
    SeriesRow,
    SliceRow,
    Write,
    table_writer,
)


@dataclass(frozen=True)
class Report:
    """Takes rows as they come: of slices, of series, of files that gave no result.

    recovered: takes those of recovered masks; None where that table was not asked for.
    """

    slices: Write
    series: Write
    failures: Write
    recovered: Write | None = None

    def fail(self, failure: Failure) -> None:
        """Write one file that gave no result."""
        row = FailureRow(failure.source, failure.status, failure.reason, failure.message)
        self.failures([row])


def report_paths(path: Path) -> tuple[Path, Path, Path]:
    """The report's three files: slices, series, failures, all in the format of its suffix.

    Raises WssegError for a suffix that no table has, or whose package is missing.
    """
    table_writer(path)
    return (
        path,
        path.with_name(f"{path.stem}.series{path.suffix}"),
        path.with_name(f"{path.stem}.failures{path.suffix}"),
    )


def recovered_paths(path: Path) -> tuple[Path, Path]:
    """The table of recovered masks beside a report, and the folder that holds the masks."""
    table = path.with_name(f"{path.stem}.recovered{path.suffix}")
    return table, table.with_suffix("")


def require_free(path: Path, *, recovered: bool, overwrite: bool) -> None:
    """Raise WssegError where a report would replace another; recovered: with its further table."""
    if overwrite:
        return
    tables = (*report_paths(path), *(recovered_paths(path)[:1] if recovered else ()))
    there = [table for table in tables if table.exists()]
    if there:
        raise WssegError(
            f"{there[0]} is there already: give --overwrite to replace that report, or name "
            "another with --report"
        )


@contextmanager
def open_report(path: Path, *, recovered: bool = False) -> Iterator[Report]:
    """Write the three tables to scratch files that take their places only if the block succeeds.

    The tables of an earlier run stay until then. All three are written, if only with a header, so
    that none is left over from another run; `recovered` adds the table of recovered masks.

    Raises AllFailedError if a table cannot be opened, written or put in its place; what the block
    raises passes through as it is. A table whose place is taken for good, by a spreadsheet that
    has it open, lies beside it under the name that the error gives.
    """
    kinds: tuple[type[Row], ...] = (SliceRow, SeriesRow, FailureRow)
    targets: tuple[Path, ...] = report_paths(path)
    if recovered:
        kinds, targets = (*kinds, RecoveredRow), (*targets, recovered_paths(path)[0])
    with _scratch(path) as folder, ExitStack() as tables:
        files = [folder / target.name for target in targets]
        with _told(path):
            opened = [
                _told(path)(tables.enter_context(table_writer(path)(file, kind)))
                for file, kind in zip(files, kinds, strict=True)
            ]
        yield Report(*opened)
        with _told(path):
            tables.close()
        _place(list(zip(files, targets, strict=True)))


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder beside the report, on its disk, that is gone in the end."""
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(dir=path.parent, prefix=".tmp-")
    try:
        yield Path(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AllFailedError(
            f"{path} could not be written: {error}; check the space and the permissions of its "
            "folder"
        ) from error


def _place(tables: list[tuple[Path, Path]]) -> None:
    """Put (scratch, target) tables in their places: all, or all beside them and the old ones back.

    So tables of two runs never lie under the names of one.
    """
    with ExitStack() as undo:
        for scratch, target in tables:
            try:
                _swap(scratch, target, undo)
            except OSError as error:
                failed, reason = target, error
                break
        else:
            undo.pop_all()
            return
    kept = [_keep(scratch, target).name for scratch, target in tables]
    raise AllFailedError(
        f"{failed} could not be written: {reason}; this run's tables are kept beside it as "
        f"{', '.join(kept)}: close the program that has the old ones open and rename them"
    ) from reason


def _swap(scratch: Path, target: Path, undo: ExitStack) -> None:
    """Put one table in its place; `undo` has the steps back, the old table aside until then."""
    if target.is_file():
        old = scratch.with_name(f"old-{scratch.name}")
        target.replace(old)
        undo.callback(_restore, old, target)
    scratch.replace(target)
    undo.callback(target.replace, scratch)


def _restore(old: Path, target: Path) -> None:
    """Put an old table back, or beside its place if that was taken meanwhile: never lost."""
    try:
        old.replace(target)
    except OSError:
        _keep(old, target)


def _keep(scratch: Path, target: Path) -> Path:
    """Put a table beside its taken place, over no other file."""
    names = (target.with_name(f"{target.stem}.kept{n}{target.suffix}") for n in count(1))
    free = next(name for name in names if not name.exists())
    with _told(target):
        scratch.replace(free)
    return free
