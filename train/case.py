"""One row of cases.csv, and the table of all of them, after checking."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Case:
    """One slice to learn from or to judge by.

    row: line of the CSV file, the header being line 1. ratios: one per class of the table, in its
    order, fraction of the ratio definition's denominator; None where unknown. marks, mask: label
    maps on the image's own grid (marks: 0 not marked, class number, 255 marked as background;
    mask: 0 background, class number). points: (row, column, class number) pixels marked inside a
    class. slice_index, volume: for 3-D and 4-D files, 0-based.
    """

    row: int
    image: Path
    ratios: tuple[float | None, ...]
    marks: Path | None = None
    points: tuple[tuple[int, int, int], ...] = ()
    mask: Path | None = None
    group: str = ""
    split: Split = "train"
    slice_index: int = 0
    volume: int = 0


@dataclass(frozen=True)
class CaseTable:
    """The checked table. classes: names in class-number order, class 1 first."""

    path: Path
    sha256: str
    classes: tuple[str, ...]
    cases: tuple[Case, ...]

    def part(self, split: Split) -> tuple[Case, ...]:
        """The cases of one split, in table order."""
        return tuple(case for case in self.cases if case.split == split)
