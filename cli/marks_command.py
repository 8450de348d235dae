"""`wsseg marks`: weak marks simulated from full masks."""

from pathlib import Path
from typing import Annotated

import typer

from wsseg.cli.console import guarded, start_logging


def marks(
    cases: Annotated[Path, typer.Argument(help="Table with the columns image and mask (CSV).")],
    out: Annotated[Path, typer.Option(help="Folder to write: cases.csv and marks/.")],
    percent: Annotated[
        float, typer.Option(min=0.01, max=100, help="How many percent of each region to mark.")
    ] = 8.0,
    per_component: Annotated[
        bool, typer.Option("--per-component", help="Mark every connected part of a region.")
    ] = False,
    drop_masks: Annotated[
        bool,
        typer.Option("--drop-masks", help="Leave the masks out of the new table."),
    ] = False,
) -> None:
    """Simulate weak marks from masks, to try the method where full outlines exist.

    Keeps exactly PERCENT % of a region's pixels: those deepest inside. Ratios are measured from
    the masks where the table has no ratio column.
    """
    start_logging()
    with guarded():
        from wsseg.train.marks import simulate_marks

        written = simulate_marks(
            cases, out, percent=percent, per_component=per_component, keep_mask=not drop_masks
        )
        typer.echo(f"wrote {written}")
