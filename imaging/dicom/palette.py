"""The palette of a DICOM image: colours by index (PS3.3 C.7.6.3.1.5 and C.7.9.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from wsseg.imaging.dicom.file import numbers, value_of

_MOST_COLOURS = 1 << 16
# Entries and segments of a segmented palette: it has up to so many entries, and fewer segments.
_MOST_STEPS = 2 * _MOST_COLOURS
_DISCRETE, _LINEAR, _INDIRECT = range(3)


def palette_of(dataset: Dataset) -> tuple[int, NDArray[np.integer[Any]]]:
    """The first index of the palette, and its colours (index, 3).

    Raises ValueError, and whatever pydicom raises, for one that is damaged.
    """
    entries, first, bits = numbers(dataset, "RedPaletteColorLookupTableDescriptor", 3) or (0, 0, 0)
    if not 0 <= entries <= _MOST_COLOURS:
        raise ValueError
    for colour in ("Red", "Green", "Blue", "Alpha"):
        _check_segments(dataset, f"Segmented{colour}PaletteColorLookupTableData", int(bits))
    indices = int(first) + np.arange(int(entries) or _MOST_COLOURS)
    table: NDArray[np.integer[Any]] = apply_color_lut(indices, dataset)[:, :3]
    return int(first), table


def _check_segments(dataset: Dataset, keyword: str, bits: int) -> None:
    """Raise ValueError for a segmented table that expands to far more entries than a palette has.

    Ten bytes can stand for 65,535 entries, and indirect segments for any number of others.
    """
    stored = value_of(dataset, keyword)
    if not isinstance(stored, bytes):
        return
    little = dataset.file_meta.TransferSyntaxUID.is_little_endian
    if bits == 8:
        table = _Segments(list(stored), (0, 1, 2, 3) if little else (1, 0, 3, 2), 1 << 8)
    else:
        whole = stored[: len(stored) // 2 * 2]
        values = np.frombuffer(whole, "<u2" if little else ">u2").tolist()
        table = _Segments(values, (0, 1), 1 << 16)
    if table.steps(0, len(table.values)) > _MOST_STEPS:
        raise ValueError


@dataclass(frozen=True)
class _Segments:
    """values: of the table. order, radix: how the entries of an offset make one number."""

    values: Sequence[int]
    order: tuple[int, ...]
    radix: int

    def steps(self, start: int, segments: int, *, nested: bool = False) -> int:
        """Entries and segments that so many segments from `start` on expand to.

        More than _MOST_STEPS where they are too many, or refer to each other.
        """
        values, steps, at = self.values, 0, start
        while at + 1 < len(values) and segments and steps <= _MOST_STEPS:
            kind, length = values[at], values[at + 1]
            at += 2
            segments -= 1
            steps += 1
            if kind == _DISCRETE:
                steps += length
                at += length
            elif kind == _LINEAR:
                steps += length
                at += 1
            elif kind == _INDIRECT and not nested:
                entries = [*values[at : at + len(self.order)], 0, 0, 0, 0]
                offset = sum(entries[k] * self.radix**n for n, k in enumerate(self.order))
                steps += self.steps(offset, length, nested=True)
                at += len(self.order)
            else:
                return _MOST_STEPS + 1
        return steps
