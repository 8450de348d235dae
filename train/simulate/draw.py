"""Simulated marks of one region or label map: eroded parts, discs, points, scribbles, boxes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

from wsseg.imaging.errors import WssegError
from wsseg.train.cases.contradictions import region_box
from wsseg.train.cases.schema import MARKED_BACKGROUND, Case, MarkKind, Pixel, one_spelling

Kind = Literal[
    "erode",
    "disc",
    "random-disc",
    "point",
    "random-point",
    "scribble",
    "box",
    "extremes",
    "moments",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
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

Mask = Bool[NDArray[np.bool_], "rows columns"]
TOUCHING_CORNERS = np.ones((3, 3), dtype=bool)
"""Pixels that touch by a corner belong to one component."""

Labels = UInt8[NDArray[np.uint8], "rows columns"]
Painter = Callable[[Mask, float, np.random.Generator], Mask]

USES = ("mark", "share", "ratio")
LEAST_GAP = 2.0
"""Least distance in pixels of a background stroke from a region: no reader draws more exactly."""
GAP = 0.5
"""The same distance, relative to the radius of a disc of the region's area."""
CLOSED = -1.0
"""Cost of a pixel that a path may not cross."""


@dataclass(frozen=True)
class MarkOptions:
    """Settings of a simulation besides how much of a region is marked.

    kind: what is drawn.
    per_component: every connected part of a region gets its own mark; boxes, extreme points and
        moments always describe the whole region.
    share: percentage of the cases that are marked, in whole groups, 0..100.
    ratio_noise: largest error of a ratio, as a percentage of the ratio, 0..100.
    seed: seed of everything that is random.
    Raises WssegError for percentages outside 0..100.
    """

    kind: Kind = "erode"
    per_component: bool = False
    share: float = 100.0
    ratio_noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, percent in (("share", self.share), ("ratio noise", self.ratio_noise)):
            if not 0 <= percent <= 100:
                raise WssegError(f"{name} is {percent:g} percent: give 0 to 100")


def depth(region: Mask) -> Float[NDArray[np.float64], "rows columns"]:
    """Return the Euclidean distance in pixels to the nearest pixel outside the region.

    It is 0 outside the region. Pixels beyond the border of the image count as outside, so that a
    region that the border cuts is not deepest at its cut.
    """
    distance = np.zeros(region.shape)
    for bounds in ndimage.find_objects(region.astype(np.uint8)):
        # The nearest pixel outside the region is in its box or right around it.
        padded = ndimage.distance_transform_edt(np.pad(region[bounds], 1))
        distance[bounds] = padded[1:-1, 1:-1]
    return distance


def deepest(region: Mask) -> tuple[int, int]:
    """Return row and column of the pixel farthest from the outside, the first in reading order.

    The region must not be empty.
    """
    row, column = np.unravel_index(int(np.argmax(depth(region))), region.shape)
    return int(row), int(column)


def share_count(pixels: int, percent: float) -> int:
    """Return `percent` % of a number of pixels, rounded, and at least 1 unless there is none.

    Raises WssegError for a percentage outside (0, 100].
    """
    if not 0 < percent <= 100:
        raise WssegError(f"{percent:g} percent of a region cannot be marked: give 0 to 100")
    return min(pixels, max(1, round(percent / 100 * pixels)))


def first_pixels(
    region: Mask, rank: Float[NDArray[np.float64], "rows columns"], count: int
) -> Mask:
    """Return the `count` pixels of the region with the lowest rank.

    Pixels of equal rank are taken in reading order, so that the number is exact and the choice
    repeatable.
    """
    pixels = np.flatnonzero(region)
    order = np.argsort(rank.ravel()[pixels], kind="stable")
    chosen = np.zeros(region.shape, dtype=bool)
    chosen.ravel()[pixels[order[:count]]] = True
    return chosen


def distance_from(
    shape: tuple[int, int], point: tuple[int, int]
) -> Float[NDArray[np.float64], "rows columns"]:
    """Return the squared Euclidean distance of every pixel to one pixel, in pixels squared."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    squared: NDArray[np.float64] = (
        np.square(rows - point[0]) + np.square(columns - point[1])
    ).astype(np.float64)
    return squared


def random_pixel(region: Mask, random: np.random.Generator) -> tuple[int, int]:
    """Return row and column of a random pixel of the region, which must not be empty."""
    pixels = np.flatnonzero(region)
    row, column = np.unravel_index(pixels[random.integers(pixels.size)], region.shape)
    return int(row), int(column)


def components(region: Mask) -> Iterator[Mask]:
    """Yield the connected parts of a region, in reading order; corners connect."""
    labels, count = ndimage.label(region, structure=TOUCHING_CORNERS)
    for label in range(1, count + 1):
        yield labels == label


def generator(seed: int, use: Literal["mark", "share", "ratio"], *keys: int) -> np.random.Generator:
    """Return a random generator for one use and key, such as a row and a class.

    It is independent of every other use and key, so that a change of one draw shifts no other.
    """
    return np.random.default_rng((seed, USES.index(use), *keys))


def marked_rows(cases: Sequence[Case], share: float, seed: int) -> frozenset[int]:
    """Return the rows of the cases to mark: `share` percent of them, in whole groups.

    Groups are taken in a random order, so that a larger share contains the smaller ones; a share
    above 0 takes at least one group. A case without a group is grouped by its image.
    """
    groups: dict[str, list[int]] = {}
    for case, (_, name) in zip(cases, one_spelling(cases), strict=True):
        groups.setdefault(name, []).append(case.row)
    names = sorted(groups)
    order = [names[index] for index in generator(seed, "share").permutation(len(names))]
    totals = np.cumsum([0, *(len(groups[name]) for name in order)])
    nearest = int(np.argmin(np.abs(totals - share / 100 * len(cases))))
    taken = max(nearest, 1) if share > 0 else 0
    return frozenset(row for name in order[:taken] for row in groups[name])


def noisy_ratio(ratio: float, percent: float, random: np.random.Generator) -> float:
    """Return the ratio, at most 1, times a uniform factor within 1 +- percent/100."""
    return min(1.0, ratio * (1 + percent / 100 * random.uniform(-1, 1)))


def extremes_of(region: Mask) -> tuple[Pixel, Pixel, Pixel, Pixel]:
    """Return the topmost, leftmost, bottommost and rightmost pixel of a non-empty region.

    Of several pixels in one row or column, the middle one is taken.
    """
    box = region_box(region)
    return (
        (box.top, _middle(region[box.top])),
        (_middle(region[:, box.left]), box.left),
        (box.bottom - 1, _middle(region[box.bottom - 1])),
        (_middle(region[:, box.right - 1]), box.right - 1),
    )


def _middle(line: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> int:
    pixels = np.flatnonzero(line)
    return int(pixels[(pixels.size - 1) // 2])


def disc_mark(region: Mask, percent: float) -> Mask:
    """Return a disc of `percent` % of the region's pixels around its deepest pixel.

    Where the disc would leave the region, the nearest pixels inside replace those outside, so that
    the number of pixels is exact.
    """
    count = share_count(int(region.sum()), percent)
    return _nearest(region, deepest(region), count) if count else np.zeros_like(region)


def random_disc_mark(region: Mask, percent: float, random: np.random.Generator) -> Mask:
    """Return a disc as `disc_mark` does, but around a random pixel of the region."""
    count = share_count(int(region.sum()), percent)
    return _nearest(region, random_pixel(region, random), count) if count else np.zeros_like(region)


def point_mark(region: Mask) -> Mask:
    """Return the deepest pixel of the region; an empty region has no mark."""
    return _single(region.shape, deepest(region)) if region.any() else np.zeros_like(region)


def random_point_mark(region: Mask, random: np.random.Generator) -> Mask:
    """Return a random pixel of the region; an empty region has no mark."""
    if not region.any():
        return np.zeros_like(region)
    return _single(region.shape, random_pixel(region, random))


def _nearest(region: Mask, centre: tuple[int, int], count: int) -> Mask:
    return first_pixels(region, distance_from(region.shape, centre), count)


def _single(shape: tuple[int, ...], pixel: tuple[int, int]) -> Mask:
    mark = np.zeros(shape, dtype=bool)
    mark[pixel] = True
    return mark


def erode_mark(region: Mask, percent: float) -> Mask:
    """Return the innermost `percent` % of a region's pixels, at least one of a non-empty region.

    These are the pixels with the largest Euclidean distance to the outside. Such a mark shows more
    of the region's shape than most hand-drawn marks do.
    """
    count = share_count(int(region.sum()), percent)
    return first_pixels(region, -depth(region), count)


def stroke_mark(region: Mask, percent: float) -> Mask:
    """Return the middle `percent` % of a region's medial line, one pixel wide.

    The line goes from tip to tip of the region (of the component that holds its deepest pixel) and
    stays as far from the border as possible. A non-empty region gets at least one pixel.
    """
    mark = np.zeros_like(region)
    path = medial_line(region) if region.any() else np.zeros((0, 2), np.intp)
    count = share_count(len(path), percent)
    start = (len(path) - count) // 2
    mark[tuple(path[start : start + count].T)] = True
    return mark


def medial_line(region: Mask) -> NDArray[np.intp]:
    """Return the pixels (n, 2) of the path between the two ends of a region.

    The ends are the pixels that are farthest apart, on paths inside the region; the path between
    them is the one of least cost where a pixel costs 1 / depth**2.
    """
    (bounds,) = ndimage.find_objects(region.astype(np.uint8))
    inside = region[bounds]
    equal = np.where(inside, 1.0, CLOSED)
    first = _farthest(equal, deepest(inside))
    last = _farthest(equal, first)
    deep = np.where(inside, np.maximum(depth(inside), 1.0) ** -2, CLOSED)
    search = MCP_Geometric(deep)
    search.find_costs([first])
    path = np.array(search.traceback(last), dtype=np.intp)
    return path + np.array([part.start for part in bounds], dtype=np.intp)


def background_stroke(foreground: Mask, count: int, random: np.random.Generator) -> Mask:
    """Return `count` pixels of a line around the foreground, one pixel wide, at a distance from it.

    The distance is half the radius of a disc of the foreground's area, or less where the image has
    no such pixel. The line begins at a random pixel. There is no line without foreground or without
    background.
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
    """Return the pixel whose cheapest path from `start` costs most."""
    total, _ = MCP_Geometric(costs).find_costs([start])
    reached = np.where(np.isfinite(total), total, CLOSED)
    row, column = np.unravel_index(int(np.argmax(reached)), reached.shape)
    return int(row), int(column)


PAINTERS: dict[Kind, Painter] = {
    "erode": lambda region, percent, random: erode_mark(region, percent),
    "disc": lambda region, percent, random: disc_mark(region, percent),
    "random-disc": random_disc_mark,
    "point": lambda region, percent, random: point_mark(region),
    "random-point": lambda region, percent, random: random_point_mark(region, random),
    "scribble": lambda region, percent, random: stroke_mark(region, percent),
}


def paint_marks(labels: Labels, percent: float, options: MarkOptions, row: int) -> Labels:
    """Return the marks of one case: 0 where nothing is marked, else the label of the class.

    Every class is marked independently, and every class that has a pixel gets a mark. row: the
    case's line in the table, which together with the seed and the label seeds the random draws.
    Scribbles get a background stroke (255) as long as the strokes of all classes together.
    """
    marks = np.zeros_like(labels)
    for label in range(1, int(labels.max(initial=0)) + 1):
        region = labels == label
        random = generator(options.seed, "mark", row, label)
        for part in components(region) if options.per_component else (region,):
            marks[PAINTERS[options.kind](part, percent, random)] = label
    if options.kind == "scribble":
        random = generator(options.seed, "mark", row, 0)
        stroke = background_stroke(labels > 0, int(np.count_nonzero(marks)), random)
        marks[stroke] = MARKED_BACKGROUND
    return marks
