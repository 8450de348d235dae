"""`wsseg info`: what a model, or this installation, can do: for schedulers and agents."""

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from wsseg.cli.console import JsonLogOption, guarded, start_logging

EXIT_CODES = {
    0: "all done",
    2: "wrong usage or unusable input",
    3: "nothing to do",
    4: "all failed",
    8: "some failed",
    130: "interrupted",
}
"""Of every command; docs/serving.md says what they mean for `wsseg-infer`."""

PLAIN = (str, int, float, bool, type(None))


def info(
    context: typer.Context,
    model: Annotated[
        Path | None,
        typer.Argument(help="Model folder that wsseg-export wrote; without it, this installation."),
    ] = None,
    trust: Annotated[
        list[Path] | None,
        typer.Option(envvar="WSSEG_TRUST", help="Public key that must have signed the model."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
    json_log: JsonLogOption = False,
) -> None:
    """Tell what a model measures and may be used for, or which commands and engines there are."""
    start_logging(as_json=json_log)
    with guarded(prints=True):
        if model is None:
            found = installation(context.find_root().command)
        else:
            from wsseg.serve.model_info import model_info

            found = model_info(model, trust or ()).model_dump(mode="json")
        if as_json:
            typer.echo(json.dumps(found, indent=2, allow_nan=False))
        else:
            for line in _lines(found):
                typer.echo(line)


def installation(root: Any) -> dict[str, Any]:
    """Version, exit codes, engines of this machine, and every command below `root` with options."""
    import wsseg
    from wsseg.serve.manifest import SCHEMA_VERSION
    from wsseg.serve.model_info import INTENDED_USE, engines_here

    return {
        "kind": "installation",
        "schema_version": 1,
        "wsseg_version": wsseg.__version__,
        "model_schema_version": SCHEMA_VERSION,
        "intended_use": INTENDED_USE,
        "exit_codes": {str(code): meaning for code, meaning in EXIT_CODES.items()},
        "engines": engines_here(),
        "commands": dict(_commands(root, ())),
    }


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Commands by their words after `wsseg`, those of groups too."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from _commands(inner, (*path, name))
        return
    types = get_type_hints(inspect.unwrap(command.callback))
    parameters = [
        _parameter(each, types[each.name]) for each in command.params if each.name in types
    ]
    summary = (command.help or "").partition("\n")[0]
    yield " ".join(path), {"help": summary, "parameters": parameters}


def _parameter(parameter: Any, annotation: Any) -> dict[str, Any]:
    """An option or argument. type: of one value, as Python names it."""
    kinds = [each for each in get_args(annotation) or (annotation,) if each is not type(None)]
    kind = (get_args(kinds[0]) or kinds)[0]
    default = parameter.default
    return {
        "name": parameter.name,
        "kind": parameter.param_type_name,
        "options": [*parameter.opts, *parameter.secondary_opts],
        "type": kind.__name__,
        "required": parameter.required,
        "repeated": parameter.multiple or parameter.nargs != 1,
        "default": default if isinstance(default, PLAIN) else str(default),
        "environment": parameter.envvar,
        "help": getattr(parameter, "help", None),
    }


def _lines(value: Any, name: str = "") -> Iterator[str]:
    """Every value with its path, one a line."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _lines(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _lines(inner, f"{name}[{index}]")
    else:
        yield f"{name}: {'-' if value is None or value in ([], {}) else value}"
