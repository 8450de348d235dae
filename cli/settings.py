"""Settings from a TOML file and from flags, checked as one: flags win, unknown keys stop."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from wsseg.imaging.errors import WssegError

Settings = TypeVar("Settings", bound=BaseModel)


def settings(model: type[Settings], file: Path | None, flags: dict[str, Any]) -> Settings:
    """Build `model` from its defaults, then `file`, then the flags that were given.

    A flag whose value is None was not given. Raises WssegError that lists every fault.
    """
    values = _read(file) if file else {}
    values |= {name: value for name, value in flags.items() if value is not None}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(_explain(fault, model) for fault in error.errors())
        raise WssegError(f"{file or 'options'}: {faults}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WssegError(f"{file}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WssegError(f"{file}: not a TOML file: {error}") from error


def _explain(fault: Any, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return f"{place}: {fault['msg']}, found {fault['input']!r}"
    near = difflib.get_close_matches(str(fault["loc"][-1]), _keys(model), 1, 0.5)
    return f"unknown setting {place}" + (f"; did you mean {near[0]}?" if near else "")


def _keys(model: type[BaseModel]) -> list[str]:
    """All setting names, those of nested models included."""
    names = list(model.model_fields)
    for info in model.model_fields.values():
        for nested in _models(info.annotation):
            names += _keys(nested)
    return names


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models within an annotation such as tuple[A | B, ...] | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
