"""Progress of a run: reports to callbacks, metrics.csv, TensorBoard events and checkpoints."""

import csv
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wsseg.imaging.disk import writing
from wsseg.imaging.files import atomic
from wsseg.train.learner import TOTAL, Learner
from wsseg.train.run_folder import (
    EVENTS,
    METRICS,
    STATE,
    WEIGHTS,
    RunFacts,
    save_state,
    save_weights,
)
from wsseg.train.validation import Choice


@dataclass(frozen=True)
class StepReport:
    """A finished optimiser step. epoch and step count from 1; total is the objective's value."""

    epoch: int
    epochs: int
    step: int
    steps: int
    total: float


@dataclass(frozen=True)
class EpochReport:
    """A finished epoch. epoch counts from 1.

    parts: every weighted part of the objective and their sum `total`, means over the epoch's
    batches. figures: metrics of the validation cases, empty where this epoch was not validated.
    seconds: duration of training and validation together. choice: the epoch whose weights are kept
    so far.
    """

    epoch: int
    epochs: int
    parts: Mapping[str, float]
    figures: Mapping[str, float]
    learning_rate: float
    seconds: float
    choice: Choice


EPOCH = "epoch"
RATE = "learning_rate"
SECONDS = "seconds"
VALIDATION = "val_"
"""Prefix of the columns with validation figures."""

Row = Mapping[str, float | int]

log = logging.getLogger(__name__)


def write_metrics(history: Sequence[Row], path: Path) -> None:
    """Write one line an epoch, whole or not at all; a figure that an epoch lacks is empty.

    Columns: epoch, learning_rate, the parts of the objective and their total, validation figures
    as val_<figure>, seconds.
    """
    names = dict.fromkeys(name for row in history for name in row)
    between = [name for name in names if name not in (EPOCH, RATE, SECONDS)]
    between.sort(key=lambda name: name.startswith(VALIDATION))
    with atomic(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        columns = [EPOCH, RATE, *between, SECONDS]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


class Events:
    """TensorBoard events, one point an epoch.

    first: the epoch (from 1) that is written next. Points of that epoch and of later ones, left by
    a run that was killed, are dropped from view. Unlike with torch's writer, the name of the file
    does not tell the machine's name.
    """

    def __init__(self, folder: Path, *, first: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._proto, self._summary = event_pb2, summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder by their names: later ones are to come later.
        self._path = folder / f"events.out.tfevents.{time.time_ns():020d}"
        with writing(self._path):
            self._records = RecordWriter(self._path.open("xb"))
            self._write(file_version="brain.Event:2")
            self._write(step=first, session_log={"status": event_pb2.SessionLog.START})

    def add(self, row: Row) -> None:
        """Write a row of the history: parts under train/, figures under val/."""
        points = []
        for name, value in row.items():
            if name != EPOCH:
                group = "run" if name in (RATE, SECONDS) else "train"
                if name.startswith(VALIDATION):
                    group, name = "val", name.removeprefix(VALIDATION)
                point = self._summary.Summary.Value(tag=f"{group}/{name}", simple_value=value)
                points.append(point)
        with writing(self._path):
            self._write(step=int(row[EPOCH]), summary=self._summary.Summary(value=points))
            self._records.flush()

    def close(self) -> None:
        """Close the file, which has all that was added."""
        with suppress(OSError):  # which told `add` the same
            self._records.close()

    def _write(self, **fields: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())


@dataclass
class TrainingState:
    """How far a run has come: one row an epoch, as in metrics.csv, and the epoch that is kept."""

    facts: RunFacts
    history: list[dict[str, float | int]] = field(default_factory=list)
    choice: Choice | None = None

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "TrainingState":
        """Return what `RunLogger` wrote into the state of an unfinished run."""
        choice = Choice(**state["choice"]) if state["choice"] else None
        return cls(RunFacts.model_validate(state["given"]), state["history"], choice)

    def state(self) -> dict[str, Any]:
        """Return plain values, for `restored`."""
        choice = asdict(self.choice) if self.choice else None
        facts = self.facts.model_dump(mode="json")
        return {"given": facts, "history": self.history, "choice": choice}


class RunLogger:
    """Writes checkpoints and curves into the run folder `out`, and calls the callbacks.

    first: the epoch (from 1) that is trained next.
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
        """Report a step."""
        if self._on_step is not None:
            self._on_step(report)

    def epoch(self, learner: Learner, training: TrainingState, report: EpochReport) -> None:
        """Save the last epoch of `training`, then report it.

        The weights are saved before the state: a run that is killed between the two repeats the
        epoch and writes the same weights again.
        """
        chosen = report.choice.epoch == report.epoch
        if chosen and (report.choice.rule != "last" or report.epoch == report.epochs):
            save_weights(learner.average.module, self._out / WEIGHTS)
        save_state({**training.state(), **learner.state()}, self._out / STATE)
        write_metrics(training.history, self._out / METRICS)
        self._events.add(training.history[-1])
        shown = [name for name in ("iou", "ratio_error", "mark_recall") if name in report.figures]
        log.info(
            "epoch %d/%d: objective %.4f%s, %.1f s, selected: epoch %d",
            report.epoch,
            report.epochs,
            report.parts[TOTAL],
            "".join(f", {name} {report.figures[name]:.3f}" for name in shown),
            report.seconds,
            report.choice.epoch,
        )
        if self._on_epoch is not None:
            self._on_epoch(report)


def row(report: EpochReport) -> dict[str, float | int]:
    """Return the row of metrics.csv for an epoch."""
    figures = {VALIDATION + name: figure for name, figure in report.figures.items()}
    numbers: dict[str, float | int] = {
        EPOCH: report.epoch,
        RATE: report.learning_rate,
        SECONDS: report.seconds,
    }
    return {**numbers, **report.parts, **figures}
