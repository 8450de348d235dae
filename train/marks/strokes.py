"""Scribbles: a thin stroke along the middle of a region, and one of background beside it."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

from wsseg.train.marks.region import (
    Mask,
    deepest,
    depth,
    distance_from,
    first_pixels,
    random_pixel,
    share_count,
)

LEAST_GAP = 2.0
"""Pixels between a region and a stroke of background, whose border no reader hits more exactly."""
GAP = 0.5
"""The same as a part of the radius of a disc of the region's area."""
CLOSED = -1.0
"""Cost of a pixel that a path may not cross."""


def stroke_mark(region: Mask, percent: float) -> Mask:
    """The middle `percent` % of a region's medial line, one pixel wide.

    The line goes from tip to tip of the region (of the component that holds its deepest pixel)
    and keeps as far from the border as it can. At least one pixel of a region that is not empty.
    """
    mark = np.zeros_like(region)
    path = medial_line(region) if region.any() else np.zeros((0, 2), np.intp)
    count = share_count(len(path), percent)
    start = (len(path) - count) // 2
    mark[tuple(path[start : start + count].T)] = True
    return mark


def medial_line(region: Mask) -> NDArray[np.intp]:
    """Pixels (n, 2) of the path between the two ends of a region, through its depth.

    The ends are the pixels that are farthest apart, on paths inside the region; the path between
    them is the one of least cost where a pixel costs 1 / depth**2.
    """
    (place,) = ndimage.find_objects(region.astype(np.uint8))
    inside = region[place]
    equal = np.where(inside, 1.0, CLOSED)
    first = _farthest(equal, deepest(inside))
    last = _farthest(equal, first)
    deep = np.where(inside, np.maximum(depth(inside), 1.0) ** -2, CLOSED)
    search = MCP_Geometric(deep)
    search.find_costs([first])
    path = np.array(search.traceback(last), dtype=np.intp)
    return path + np.array([part.start for part in place], dtype=np.intp)


def background_stroke(foreground: Mask, count: int, random: np.random.Generator) -> Mask:
    """`count` pixels of a line around the foreground, one pixel wide, at some distance from it.

    The distance is half the radius of a disc of the foreground's area, less where the picture has
    no such pixel; it begins at a pixel drawn by chance. Nothing where all is foreground or none.
    """
    if foreground.all() or not foreground.any():
        return np.zeros_like(foreground)
    distance = ndimage.distance_transform_edt(~foreground)
    wanted = max(LEAST_GAP, GAP * float(np.sqrt(foreground.sum() / np.pi)))
    gap = min(wanted, float(distance.max()))
    line = (distance >= gap) & (distance < gap + 1)
    return first_pixels(line, distance_from(line.shape, random_pixel(line, random)), count)


def _farthest(
    costs: Float[NDArray[np.float64], "rows columns"], start: tuple[int, int]
) -> tuple[int, int]:
    """The pixel whose cheapest path from `start` is the dearest."""
    total, _ = MCP_Geometric(costs).find_costs([start])
    reached = np.where(np.isfinite(total), total, CLOSED)
    row, column = np.unravel_index(int(np.argmax(reached)), reached.shape)
    return int(row), int(column)
