"""The options --sheet and --ignore-columns, as every command that reads a table has them."""

from typing import Annotated

import typer

SheetOption = Annotated[
    str | None,
    typer.Option("--sheet", help="Sheet of an Excel workbook. [default: the first]"),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore-columns",
        metavar="NAME",
        help="Column to pass over, by name or pattern (Patient*, or * for all that have no "
        "meaning here). Repeat for several.",
    ),
]
