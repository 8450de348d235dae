"""The text of a cell as a value; what cannot be read says so in one line."""

import json
from collections.abc import Sequence
from typing import get_args

from wsseg.train.batch import MARKED_BACKGROUND
from wsseg.train.case import Box, MarkKind, Pixel, Place, Point, Split

SPLITS: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}
MARK_KINDS: dict[str, MarkKind] = {kind: kind for kind in get_args(MarkKind)}
TAGS = {"0": False, "false": False, "1": True, "true": True}
"""Image tags; spreadsheets write what they know to be true or false in words."""
LONGEST = 1 << 31
"""Pixels: no side of an image is as long, and a float holds it exactly."""
EXTREMES = 4
"""Outermost pixels of a region: one each at its top, left, bottom and right."""


class CellError(ValueError):
    """A cell that does not hold what its column asks for; the message is for the report."""


def parse_index(text: str) -> int:
    """A 0-based position; 0 for an empty cell."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise CellError(f"{text} is not a whole number from 0")
    return int(text)


def parse_split(text: str) -> Split:
    """One of train, val and test, in any capitals."""
    if text.casefold() not in SPLITS:
        raise CellError(f"{text or 'an empty cell'} is no split: write train, val or test")
    return SPLITS[text.casefold()]


def parse_present(text: str) -> bool | None:
    """An image tag, 1 or 0, or true or false in any capitals; None for an empty cell."""
    if text and text.casefold() not in TAGS:
        raise CellError(f"{text} is no tag: write 1 (in the picture), 0 (not in it), or leave it")
    return TAGS.get(text.casefold())


def parse_mark_kind(text: str) -> MarkKind | None:
    """How marks were made; None for an empty cell."""
    if text and text not in MARK_KINDS:
        raise CellError(f"{text} is no kind of mark: write {', '.join(MARK_KINDS)}, or leave it")
    return MARK_KINDS.get(text)


def parse_box(text: str) -> Box | None:
    """A box of at least one pixel, as a JSON list or a list of that one list; None for none."""
    if not text:
        return None
    edges = _json(text)
    if isinstance(edges, list) and len(edges) == 1:
        (edges,) = edges
    if not isinstance(edges, list) or len(edges) != 4 or not all(map(_is_whole, edges)):
        raise CellError("not [top, left, bottom, right] in whole pixels: give one box, around all")
    box = Box(*edges)
    if min(box.top, box.left) < 0 or min(box.sides) < 1:
        raise CellError(
            f"{json.dumps(edges)} holds no pixel of the image: write [top, left, bottom, right] "
            f"from 0, bottom and right being the first row and column outside"
        )
    return box


def parse_extremes(text: str) -> tuple[Pixel, ...]:
    """The topmost, leftmost, bottommost and rightmost pixel, in any order; () for an empty cell."""
    if not text:
        return ()
    pixels = _json(text)
    if not isinstance(pixels, list) or len(pixels) != EXTREMES or not all(map(_is_pixel, pixels)):
        raise CellError("not a JSON list of four pixels [row, column], in whole numbers from 0")
    box = enclosing(pixels)
    for row, column in pixels:
        if row not in (box.top, box.bottom - 1) and column not in (box.left, box.right - 1):
            raise CellError(
                f"[{row}, {column}] is outermost in no direction: give the topmost, leftmost, "
                f"bottommost and rightmost pixel, one pixel twice where it is two of them"
            )
    return tuple((row, column) for row, column in pixels)


def enclosing(pixels: Sequence[Sequence[int]]) -> Box:
    """The smallest box around pixels [row, column]."""
    rows, columns = zip(*pixels, strict=True)
    return Box(min(rows), min(columns), max(rows) + 1, max(columns) + 1)


def parse_place(text: str) -> Place | None:
    """A [row, column] in pixels, fractions allowed; None for an empty cell."""
    if not text:
        return None
    place = _json(text)
    if not isinstance(place, list) or len(place) != 2 or not all(map(_is_length, place)):
        raise CellError("not [rows, columns] in pixels: write two numbers from 0, as in [31.5, 20]")
    return float(place[0]), float(place[1])


def _json(text: str) -> object:
    """What a JSON cell holds; None where it is no JSON."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def _is_whole(value: object) -> bool:
    return type(value) is int


def _is_pixel(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_whole, value)):
        return False
    row, column = value
    return bool(row >= 0 and column >= 0)


def _is_length(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and 0 <= value < LONGEST


def parse_points(text: str, classes: int) -> tuple[Point, ...]:
    """(row, column, class number) of each point of a JSON list; () for an empty cell.

    With one class a point may leave out its class number. Number 255 marks background.
    """
    if not text:
        return ()
    points = _json(text)
    if not isinstance(points, list):
        raise CellError(
            "not a JSON list: write [[row, column], ...] or [[row, column, class], ...]"
        )
    return tuple(_point(point, classes) for point in points)


def _point(point: object, classes: int) -> Point:
    whole = isinstance(point, list) and all(map(_is_whole, point))
    if not isinstance(point, list) or not whole or len(point) not in (2, 3):
        raise CellError(f"point {json.dumps(point)} is not [row, column] or [row, column, class]")
    if len(point) == 2 and classes > 1:
        raise CellError(f"point {point} has no class: write [row, column, class number]")
    row, column, number = point if len(point) == 3 else (*point, 1)
    if not (1 <= number <= classes or number == MARKED_BACKGROUND):
        raise CellError(
            f"point {point} has class {number}: class numbers go from 1 to {classes}, "
            f"and {MARKED_BACKGROUND} marks background"
        )
    return row, column, number
