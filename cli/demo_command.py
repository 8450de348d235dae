"""`wsseg demo`: the whole way on real images that a package ships."""

from pathlib import Path
from typing import Annotated

import typer

from wsseg.cli.console import guarded, start_logging


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write everything to.")] = Path("demo-out"),
    epochs: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 24,
) -> None:
    """Train, export and measure on a brain MRI template, and compare with the truth."""
    start_logging()
    kept = f"what was finished is kept in {out} until the demo runs again, which begins anew"
    with guarded(interrupted=kept):
        from wsseg.cli.demo import run_demo

        run_demo(out, epochs=epochs)
