"""What the first process of a run writes and tells after every step and every epoch."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wsseg.train.checkpoint import save_state, save_weights
from wsseg.train.learner import TOTAL, Learner
from wsseg.train.logs import EPOCH, RATE, SECONDS, VALIDATION, Events, write_metrics
from wsseg.train.progress import EpochReport, StepReport
from wsseg.train.record import WEIGHTS
from wsseg.train.run_folder import EVENTS, METRICS, STATE
from wsseg.train.select import Choice

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
