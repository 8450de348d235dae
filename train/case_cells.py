"""The text of a cell as a value; what cannot be read says so in one line."""

import json
import math

from wsseg.train.case import Split

SPLITS: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}


class CellError(ValueError):
    """A cell that does not hold what its column asks for; the message is for the report."""


def parse_ratio(text: str, *, bounded: bool = True) -> float | None:
    """An area ratio; None for an empty cell.

    `bounded`: in 0..1, as a share of the image or of the foreground is. A ratio to another class
    may be larger than 1.
    """
    if not text:
        return None
    number = _number(text)
    if number is None:
        raise CellError(f"{text} is not a number: {_hint(text)}")
    if number < 0 or (bounded and number > 1):
        raise CellError(f"{text} is outside 0..1: {_hint(text)}")
    return number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _hint(text: str) -> str:
    """What to write instead: for a percentage, a decimal comma, or anything else."""
    number = _number(text.removesuffix("%").strip().replace(",", "."))
    if number is None or not 0 <= number <= 100:
        return "write a fraction from 0 to 1, or leave the cell empty if it is unknown"
    if text.endswith("%") or number > 1:
        return f"if this is {number:g} percent, write {number / 100:g}"
    return f"write a decimal point, {number:g}"


def parse_index(text: str) -> int:
    """A 0-based position; 0 for an empty cell."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise CellError(f"{text} is not a whole number from 0")
    return int(text)


def parse_split(text: str) -> Split:
    """One of train, val and test."""
    if text not in SPLITS:
        raise CellError(f"{text or 'an empty cell'} is no split: write train, val or test")
    return SPLITS[text]


def parse_points(text: str, classes: int) -> tuple[tuple[int, int, int], ...]:
    """(row, column, class number) of each point of a JSON list; () for an empty cell.

    With one class a point may leave out its class number.
    """
    if not text:
        return ()
    try:
        points = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        points = None
    if not isinstance(points, list):
        raise CellError(
            "not a JSON list: write [[row, column], ...] or [[row, column, class], ...]"
        )
    return tuple(_point(point, classes) for point in points)


def _point(point: object, classes: int) -> tuple[int, int, int]:
    whole = isinstance(point, list) and all(type(value) is int for value in point)
    if not isinstance(point, list) or not whole or len(point) not in (2, 3):
        raise CellError(f"point {json.dumps(point)} is not [row, column] or [row, column, class]")
    if len(point) == 2 and classes > 1:
        raise CellError(f"point {point} has no class: write [row, column, class number]")
    row, column, number = point if len(point) == 3 else (*point, 1)
    if not 1 <= number <= classes:
        raise CellError(f"point {point} has class {number}: class numbers go from 1 to {classes}")
    return row, column, number
