"""The columns of cases.csv: which are known, and what the classes are called."""

import difflib
from dataclasses import dataclass

from wsseg.imaging.definitions import FOREGROUND, IMAGE
from wsseg.train.case_faults import Fault

DEFAULT_CLASS = "roi"
PREFIX = "ratio:"
USED = ("image", "ratio", "marks", "points", "mask", "group", "split", "volume", "slice")
UNUSED = ("ratio_low", "ratio_high", "present", "box")
"""Columns of the contract that no loss term reads yet."""
RESERVED = (IMAGE, FOREGROUND, "background")
"""Denominators and the label 0: a class of that name could not be told from them."""


@dataclass(frozen=True)
class Columns:
    """classes: in class-number order. ratio: the name of each class's ratio column,
    which the table need not have."""

    classes: tuple[str, ...]
    ratio: tuple[str, ...]
    unused: tuple[str, ...]


def read_columns(
    header: tuple[str, ...], classes: tuple[str, ...] | None
) -> tuple[Columns, list[Fault]]:
    """Tell what the columns mean, and what is wrong with them.

    Without `classes` they are named by the columns ratio:<class>, in the table's order, or else
    there is one class. Columns that begin with x_ or note are the user's own.
    """
    named = tuple(name.removeprefix(PREFIX) for name in header if name.startswith(PREFIX))
    names = classes or named or (DEFAULT_CLASS,)
    messages = [_unknown_message(name) for name in header if not _known(name)]
    messages += _class_messages(header, names, named)
    if "image" not in header:
        messages.append("no column named image: it holds the path of each picture")
    plain = "ratio" in header
    ratio = tuple("ratio" if plain else f"{PREFIX}{name}" for name in names)
    unused = tuple(name for name in header if name.partition(":")[0] in UNUSED)
    return Columns(names, ratio, unused), [Fault(1, message) for message in messages]


def _known(name: str) -> bool:
    own = name.startswith(("x_", "note"))
    per_class = name.startswith(PREFIX) and name != PREFIX
    return own or per_class or name in USED or name.partition(":")[0] in UNUSED


def _unknown_message(name: str) -> str:
    known = (*USED, "ratio:<class>", *UNUSED)
    nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]
    return (
        f"unknown column {name}: the nearest known one is {nearest}; "
        f"a column of your own begins with x_ or note"
    )


def _class_messages(
    header: tuple[str, ...], classes: tuple[str, ...], named: tuple[str, ...]
) -> list[str]:
    messages = [
        f"a class cannot be called {name}: choose another name than {', '.join(RESERVED)}"
        for name in sorted(set(classes) & set(RESERVED))
    ]
    messages += [
        f"column ratio:{name} names no class: the classes are {', '.join(classes)}"
        for name in named
        if name not in classes
    ]
    if "ratio" in header and named:
        messages.append("both ratio and ratio:<class> columns: keep one kind")
    elif "ratio" in header and len(classes) > 1:
        messages.append(
            f"a ratio column with {len(classes)} classes: write ratio:<class>, one column a class"
        )
    return messages
