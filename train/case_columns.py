"""The columns of cases.csv: which are known, and what the classes are called."""

import difflib
from dataclasses import dataclass

from wsseg.imaging.definitions import FOREGROUND, IMAGE
from wsseg.train.case_faults import Fault

DEFAULT_CLASS = "roi"
OF_CASE = ("image", "marks", "points", "mask", "group", "split", "volume", "slice")
OF_CLASS = (
    "ratio",
    "ratio_low",
    "ratio_high",
    "present",
    "box",
    "extremes",
    "centroid",
    "spread",
    "mark_kind",
)
"""Columns that speak of one class: by that name with a single class, as name:<class> for each."""
RESERVED = (IMAGE, FOREGROUND, "background")
"""Denominators and the label 0: a class of that name could not be told from them."""


@dataclass(frozen=True)
class Columns:
    """classes: in class-number order. plain: the columns of `OF_CLASS` that name no class."""

    classes: tuple[str, ...]
    plain: frozenset[str]

    def of(self, name: str) -> tuple[str, ...]:
        """Each class's column of a name out of `OF_CLASS`; the table need not have them."""
        if name in self.plain:
            return (name,) * len(self.classes)
        return tuple(f"{name}:{class_name}" for class_name in self.classes)


def read_columns(
    header: tuple[str, ...], classes: tuple[str, ...] | None
) -> tuple[Columns, list[Fault]]:
    """Tell what the columns mean, and what is wrong with them.

    Without `classes` they are named by the columns ratio:<class>, in the table's order, without
    those by the columns name:<class> of the first name that has some, or else there is one class.
    Columns that begin with x_ or note are the user's own.
    """
    names = classes or _naming(header) or (DEFAULT_CLASS,)
    lacking = "image" not in header
    messages = [_unknown_message(name, lacking) for name in header if not _known(name)]
    messages += [
        f"a class cannot be called {name}: choose another name than {', '.join(RESERVED)}"
        for name in sorted(set(names) & set(RESERVED))
    ]
    for name in OF_CLASS:
        messages += _kind_messages(name, header, names)
    if lacking:
        messages.append("no column named image: it holds the path of each picture")
    columns = Columns(names, frozenset(OF_CLASS) & frozenset(header))
    return columns, [Fault(1, message) for message in messages]


def _naming(header: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that the header names."""
    speaking = [name.partition(":")[0] for name in header if _per_class(name)]
    return _named("ratio", header) or (_named(speaking[0], header) if speaking else ())


def _named(name: str, header: tuple[str, ...]) -> tuple[str, ...]:
    prefix = f"{name}:"
    return tuple(
        column.removeprefix(prefix)
        for column in header
        if column.startswith(prefix) and column != prefix
    )


def _per_class(column: str) -> bool:
    name, _, class_name = column.partition(":")
    return name in OF_CLASS and class_name != ""


def _known(column: str) -> bool:
    own = column.startswith(("x_", "note"))
    return own or column in (*OF_CASE, *OF_CLASS) or _per_class(column)


def _unknown_message(column: str, lacking: bool) -> str:
    """lacking: there is no column image, which may be this one by another name."""
    known = (*OF_CASE, *OF_CLASS, *(f"{name}:<class>" for name in OF_CLASS))
    if lacking and not difflib.get_close_matches(column.lower(), known, n=1):
        return f"unknown column {column}: if it holds the paths of the pictures, call it image"
    nearest = difflib.get_close_matches(column.lower(), known, n=1, cutoff=0.0)[0]
    return (
        f"unknown column {column}: the nearest known one is {nearest}; "
        f"a column of your own begins with x_ or note"
    )


def _kind_messages(name: str, header: tuple[str, ...], classes: tuple[str, ...]) -> list[str]:
    """What is wrong with the columns of one name out of `OF_CLASS`."""
    named = _named(name, header)
    messages = [
        f"column {name}:{class_name} names no class: the classes are {', '.join(classes)}; "
        f"name every class by a ratio:<class> column, empty where it is unknown"
        for class_name in named
        if class_name not in classes
    ]
    if name in header and named:
        messages.append(f"both {name} and {name}:<class> columns: keep one kind")
    elif name in header and len(classes) > 1:
        messages.append(
            f"a {name} column with {len(classes)} classes: write {name}:<class>, one column a class"
        )
    return messages
