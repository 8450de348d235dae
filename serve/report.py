"""ratios.csv and the tables beside it, which appear together when a run has ended."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from wsseg.imaging.atomic import atomic
from wsseg.imaging.errors import AllFailedError, Failure
from wsseg.serve.rows import FailureRow, RecoveredRow, Row, SeriesRow, SliceRow
from wsseg.serve.tables import Write, table_writer


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


@contextmanager
def open_report(path: Path, *, recovered: bool = False) -> Iterator[Report]:
    """Write the three tables to scratch files that take their places only if the block succeeds.

    The tables of an earlier run stay until then. All three are written, if only with a header, so
    that none is left over from another run; `recovered` adds the table of recovered masks.

    Raises AllFailedError if a table cannot be opened, written or put in its place; what the block
    raises passes through as it is.
    """
    with ExitStack() as tables:
        with _told(path):
            report = tables.enter_context(_open_tables(path, recovered=recovered))
        yield report
        with _told(path):
            tables.close()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AllFailedError(
            f"{path} could not be written: {error}; check the space and the permissions of its "
            "folder"
        ) from error


@contextmanager
def _open_tables(path: Path, *, recovered: bool) -> Iterator[Report]:
    kinds: tuple[type[Row], ...] = (SliceRow, SeriesRow, FailureRow)
    targets: tuple[Path, ...] = report_paths(path)
    if recovered:
        kinds, targets = (*kinds, RecoveredRow), (*targets, recovered_paths(path)[0])
    opened = table_writer(path)
    with ExitStack() as placed:
        scratch = [placed.enter_context(atomic(target)) for target in targets]
        with ExitStack() as written:
            yield Report(
                *(
                    _told(path)(written.enter_context(opened(file, kind)))
                    for file, kind in zip(scratch, kinds, strict=True)
                )
            )
