"""Run inference and show its progress."""

import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from wsseg.cli.settings import settings
from wsseg.serve.infer import Summary, infer
from wsseg.serve.infer_options import InferOptions


def run_inference(inputs: list[Path], *, quiet: bool, **flags: Any) -> int:
    """Measure `inputs`; print a closing line unless `quiet`; return the exit code."""
    options = settings(InferOptions, None, flags)
    hidden = quiet or not sys.stderr.isatty()
    with _progress(hidden=hidden) as progress:
        task = progress.add_task("measuring", total=None, rate=0.0)

        def show(done: int, known: int, rate: float) -> None:
            progress.update(task, completed=done, total=known, rate=rate)

        summary = infer(inputs, options, on_progress=show)
    if not quiet:
        typer.echo(closing_line(summary), err=True)
    return summary.exit_code


def closing_line(summary: Summary) -> str:
    """Say what was measured, what failed and where the tables are."""
    rate = summary.slices / summary.seconds if summary.seconds else 0.0
    recovered = (
        "" if summary.recovered is None else f"{_counted(summary.recovered, 'mask')} recovered, "
    )
    read = f"{_counted(summary.scans, 'scan')}, {_counted(summary.slices, 'slice')}"
    warning = f"; WARNING: {summary.warning}" if summary.warning else ""
    why = f" ({summary.tables[2]} says why)" if summary.failed or summary.skipped else ""
    unlike = (
        f"; WARNING: {_counted(summary.unlike, 'scan')} unlike the training images "
        "(flags in the tables say how, --strict refuses them)"
        if summary.unlike
        else ""
    )
    nothing = "" if summary.scans or summary.failed else "; no image was found"
    return (
        f"{read} in {summary.seconds:.1f} s "
        f"({rate:.1f} slices/s, {summary.engine}); {recovered}"
        f"{_counted(summary.failed, 'file')} failed, {summary.skipped} passed over{why}{nothing}; "
        f"wrote {summary.report}{unlike}{warning}"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _progress(*, hidden: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]:.1f} slices/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=hidden,
    )
