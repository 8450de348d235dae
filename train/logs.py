"""The curves of a run as a CSV table and as TensorBoard events."""

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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

    Points of that epoch and later ones, left by a run that was killed, are dropped from view. The
    file is not named after the machine, as torch's writer would have it.
    """

    def __init__(self, folder: Path, *, first: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._proto, self._summary = event_pb2, summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder by their names: later ones are to come later.
        self._file = (folder / f"events.out.tfevents.{time.time_ns():020d}").open("xb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self._write(step=first, session_log={"status": event_pb2.SessionLog.START})

    def add(self, row: Row) -> None:
        """Write a row of the history: parts under train/, figures under val/."""
        points = [
            self._summary.Summary.Value(tag=_tag(name), simple_value=value)
            for name, value in row.items()
            if name != EPOCH
        ]
        self._write(step=int(row[EPOCH]), summary=self._summary.Summary(value=points))
        self._records.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._records.close()

    def _write(self, **fields: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())


def _tag(name: str) -> str:
    if name.startswith(VALIDATION):
        return f"val/{name.removeprefix(VALIDATION)}"
    return f"run/{name}" if name in (RATE, SECONDS) else f"train/{name}"
