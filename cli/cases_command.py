"""`wsseg cases`: what a table of cases can teach, before anything is trained on it."""

from pathlib import Path
from typing import Annotated

import typer

from wsseg.cli.console import guarded, start_logging
from wsseg.cli.table_options import IgnoreOption, SheetOption

cases = typer.Typer(
    name="cases",
    help="Look at a table of cases.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cases.callback()
def _cases() -> None:
    """Look at a table of cases."""


@cases.command()
def check(
    table: Annotated[
        Path, typer.Argument(metavar="CASES", help="Table of images and what is known (CSV, XLSX).")
    ],
    config: Annotated[
        Path | None,
        typer.Option(help="TOML settings of wsseg-train, which count here too; flags win."),
    ] = None,
    ratio: Annotated[
        list[str] | None,
        typer.Option(
            help="Ratio definition NAME=CLASS/DENOMINATOR; the denominator is image, foreground or "
            "another class. Repeat for several. [default: every class over the image]"
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="PNG to write: up to 12 training cases with what the table says of them."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=32, help="Side of the square that the network will see. [default: 256]"),
    ] = None,
    sheet: SheetOption = None,
    ignore_columns: IgnoreOption = None,
) -> None:
    """Check every row and file, and tell what the cases can teach.

    Prints how many cases carry each signal, the combinations in training, the loss terms and
    presets that read them, and what is allowed but may not be meant. A table with faults ends
    with all of them and exit code 2. The picture names cases by their row alone; it shows
    patients' images, treat it as such.
    """
    start_logging()
    with guarded():
        from wsseg.cli.case_report import check_cases

        flags = {
            "ratios": ratio or None,
            "size": size,
            "sheet": sheet,
            "ignore_columns": ignore_columns or None,
        }
        check_cases(table, picture=picture, config=config, flags=flags)
