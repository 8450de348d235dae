"""speed.csv: a row for everything that was measured, once for each peer that it is compared to."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bench.csv_file import alone, read_csv, write_csv

TABLE = "speed.csv"


@dataclass(frozen=True)
class Row:
    """One figure. per_second: median of slices, files or images a second; 0 where none was timed.

    ratio: median, over rounds, of this one's figure over the peer's in the same round: of the rate,
    so that 2 is twice as fast, or of peak_mb where memory is compared. ratio_low and ratio_high
    are the extremes. Without a peer all three are None. size: of the network's input, 0 where
    there is no network. batch: slices at once. peak_mb: 10**6 bytes, None where not measured.
    """

    scenario: str
    what: str
    precision: str
    size: int
    batch: int
    per_second: float
    peer: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    peak_mb: float | None = None
    rounds: int = 0
    machine: str = ""
    commit: str = ""


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Place:
    """What is measured in one go: a scenario at a size and a batch; None holds all of them."""

    scenario: str
    size: int | None = None
    batch: int | None = None

    def holds(self, row: Row) -> bool:
        """Whether the row comes from here."""
        return (
            row.scenario == self.scenario
            and self.size in (None, row.size)
            and self.batch in (None, row.batch)
        )

    @property
    def title(self) -> str:
        """In words, for progress."""
        size = "" if self.size is None else f" at {self.size}"
        return f"{self.scenario}{size}" + ("" if self.batch is None else f", batch {self.batch}")


def read_rows(out: Path) -> list[Row]:
    """The rows of speed.csv; none where there is no such file yet."""
    return [_row(cells) for cells in read_csv(out / TABLE)]


def is_done(place: Place, rows: Sequence[Row], machine: str) -> bool:
    """Whether this machine has been measured here."""
    return any(place.holds(row) and row.machine == machine for row in rows)


def replace_rows(out: Path, place: Place, rows: Sequence[Row], machine: str) -> None:
    """Put rows in the table at once, for those that this machine had of the place."""
    with alone(out):
        kept = [r for r in read_rows(out) if not (place.holds(r) and r.machine == machine)]
        write_csv(out / TABLE, COLUMNS, [_cells(row) for row in (*kept, *rows)])


def _cells(row: Row) -> dict[str, str]:
    return {name: _text(value) for name, value in asdict(row).items()}


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _row(cells: Mapping[str, str]) -> Row:
    return Row(
        scenario=cells["scenario"],
        what=cells["what"],
        precision=cells["precision"],
        size=int(cells["size"]),
        batch=int(cells["batch"]),
        per_second=float(cells["per_second"]),
        peer=cells["peer"],
        ratio=_number(cells["ratio"]),
        ratio_low=_number(cells["ratio_low"]),
        ratio_high=_number(cells["ratio_high"]),
        peak_mb=_number(cells["peak_mb"]),
        rounds=int(cells["rounds"]),
        machine=cells["machine"],
        commit=cells["commit"],
    )


def _number(cell: str) -> float | None:
    return float(cell) if cell else None
