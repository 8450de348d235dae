"""Run a training and show its progress."""

import logging
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from wsseg.cli.ratio_option import parse_ratio
from wsseg.cli.settings import settings
from wsseg.imaging.errors import WssegError
from wsseg.train.config import TrainConfig
from wsseg.train.folds import train_folds
from wsseg.train.run import train
from wsseg.train.run_folder import settings_of
from wsseg.train.term_config import WeakMark


def run_training(
    cases: Path,
    out: Path,
    *,
    config: Path | None,
    flags: dict[str, Any],
    mark_average: str | None = None,
    resume: bool = False,
) -> None:
    """Train with settings from file and flags; progress goes to stderr when it is a terminal.

    A run that goes on takes its settings from its folder; those that are given again are compared.
    """
    if flags.get("ratios"):
        flags["ratios"] = [parse_ratio(text).model_dump() for text in flags["ratios"]]
    begun = settings_of(out) if resume else None
    chosen = settings(TrainConfig, config, flags, begun=begun)
    if flags.get("preset") and config is not None and settings(TrainConfig, config, {}).terms:
        raise WssegError(
            f"--preset {chosen.preset} and the [[terms]] of {config} are two recipes: leave one out"
        )
    if mark_average is not None:
        chosen = with_mark_average(chosen, mark_average)
    with _progress() as progress:
        task = progress.add_task("training", total=None)

        def show(report: Any) -> None:
            progress.update(task, total=report.steps, completed=report.step)

        if chosen.folds is not None:
            train_folds(cases, out, chosen, resume=resume, on_step=show)
            return
        record = train(cases, out, chosen, resume=resume, on_step=show)
    logging.getLogger("wsseg").info(
        "finished: epoch %d of %d chosen by %s; %s",
        record.chosen_epoch,
        record.epochs,
        record.chosen_by,
        ", ".join(f"{name} {value:.4f}" for name, value in record.metrics.items()),
    )


def with_mark_average(config: TrainConfig, average: str) -> TrainConfig:
    """Return the settings with L_ws averaged over the image or the mark."""
    if average not in ("image", "mark"):
        raise WssegError(f"--mark-average {average}: expected image or mark")
    if not any(isinstance(term, WeakMark) for term in config.loss_terms):
        raise WssegError(
            f"--mark-average is for the term weak_mark, which {config.recipe} has not: leave it "
            "out, or take --preset paper"
        )
    changed = tuple(
        term.model_copy(update={"average": average}) if isinstance(term, WeakMark) else term
        for term in config.loss_terms
    )
    return config.model_copy(update={"terms": changed})


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
