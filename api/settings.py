"""Settings from a TOML file and from a caller, checked as one: the caller's win, unknown keys are
errors."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from wsseg.imaging.definitions import RatioDefinition, fault_text
from wsseg.imaging.errors import WssegError

Settings = TypeVar("Settings", bound=BaseModel)
Word = TypeVar("Word", bound=str)

_RATIO = re.compile(r"^(?P<name>[^=]+)=(?P<numerator>[^/]+)/(?P<denominator>[^/]+)$")


def settings(
    model: type[Settings],
    file: Path | None,
    flags: dict[str, Any],
    *,
    begun: Settings | None = None,
) -> Settings:
    """Build `model` from its defaults, then `file`, then the flags that were given.

    A flag whose value is None was not given. begun: settings in place of the defaults. Raises
    WssegError that lists every fault.
    """
    values = {} if begun is None else begun.model_dump(mode="json")
    values |= _read(file) if file else {}
    values |= {name: value for name, value in flags.items() if value is not None}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(_explain(fault, model) for fault in error.errors())
        raise WssegError(f"{file or 'options'}: {faults}") from error


def one_of(name: str, text: str, choices: Sequence[Word]) -> Word:
    """The choice that `text` is, for the option of that name; WssegError for any other text."""
    for choice in choices:
        if choice == text:
            return choice
    raise WssegError(f"{name}: {_not_among(text, choices)}")


def ratio_definitions(ratios: Iterable[str | RatioDefinition]) -> list[RatioDefinition]:
    """Ratios, of which each may be written as `NAME=CLASS/DENOMINATOR`."""
    return [parse_ratio(ratio) if isinstance(ratio, str) else ratio for ratio in ratios]


def parse_ratio(text: str) -> RatioDefinition:
    """Read `NAME=CLASS/DENOMINATOR`."""
    match = _RATIO.match(text)
    if not match:
        raise WssegError(f"--ratio {text}: expected NAME=CLASS/DENOMINATOR, such as fat=fat/muscle")
    return RatioDefinition(**{key: value.strip() for key, value in match.groupdict().items()})


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WssegError(f"{file}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WssegError(f"{file}: not a TOML file: {error}") from error


def _explain(fault: Any, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "literal_error":
        # The choices come as text: 'a', 'b' or 'c'.
        choices = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        if choices:
            return f"{place}: {_not_among(str(fault['input']), choices)}"
    if fault["type"] == "value_error":
        # A check of our own, which says what it found.
        return f"{place}: {fault_text(fault)}"
    if fault["type"] != "extra_forbidden":
        return f"{place}: {fault_text(fault)}, found {fault['input']!r}{_if_percent(fault)}"
    return f"unknown setting {place}{_did_you_mean(str(fault['loc'][-1]), _keys(model))}"


def _if_percent(fault: Any) -> str:
    """What to write for a number where a fraction of 1 is expected, if it is in percent."""
    number = fault["input"]
    if fault.get("ctx", {}).get("le") != 1 or not isinstance(number, int | float) or number > 100:
        return ""
    return f"; if this is in percent, write {number / 100:g}"


def _not_among(text: str, choices: Sequence[str]) -> str:
    # Closer than for names: gpu is nearer to cpu than to what is meant.
    return f"{text} is none of {', '.join(choices)}{_did_you_mean(text, choices, 0.7)}"


def _did_you_mean(word: str, known: Iterable[str], least: float = 0.5) -> str:
    near = difflib.get_close_matches(word, list(known), 1, least)
    return f"; did you mean {near[0]}?" if near else ""


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
