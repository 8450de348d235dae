"""The commands: `wsseg` with subcommands, and the three short names a pipeline calls."""

import logging
import sys

import typer

import wsseg
from wsseg.cli.agree import agree
from wsseg.cli.bench import bench
from wsseg.cli.cases import cases
from wsseg.cli.change import change
from wsseg.cli.console import JSON_LOG, start_logging
from wsseg.cli.demo import demo
from wsseg.cli.doctor import doctor
from wsseg.cli.export import export
from wsseg.cli.infer import infer
from wsseg.cli.info import EXIT_CODES, info
from wsseg.cli.listen import listen
from wsseg.cli.marks import marks
from wsseg.cli.merge import merge
from wsseg.cli.sign import sign
from wsseg.cli.streams import safe_streams
from wsseg.cli.train import train
from wsseg.imaging.privacy import keep_caches_private

_HELP = """From area ratios and a few marked pixels to a segmenter that a hospital can run.

Train on a table of images and ratios, export the network, turn folders of scans into ratios.csv.

Exit codes: {codes}.
"""

app = typer.Typer(
    name="wsseg",
    help=_HELP.format(codes=", ".join(f"{code} {said}" for code, said in EXIT_CODES.items())),
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks print local variables: patient data
)
_COMMANDS = (
    train, export, infer, listen, merge, agree, change, marks, bench, sign, info, doctor, demo
)  # fmt: skip
for _command in _COMMANDS:
    app.command()(_command)
app.add_typer(cases)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    if version:
        typer.echo(f"wsseg {wsseg.__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of `wsseg`."""
    _run(app)


def train_main() -> None:
    """Entry point of `wsseg-train`."""
    _run(_alone(train))


def export_main() -> None:
    """Entry point of `wsseg-export`."""
    _run(_alone(export))


def infer_main() -> None:
    """Entry point of `wsseg-infer`."""
    _run(_alone(infer))


def _run(commands: typer.Typer) -> None:
    # Known before the options are read, so that what is wrong with them is JSON too.
    as_json = JSON_LOG in sys.argv[1:]
    with safe_streams(as_json=as_json) as ended:
        try:
            keep_caches_private()
            commands()
        except SystemExit as end:
            ended(end.code if isinstance(end.code, int) else int(end.code is not None))
            raise
        except Exception:
            if not as_json:
                raise
            start_logging(as_json=True)
            logging.getLogger("wsseg").exception("a fault of wsseg itself: please report it")
            sys.exit(1)


def _alone(command: object) -> typer.Typer:
    single = typer.Typer(
        add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    single.command()(command)  # type: ignore[type-var]
    return single
