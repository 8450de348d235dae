"""`wsseg merge`: the reports of several runs as one."""

from pathlib import Path
from typing import Annotated

import typer

from wsseg.cli.console import JsonLogOption, guarded, say, start_logging


def merge(
    reports: Annotated[
        list[Path],
        typer.Argument(
            help="Reports of wsseg-infer: of all its shards, in any order, or of runs on different "
            "inputs, in the order of the result."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Report to write, in the format of the others.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a report that is already there.")
    ] = False,
    json_log: JsonLogOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log details.")] = False,
) -> None:
    """Join reports into one, with the tables beside them.

    The reports of shards (wsseg-infer --shard) give the tables of one run, byte by byte.
    """
    from wsseg.serve.merge import merge as join

    start_logging(as_json=json_log, verbose=verbose)
    with guarded():
        say(join(reports, out, overwrite=overwrite))
