"""The curves of a run as a CSV table and as TensorBoard events."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsseg.imaging.atomic import atomic

EPOCH = "epoch"
RATE = "learning_rate"
SECONDS = "seconds"
VALIDATION = "val_"
"""Prefix of the columns with validation figures."""

Row = Mapping[str, float | int]


def write_metrics(history: Sequence[Row], path: Path) -> None:
    """Write one line an epoch, whole or not at all; a figure that an epoch lacks is empty.

    Columns: epoch, learning_rate, the parts of the objective and their total, validation figures
    as val_<figure>, seconds.
    """
    named = dict.fromkeys(name for row in history for name in row)
    first, last = [EPOCH, RATE], [SECONDS]
    parts = [name for name in named if not name.startswith(VALIDATION)]
    figures = [name for name in named if name.startswith(VALIDATION)]
    between = [name for name in parts + figures if name not in first + last]
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, first + between + last, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


class Events:
    """TensorBoard events, one point an epoch; `first`: the epoch (from 1) that is written next.

    Points of that epoch and later ones, left by a run that was killed, are dropped from view.
    """

    def __init__(self, folder: Path, *, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first)

    def add(self, row: Row) -> None:
        """Write a row of the history: parts under train/, figures under val/."""
        for name, value in row.items():
            if name != EPOCH:
                self._writer.add_scalar(_tag(name), value, int(row[EPOCH]))
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()


def _tag(name: str) -> str:
    if name.startswith(VALIDATION):
        return f"val/{name.removeprefix(VALIDATION)}"
    return f"run/{name}" if name in (RATE, SECONDS) else f"train/{name}"
