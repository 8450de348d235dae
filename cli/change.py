"""`wsseg change`: the change of ratios from one examination of a patient to the next."""

from pathlib import Path
from typing import Annotated

import typer

from wsseg.cli.console import JsonLogOption, SheetOption, guarded, say, start_logging


def change(
    reports: Annotated[
        list[Path],
        typer.Argument(help="Reports of wsseg-infer (ratios.csv, ...), in any order."),
    ],
    keys: Annotated[
        list[Path],
        typer.Option(
            help="Table of patient keys and dates: of --identify, or your own with the columns "
            "source, key and date. Repeat for several."
        ),
    ],
    repeatability: Annotated[
        str | None,
        typer.Option(
            metavar="COEFFICIENT",
            help="Difference of two measurements without a change that 95 % do not exceed: a "
            "fraction, or agreement.csv of wsseg agree. [default: the intervals decide]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Table to write. [default: .change beside the first report]"),
    ] = None,
    sheet: SheetOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a table that is already there.")
    ] = False,
    json_log: JsonLogOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log details.")] = False,
) -> None:
    """Compare the examinations of each patient, by date.

    Writes a row for each ratio of an examination and of the last one before it of the same modality
    and plane: the change, its interval, and whether it is CHANGED, STABLE or NOT_COMPARABLE.
    """
    from wsseg.imaging.tables import TableOptions
    from wsseg.serve.change import change_path, read_repeatability, write_changes

    start_logging(as_json=json_log, verbose=verbose)
    with guarded():
        found = write_changes(
            reports,
            keys,
            out or change_path(reports[0]),
            None if repeatability is None else read_repeatability(repeatability),
            TableOptions(sheet),
            overwrite=overwrite,
        )
        say(found.words)
