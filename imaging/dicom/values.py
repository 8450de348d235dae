"""Values of a DICOM data set, read with suspicion: absent and malformed both become nothing."""

import logging
import math
import threading
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Self, TextIO

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

# Keeps pydicom and its decoders off the terminal: their messages may quote header values.

logger = logging.getLogger(__name__)

_LIBRARIES = ("pydicom", "PIL", "openjpeg", "rle", "jpeg_ls", "pylibjpeg", "gdcm")
_MODULES = rf"({'|'.join(_LIBRARIES)})(\.|$)"


class Quiet:
    """A context in which the libraries' warnings become debug lines without their text.

    Warning filters belong to the whole process, so threads share one change of them: the first
    one in makes it, the last one out takes it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._level = logging.NOTSET
        self._caught: warnings.catch_warnings[None] = warnings.catch_warnings()

    def __enter__(self) -> Self:
        with self._lock:
            if self._depth == 0:
                self._silence()
            self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._caught.__exit__(None, None, None)
                logging.getLogger("pydicom").setLevel(self._level)

    def _silence(self) -> None:
        library = logging.getLogger("pydicom")
        self._level = library.level
        library.setLevel(logging.CRITICAL + 1)
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.filterwarnings("always", module=_MODULES)
        show = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if set(_LIBRARIES) & set(Path(filename).parts):
                logger.debug("%s at %s:%d", category.__name__, Path(filename).name, lineno)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = note


quiet = Quiet()


# Kinds of value that are written in plain characters: UIDs, and numbers.
_IDENTIFIERS, _NUMERIC = frozenset({"UI"}), frozenset({"DS", "IS"})
# Scanners round direction cosines; beyond this they describe no plane at all.
_RIGHT_ANGLE_TOLERANCE = 0.02
# Some write vectors of another length, which says nothing of the direction they give.
_SHORTEST, _LONGEST = 0.5, 2.0


@lru_cache
def _tag(keyword: str | int) -> BaseTag:
    return Tag(keyword)


def tags_of(keywords: tuple[str, ...]) -> list[int]:
    """The tags of DICOM keywords such as "PixelSpacing"."""
    return [_tag(keyword) for keyword in keywords]


def value_of(dataset: Dataset, keyword: str | int) -> object:
    """The element's value, or None where it is absent, empty or cannot be parsed.

    A private element has no keyword: it is named by its tag.
    """
    # By tag: a keyword would be looked up in the whole dictionary of DICOM each time.
    tag = _tag(keyword)
    try:
        return dataset[tag].value if tag in dataset else None
    except Exception:  # pydicom converts on access and raises many kinds on malformed values
        return None


def is_empty(dataset: Dataset, keyword: str) -> bool:
    """True where the element is absent or holds no value; False for one that cannot be parsed."""
    tag = _tag(keyword)
    if tag not in dataset:
        return True
    value = dataset.get_item(tag).value
    return not (value.strip(b"\0 ") if isinstance(value, bytes) else value)


def text(dataset: Dataset, keyword: str) -> str:
    """The element as text, "" where there is none; several values are joined by backslashes."""
    stored = _stored(dataset, keyword, _IDENTIFIERS)
    if stored is not None and "\\" not in stored:
        return stored
    value = value_of(dataset, keyword)
    if isinstance(value, (MultiValue, list)):
        value = "\\".join(map(str, value))
    return "" if value is None else str(value).strip("\0 ")


def _stored(dataset: Dataset, keyword: str, kinds: frozenset[str]) -> str | None:
    """The characters of an element of one of these kinds of value, if pydicom has not parsed it.

    To make an object of each value, as pydicom does, takes most of the time of reading a header.
    """
    element = dataset.get_item(_tag(keyword))
    if not isinstance(element, RawDataElement) or element.VR not in kinds or not element.value:
        return None
    try:
        return element.value.decode("ascii").strip("\0 ")
    except UnicodeDecodeError:
        return None


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of an element in capitals, none where there is none."""
    value = value_of(dataset, keyword)
    several = value if isinstance(value, (MultiValue, list)) else [value]
    return tuple(str(one).strip("\0 ").upper() for one in several if one is not None)


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None."""
    stored = _stored(dataset, keyword, _NUMERIC)
    value = value_of(dataset, keyword) if stored is None else stored.split("\\")
    items = list(value) if isinstance(value, (MultiValue, list)) else [value]
    while len(items) > count and str(items[-1]).strip() in ("", "None"):  # a trailing backslash
        items.pop()
    if len(items) != count:
        return None
    try:
        found = tuple(float(str(item)) for item in items)
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) else None


def number(dataset: Dataset, keyword: str) -> float | None:
    """One finite number, or None."""
    found = numbers(dataset, keyword, 1)
    return found[0] if found else None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """One whole number, or None."""
    found = number(dataset, keyword)
    return int(found) if found is not None and found == int(found) else None


def lengths(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    """Two positive lengths (row distance, column distance), or None."""
    found = numbers(dataset, keyword, 2)
    return (found[0], found[1]) if found and min(found) > 0 else None


def cosines(dataset: Dataset, keyword: str = "ImageOrientationPatient") -> tuple[float, ...] | None:
    """Direction cosines of a row and a column; None unless they are at right angles."""
    found = numbers(dataset, keyword, 6)
    if found is None:
        return None
    vectors = (found[:3], found[3:])
    lengths = [math.sqrt(_dot(vector, vector)) for vector in vectors]
    if min(lengths) < _SHORTEST or max(lengths) > _LONGEST:
        return None
    if max(abs(length**2 - 1) for length in lengths) > _RIGHT_ANGLE_TOLERANCE:
        pairs = zip(vectors, lengths, strict=True)
        found = tuple(x / length for vector, length in pairs for x in vector)
    fault = abs(_dot(found[:3], found[3:]))
    return found if fault <= _RIGHT_ANGLE_TOLERANCE else None


def _dot(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def frame_count(dataset: Dataset) -> int:
    """How many frames an object says that it has; 1 where it says nothing."""
    return max(integer(dataset, "NumberOfFrames") or 1, 1)


def first_item(dataset: Dataset, keyword: str) -> Dataset:
    """The first item of a sequence, an empty one where there is none."""
    found = items(dataset, keyword)
    return found[0] if found else Dataset()


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, none where it is absent or malformed."""
    value = value_of(dataset, keyword)
    return list(value) if isinstance(value, Sequence) else []
