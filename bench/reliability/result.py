"""One line of the table: a fault, how often it was tried, and what it cost."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.markdown import table

HEADER = ("fault", "tried", "rows lost", "extra seconds", "extra MB", "exit code")


@dataclass(frozen=True)
class Result:
    """What came of a fault.

    lost: rows of sound scans that were missing, doubled or unlike those of an undisturbed run.
    seconds, megabytes: beyond the undisturbed run, at most; None where there is nothing to compare.
    code: the exit codes that occurred.
    """

    fault: str
    tried: int
    lost: int
    code: str
    seconds: float | None = None
    megabytes: float | None = None

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of its line."""
        seconds = "" if self.seconds is None else f"{self.seconds:.1f}"
        megabytes = "" if self.megabytes is None else f"{self.megabytes:.0f}"
        return self.fault, str(self.tried), str(self.lost), seconds, megabytes, self.code


def lines(results: Iterable[Result]) -> Iterator[str]:
    """The table."""
    return table(HEADER, [result.row for result in results])
