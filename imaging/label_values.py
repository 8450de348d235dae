"""The class numbers that the values of label files stand for: numbers, colours or segments."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import ReadError, WssegError
from wsseg.imaging.picture_page import WHITE, Page, Stored

Labels = NDArray[np.uint8]
Label = int | str
"""A number, a colour ("#rrggbb") or the text of a DICOM segment."""

BACKGROUND = "background"
"""The name in a map for labels that belong to no class."""
COLOURS_SHOWN = 5
VOC_COLOURS = 256
WHITE_16 = 65535

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Numbering:
    """How label files number the classes.

    one_class: whether the table has a single class. stored: for each class, in order, the labels
    that stand for it in label files; empty where class k is number k. background: the labels that
    stand for none.
    """

    one_class: bool = False
    stored: tuple[tuple[Label, ...], ...] = ()
    background: tuple[Label, ...] = ()

    @property
    def named(self) -> set[Label]:
        """Every label that the map names."""
        return {label for stored in (*self.stored, self.background) for label in stored}

    def class_of(self, labels: Iterable[Label], background: int) -> int | None:
        """The class number that any of these labels of one thing stands for; None for none."""
        known = set(labels)
        for number, stored in enumerate(self.stored, 1):
            if known & set(stored):
                return number
        return background if known & set(self.background) else None


PLAIN = Numbering()


def numbering(classes: tuple[str, ...], labels: Mapping[str, tuple[Label, ...]]) -> Numbering:
    """The numbering of a map from class names to what stands for them in label files.

    Raises WssegError for names that are no classes, classes that are missing, and labels given
    twice.
    """
    one_class = len(classes) == 1
    if not labels:
        return Numbering(one_class)
    known = {*classes, BACKGROUND}
    unknown = [name for name in labels if name not in known]
    missing = [name for name in classes if not labels.get(name)]
    if unknown or missing:
        what = f"{unknown[0]} is no class" if unknown else f"{missing[0]} is missing"
        raise WssegError(f"labels: {what}; the table's classes are {', '.join(classes)}")
    every = [_settled(label) for stored in labels.values() for label in stored]
    twice = next((label for label in every if every.count(label) > 1), None)
    if twice is not None:
        raise WssegError(f"labels: {twice} stands twice: give each to one class")
    stored = tuple(tuple(map(_settled, labels[name])) for name in classes)
    aside = () if BACKGROUND in classes else tuple(map(_settled, labels.get(BACKGROUND, ())))
    return Numbering(one_class, stored, aside)


def _settled(label: Label) -> Label:
    """Colours in lower case; a grey one is its number."""
    if not isinstance(label, str) or not _COLOUR.fullmatch(label):
        return label
    red, green, blue = (int(label[at : at + 2], 16) for at in (1, 3, 5))
    return red if red == green == blue else label.lower()


def class_numbers(page: Page, how: Numbering, *, background: int, name: str) -> Labels:
    """The class numbers (row, column) of a label picture, 0 where no class is.

    Without a map the stored whole numbers 0..255 are returned as they are; black and white alone,
    in 1 bit or a palette, are 0 and 1. A palette counts by its colours, never by their order: grey
    is its value; other colours count where they can only mean one thing, see `_coloured_numbers`.
    With a map, unnamed values are 0; 255 and the values named background become `background`.
    Raises ReadError for colours without a meaning, fractions, negative and, without a map, large
    numbers.
    """
    as_stored = page.values.dtype == np.uint8 and not page.coloured and page.label_mirror is None
    if as_stored and page.alpha is None and not how.stored:
        return np.array(page.values)
    keys = _keys(page, how, name)
    if how.stored:
        return _mapped(keys, how, background, name)
    if (keys < 0).any() and page.coloured:
        keys = _coloured_numbers(keys, page, how, name)
    if (keys > WHITE).any():
        raise _number_error(keys[keys > WHITE][0], name)
    return keys.astype(np.uint8)


def unnamed(page: Page, how: Numbering, name: str) -> list[int]:
    """Numbers of a label picture that a map does not name, which become background."""
    aside = {0, WHITE, *how.named}
    keys = np.unique(_keys(page, how, name))
    return [int(key) for key in keys if key > 0 and int(key) not in aside]


def _keys(page: Page, how: Numbering, name: str) -> NDArray[np.float64]:
    """Whole numbers (row, column); colours as `_colour_keys` gives them.

    Black and white alone are 0 and 1, or 0 and 255 where a map names 255, in a palette or in 1
    bit: programs store those in either way. In 16 bits they are 0 and 255, unless the map names the
    number by which white is stored.
    """
    keys = page.numbers()
    if keys.ndim == 2:
        with np.errstate(invalid="ignore"):
            wrong = keys[~((keys >= 0) & (keys == np.floor(keys)) & np.isfinite(keys))]
        if wrong.size:
            raise _number_error(wrong[0], name)
        deep = page.values.dtype.kind == "u" and page.values.dtype.itemsize == 2
        if deep and WHITE_16 not in how.named and np.isin(keys, (0, WHITE_16)).all():
            keys = np.where(keys == 0, 0.0, WHITE)
    else:
        if not np.isfinite(keys).all() or keys.min(initial=0) < 0 or keys.max() > WHITE:
            raise _colour_error(name, "holds colours beyond 0..255")
        keys = _colour_keys(np.rint(keys).astype(np.int64))
    if page.alpha is not None:
        keys = _where_opaque(keys, page.alpha, how, name)
    drawn = page.index is not None and not page.numbered
    if not drawn and page.values.dtype != np.bool_:
        return keys
    one, white = (keys == 1).any(), (keys == WHITE).any()
    if not np.isin(keys, (0, 1, WHITE)).all() or (one and white):
        return keys
    return np.where(keys == 0, 0.0, WHITE if WHITE in how.named else 1.0)


def _colour_keys(rgb: NDArray[np.int64]) -> NDArray[np.float64]:
    """RGB (..., 3), 0..255, as its value where it is grey, else as -1 less its 24 bits."""
    grey = (rgb == rgb[..., :1]).all(axis=-1)
    codes = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
    return np.where(grey, rgb[..., 0], -1 - codes).astype(np.float64)


def _where_opaque(
    keys: NDArray[np.float64], alpha: Stored, how: Numbering, name: str
) -> NDArray[np.float64]:
    """0 where the picture is transparent; the opacity itself where all colours are equal."""
    clear = alpha == 0
    if not clear.any():
        return keys
    if np.unique(alpha[~clear]).size > 1:
        raise ReadError(
            "label_alpha",
            f"{name} is partly transparent, which a label cannot be: save it without soft edges, "
            "or without transparency",
        )
    hidden, seen = np.unique(keys[clear]), np.unique(keys[~clear])
    if seen.any() and (hidden.size == 1 or not hidden.any()):
        return np.where(clear, 0.0, keys)
    if not seen.any() and not hidden.any():
        if not seen.size:
            return keys
        if how.one_class:
            return np.where(clear, 0.0, 1.0)
    raise ReadError(
        "label_alpha",
        f"the colours and the transparency of {name} contradict each other: save it without "
        "transparency, 0 where no class is",
    )


def _coloured_numbers(
    keys: NDArray[np.float64], page: Page, how: Numbering, name: str
) -> NDArray[np.float64]:
    """What colours mean without a map, if they can only mean one thing.

    Either the palette's order and its colours agree on the colour map of PASCAL VOC, so that a
    program which renumbers palettes cannot have changed the classes; or the table has one class
    and there is one colour, on black.
    """
    if page.index is not None and np.array_equal(_voc_keys()[page.index], keys):
        return page.index.astype(np.float64)
    colours = np.unique(keys[keys < 0])
    others = set(np.unique(keys[keys >= 0])) - {0.0, float(WHITE)}
    if how.one_class and colours.size == 1 and not others:
        return np.where(keys < 0, 1.0, keys)
    raise _colour_error(name, f"holds {_hex_list(colours)}")


def _mapped(keys: NDArray[np.float64], how: Numbering, background: int, name: str) -> Labels:
    labels = np.zeros(keys.shape, np.uint8)
    unknown = []
    for key in np.unique(keys):
        class_number = how.class_of([int(key) if key >= 0 else _hex(key)], background)
        if class_number is None and key < 0:
            unknown.append(key)
        elif class_number is None:
            class_number = background if key == WHITE else 0
        if class_number:
            labels[keys == key] = class_number
    if unknown:
        raise _colour_error(name, f"holds {_hex_list(unknown)}, which [labels] does not name")
    return labels


def _hex(key: float) -> str:
    return f"#{int(-1 - key):06x}"


def _hex_list(colours: Sequence[float] | NDArray[np.float64]) -> str:
    more = " ..." if len(colours) > COLOURS_SHOWN else ""
    return f"the colours {', '.join(map(_hex, colours[:COLOURS_SHOWN]))}{more}"


def _number_error(value: float, name: str) -> ReadError:
    return ReadError(
        "not_labels",
        f"{name} holds {value:g}, a label map has whole numbers from 0 to 255: save class "
        "numbers, without interpolation; name larger ones under [labels] in the settings",
    )


def _colour_error(name: str, what: str) -> ReadError:
    return ReadError(
        "colour_labels",
        f"{name} {what}, and colours are no class numbers: save it as grey, or name each under "
        '[labels] in the settings, as in kidney = ["#ff0000"]',
    )


@cache
def _voc_keys() -> NDArray[np.float64]:
    """The keys of the colours of PASCAL VOC's map: bits of the index dealt to red, green, blue."""
    index = np.arange(VOC_COLOURS)
    rgb = np.zeros((VOC_COLOURS, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            rgb[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return _colour_keys(rgb)
