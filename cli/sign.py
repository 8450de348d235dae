"""`wsseg sign`: the signature of a model that was approved."""

from pathlib import Path
from typing import Annotated

import typer

from wsseg.cli.console import JsonLogOption, guarded, say, start_logging


def sign(
    model: Annotated[Path, typer.Argument(help="Model folder that wsseg-export wrote.")],
    key: Annotated[
        Path,
        typer.Option(help="Private Ed25519 key in PEM; the password of an encrypted one is asked."),
    ],
    json_log: JsonLogOption = False,
) -> None:
    """Sign a model, so that wsseg-infer --trust runs it and no other.

    Writes SHA256SUMS and SHA256SUMS.sig into the folder.
    """
    start_logging(as_json=json_log)
    with guarded():
        from wsseg.export.signing import PasswordNeededError, sign_model

        try:
            sums, signature = sign_model(model, key)
        except PasswordNeededError:
            password = typer.prompt("password of the key", hide_input=True, err=True)
            sums, signature = sign_model(model, key, password.encode())
        say(f"wrote {sums} and {signature}")
