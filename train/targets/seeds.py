"""Where each class of a case grows from, by which growth, and how far."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsseg.train.targets.evidence import Evidence
from wsseg.train.targets.kind import Growth, mark_kind

BOX_SHARE = 0.7
"""Share of its box that a region covers: pi / 4 for an ellipse, less for most others."""
BOX_CORE = 0.08
"""Share of a box, around its centre, that stands for a mark where there is none."""
DOUBT: dict[Growth, float] = {"straight": 0.0, "geodesic": 0.4}
"""Half width of the border's band of doubt, as a share of the area. A border that the shape of a
mark tells errs to both sides alike, and is taught as it is."""


@dataclass(frozen=True)
class Seed:
    """Where a class grows from, how, and to which share of the image: lower and upper bound."""

    mark: NDArray[np.bool_]
    growth: Growth
    low: float
    high: float

    @property
    def middle(self) -> float:
        """The share of the image that is taught as inside."""
        return (self.low + self.high) / 2

    @property
    def doubtful(self) -> tuple[float, float]:
        """Where the band of doubt begins and ends, in units of `middle`."""
        doubt = DOUBT[self.growth]
        return self.low / self.middle * (1 - doubt), self.high / self.middle * (1 + doubt)


def seeds(evidence: Evidence, shape_bearing: Growth) -> dict[int, Seed]:
    """The classes that can be grown, by their place: with a mark and an area, or with a box.

    shape_bearing: how eroded marks are grown; all others, boxes and extreme points too, grow along
    edges.
    """
    found = {}
    for number, (low, high) in enumerate(evidence.areas):
        mark, box = evidence.marks == number + 1, evidence.boxes[number]
        if high == 0 or not (mark.any() or box is not None):
            continue
        if box is not None and math.isnan(high):
            low = high = BOX_SHARE * float(box.mean())
        if math.isnan(high):
            continue
        kind = evidence.kinds[number]
        if box is not None and not evidence.located[number]:
            mark, kind = mark | _core(box, allowed(evidence, number)), kind or "disc"
            if not mark.any():
                continue
        growth: Growth = shape_bearing if (kind or mark_kind(mark)) == "eroded" else "geodesic"
        # The mark itself is part of the region, whatever the ratio says.
        least = float(mark.mean())
        found[number] = Seed(mark, growth, max(low, least), max(high, least))
    return found


def allowed(evidence: Evidence, number: int) -> NDArray[np.bool_]:
    """Where a class may grow: in its box, and not over what is marked as something else."""
    other = (evidence.marks != 0) & (evidence.marks != number + 1)
    box = evidence.boxes[number]
    free: NDArray[np.bool_] = ~other if box is None else ~other & box
    return free


def _core(box: NDArray[np.bool_], free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The free pixels in the middle of a box, BOX_CORE of its area and at least a pixel, in the
    box's own shape; where none is free there, the free pixel of the box that is nearest to it."""
    rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
    core = np.zeros_like(box)
    share = math.sqrt(BOX_CORE)
    core[_middle(rows, share)[:, None], _middle(columns, share)] = True
    core &= free
    places = np.argwhere(box & free)
    if not core.any() and len(places):
        away = ((places - [rows.mean(), columns.mean()]) ** 2).sum(1)
        core[tuple(places[away.argmin()])] = True
    return core


def _middle(places: NDArray[np.intp], share: float) -> NDArray[np.intp]:
    count = max(1, round(share * len(places)))
    first = (len(places) - count) // 2
    return places[first : first + count]
