"""Tables of results on disk: whole at every moment, written to by several processes."""

import csv
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from wsseg.imaging.files import atomic


def read_csv(path: Path) -> list[dict[str, str]]:
    """All rows; none where there is no such file yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Write the table, whole or not at all."""
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other processes from reading and replacing the table in between."""
    out.mkdir(parents=True, exist_ok=True)
    # The folder itself is locked: a lock file would lie among the results.
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
