"""Marks that are painted: a label map of marks from a label map of masks."""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from wsseg.train.batch import MARKED_BACKGROUND
from wsseg.train.case import MarkKind
from wsseg.train.marks.chance import generator
from wsseg.train.marks.discs import disc_mark, point_mark, random_disc_mark, random_point_mark
from wsseg.train.marks.erode import erode_mark
from wsseg.train.marks.options import Kind, MarkOptions
from wsseg.train.marks.region import Mask, components
from wsseg.train.marks.strokes import background_stroke, stroke_mark

Labels = UInt8[NDArray[np.uint8], "rows columns"]
Painter = Callable[[Mask, float, np.random.Generator], Mask]

PAINTERS: dict[Kind, Painter] = {
    "erode": lambda region, percent, random: erode_mark(region, percent),
    "disc": lambda region, percent, random: disc_mark(region, percent),
    "random-disc": random_disc_mark,
    "point": lambda region, percent, random: point_mark(region),
    "random-point": lambda region, percent, random: random_point_mark(region, random),
    "scribble": lambda region, percent, random: stroke_mark(region, percent),
}
MARK_KINDS: dict[Kind, MarkKind] = {
    "erode": "eroded",
    "disc": "disc",
    "random-disc": "disc",
    "point": "point",
    "random-point": "point",
    "scribble": "scribble",
}
"""The word for each kind in the column mark_kind, which decides how the mark is grown."""
USUAL_PERCENT: dict[Kind, float] = {
    "erode": 8.0,
    "disc": 8.0,
    "random-disc": 8.0,
    "scribble": 50.0,
}
"""Percent of a region's pixels, and for scribbles of the length of its medial line."""


def paint_marks(labels: Labels, percent: float, options: MarkOptions, row: int) -> Labels:
    """The marks of one case: 0 not marked, the class number where a class is marked.

    Each class is marked on its own. row: of the cases file; with the seed and the class it decides
    what is drawn by chance. No class that has a pixel stays without a mark. Scribbles have a stroke
    of background (255) as long as those of all classes together.
    """
    marks = np.zeros_like(labels)
    for number in range(1, int(labels.max(initial=0)) + 1):
        region = labels == number
        random = generator(options.seed, "mark", row, number)
        for part in components(region) if options.per_component else (region,):
            marks[PAINTERS[options.kind](part, percent, random)] = number
    if options.kind == "scribble":
        random = generator(options.seed, "mark", row, 0)
        stroke = background_stroke(labels > 0, int(np.count_nonzero(marks)), random)
        marks[stroke] = MARKED_BACKGROUND
    return marks
