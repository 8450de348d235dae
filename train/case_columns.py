"""The columns of cases.csv: which are known, and what the classes are called."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from wsseg.imaging.definitions import FOREGROUND, IMAGE
from wsseg.imaging.table import Row, TextTable, is_known
from wsseg.imaging.table_faults import Fault

DEFAULT_CLASS = "roi"
OF_CASE = ("image", "marks", "points", "mask", "group", "split", "volume", "slice")
RATIOS = ("ratio", "ratio_low", "ratio_high")
AREAS = ("area_px", "area_mm2")
"""Columns that give a class's ratio by its area."""
OF_CLASS = (
    *RATIOS,
    *AREAS,
    "present",
    "box",
    "extremes",
    "centroid",
    "spread",
    "mark_kind",
)
"""Columns that speak of one class: by that name with a single class, as name:<class> for each."""
SIZES = ("ratio", *AREAS)
"""Columns that name the classes before all others."""
PERCENT = {f"{name}_percent": name for name in RATIOS} | {
    name.replace("ratio_", "ratio_percent_"): name for name in RATIOS[1:]
}
"""Names of columns of ratios that are in percent."""
KNOWN = frozenset((*OF_CASE, *OF_CLASS, *PERCENT))
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


def without_percent(table: TextTable) -> tuple[TextTable, frozenset[str], list[Fault]]:
    """The table with every column of ratios called as if it held fractions, those that are in
    percent, and columns that are there in both ways."""
    renamed = {name: _plain(name) for name in table.header if _plain(name) != name}
    header = tuple(renamed.get(name, name) for name in table.header)
    faults = [
        Fault(table.line, f"{name} and {table.name(new)} say the same: keep one of them")
        for name, new in renamed.items()
        if header.count(new) > 1
    ]
    rows = tuple(
        Row(row.line, {renamed.get(name, name): cell for name, cell in row.cells.items()})
        for row in table.rows
    )
    written = {renamed.get(name, name): found for name, found in table.written.items()}
    written = {new: name for name, new in renamed.items()} | written
    named = replace(table, header=header, rows=rows, written=written)
    return named, frozenset(renamed.values()), faults


def percent_name(column: str) -> str:
    """What a column of ratios is called if it is in percent."""
    name, colon, class_name = column.partition(":")
    return f"{name}_percent{colon}{class_name}"


def _plain(column: str) -> str:
    name, colon, class_name = column.partition(":")
    return f"{PERCENT.get(name, name)}{colon}{class_name}"


def read_columns(
    header: tuple[str, ...], classes: tuple[str, ...] | None, line: int = 1
) -> tuple[Columns, list[Fault]]:
    """Tell what the columns mean, and what is wrong with them; line: of the header.

    Without `classes` they are named by the columns ratio:<class>, area_px:<class> and
    area_mm2:<class>, in the table's order, without those by the columns name:<class> of the first
    name that has some, or else there is one class. Columns that begin with x_ or note are the
    user's own.
    """
    names = classes or _naming(header) or (DEFAULT_CLASS,)
    lacking = "image" not in header
    messages = [
        _unknown_message(name, lacking)
        for name in header
        if not is_known(name, KNOWN) or name.endswith(":") or _spoken_for_all(name)
    ]
    messages += [
        f"a class cannot be called {name}: choose another name than {', '.join(RESERVED)}"
        for name in sorted(set(names) & set(RESERVED))
    ]
    for name in OF_CLASS:
        messages += _kind_messages(name, header, names)
    if lacking:
        messages.append("no column named image: it holds the path of each picture")
    columns = Columns(names, frozenset(OF_CLASS) & frozenset(header))
    return columns, [Fault(line, message) for message in (*messages, *_two_sizes(columns, header))]


def _spoken_for_all(column: str) -> bool:
    """Whether it names a class where the column speaks of the whole case, as image:kidney."""
    name, colon, _ = column.partition(":")
    return bool(colon) and name in OF_CASE


def _naming(header: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that the header names."""
    speaking = [name.partition(":")[0] for name in header if _per_class(name)]
    return _named(SIZES, header) or (_named(speaking[:1], header) if speaking else ())


def _named(names: tuple[str, ...] | list[str], header: tuple[str, ...]) -> tuple[str, ...]:
    parts = [column.partition(":") for column in header]
    return tuple(dict.fromkeys(rest for name, _, rest in parts if rest and name in names))


def _per_class(column: str) -> bool:
    name, _, class_name = column.partition(":")
    return name in OF_CLASS and class_name != ""


def _unknown_message(column: str, lacking: bool) -> str:
    """lacking: there is no column image, which may be this one by another name."""
    known = (*OF_CASE, *OF_CLASS, *(f"{name}:<class>" for name in OF_CLASS))
    if lacking and not difflib.get_close_matches(column.lower(), known, n=1):
        return (
            f"unknown column {column}: if it holds the paths of the pictures, call it image; "
            f"--ignore-columns passes columns over"
        )
    if "%" in column and "ratio" in column.casefold():
        return f"unknown column {column}: a ratio in percent is called ratio_percent"
    nearest = difflib.get_close_matches(column.lower(), known, n=1, cutoff=0.0)[0]
    return (
        f"unknown column {column}: the nearest known one is {nearest}; a column of your own begins "
        f"with x_ or note, or is passed over by --ignore-columns"
    )


def _two_sizes(columns: Columns, header: tuple[str, ...]) -> Iterator[str]:
    """Columns that would give a class's ratio twice."""
    for names in zip(*(columns.of(name) for name in SIZES), strict=True):
        given = [name for name in dict.fromkeys(names) if name in header]
        if len(given) > 1:
            yield f"{' and '.join(given)} both give a size: keep one of them"
            if columns.plain & set(SIZES):
                return


def _kind_messages(name: str, header: tuple[str, ...], classes: tuple[str, ...]) -> list[str]:
    """What is wrong with the columns of one name out of `OF_CLASS`."""
    named = _named([name], header)
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
