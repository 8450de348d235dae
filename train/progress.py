"""What the first process of a run writes and tells after every step and every epoch."""

import csv
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wsseg.imaging.files import atomic
from wsseg.train.learner import TOTAL, Learner
from wsseg.train.run_folder import EVENTS, METRICS, STATE, WEIGHTS, save_state, save_weights
from wsseg.train.validation import Choice

# What a running training tells whoever watches it.


@dataclass(frozen=True)
class StepReport:
    """One optimiser step is done. epoch and step count from 1; total is the objective's value."""

    epoch: int
    epochs: int
    step: int
    steps: int
    total: float


@dataclass(frozen=True)
class EpochReport:
    """One epoch is done. epoch counts from 1.

    parts: every weighted part of the objective and their sum `total`, means over the epoch's
    batches. figures: of the validation cases, empty where this epoch was not validated.
    seconds: training and validation together. choice: the epoch whose weights are kept so far.
    """

    epoch: int
    epochs: int
    parts: Mapping[str, float]
    figures: Mapping[str, float]
    learning_rate: float
    seconds: float
    choice: Choice


# The curves of a run as a CSV table and as TensorBoard events.

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


log = logging.getLogger(__name__)


@dataclass
class Course:
    """What a run has come to: one row an epoch, as in metrics.csv, and the epoch that is kept.

    given: numbers and text that a resumed run must find as they were, such as the window.
    """

    given: dict[str, Any]
    history: list[dict[str, float | int]] = field(default_factory=list)
    choice: Choice | None = None

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "Course":
        """The course that `Journal` wrote into a state."""
        choice = Choice(**state["choice"]) if state["choice"] else None
        return cls(state["given"], state["history"], choice)

    def state(self) -> dict[str, Any]:
        """The course as plain values, for `restored`."""
        choice = asdict(self.choice) if self.choice else None
        return {"given": self.given, "history": self.history, "choice": choice}


class Journal:
    """Writes checkpoints and curves into the run folder `out`, and calls the watchers.

    first: epoch (from 1) that is trained next.
    """

    def __init__(
        self,
        out: Path,
        *,
        first: int,
        on_step: Callable[[StepReport], None] | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
    ) -> None:
        self._out = out
        self._events = Events(out / EVENTS, first=first)
        self._on_step = on_step
        self._on_epoch = on_epoch

    def close(self) -> None:
        """Close the files; nothing can be written afterwards."""
        self._events.close()

    def step(self, report: StepReport) -> None:
        """Tell of a step."""
        if self._on_step is not None:
            self._on_step(report)

    def epoch(self, learner: Learner, course: Course, report: EpochReport) -> None:
        """Keep an epoch, the last of `course`, then tell of it.

        The weights come before the state: a run killed between the two repeats the epoch and
        writes the same weights again.
        """
        chosen = report.choice.epoch == report.epoch
        if chosen and (report.choice.rule != "last" or report.epoch == report.epochs):
            save_weights(learner.average.module, self._out / WEIGHTS)
        save_state({**course.state(), **learner.state()}, self._out / STATE)
        write_metrics(course.history, self._out / METRICS)
        self._events.add(course.history[-1])
        log.info("%s", _line(report))
        if self._on_epoch is not None:
            self._on_epoch(report)


def row(report: EpochReport) -> dict[str, float | int]:
    """The line of metrics.csv for an epoch."""
    figures = {VALIDATION + name: figure for name, figure in report.figures.items()}
    numbers: dict[str, float | int] = {
        EPOCH: report.epoch,
        RATE: report.learning_rate,
        SECONDS: report.seconds,
    }
    return {**numbers, **report.parts, **figures}


def _line(report: EpochReport) -> str:
    shown = [name for name in ("iou", "ratio_error", "mark_recall") if name in report.figures]
    figures = "".join(f", {name} {report.figures[name]:.3f}" for name in shown)
    return (
        f"epoch {report.epoch}/{report.epochs}: objective {report.parts[TOTAL]:.4f}{figures}, "
        f"{report.seconds:.1f} s, kept: epoch {report.choice.epoch}"
    )
