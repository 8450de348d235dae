"""`wsseg doctor`: what works on this machine, and why the rest does not."""

from typing import Annotated

import typer

from wsseg.cli.console import guarded


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Tell which engines, codecs and devices work here, and why the others do not."""
    with guarded():
        from wsseg.cli.doctor import checks, show

        show(checks(), as_json=as_json)
