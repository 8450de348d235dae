"""What is wrong with a table that somebody wrote: every fault at once, each with its line."""

from collections.abc import Iterable
from dataclasses import dataclass

from wsseg.imaging.errors import WssegError

MOST_LINES = 50
"""Faults shown in one report; a fault in every row of a long table reads no better in full."""


@dataclass(frozen=True, order=True)
class Fault:
    """One thing to correct.

    line: of the text file, or row of the sheet, on which its row begins, the first being 1; 0 is
    the whole table.
    """

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


class TableError(WssegError):
    """All faults of a table; the message is a report with one line a fault."""

    def __init__(self, table: str, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        count = len(self.faults)
        if count == 1:
            (fault,) = self.faults
            super().__init__(f"{table}{',' if fault.line else ':'} {fault}")
            return
        lines = [f"{table}: {count} faults to correct"]
        lines += [f"  {fault}" for fault in self.faults[:MOST_LINES]]
        if count > MOST_LINES:
            lines.append(f"  and {count - MOST_LINES} more")
        super().__init__("\n".join(lines))
