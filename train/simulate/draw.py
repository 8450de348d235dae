"""Marks that are painted: a label map of marks from a label map of masks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

from wsseg.imaging.errors import WssegError
from wsseg.train.cases.schema import (
    MARKED_BACKGROUND,
    Box,
    Case,
    MarkKind,
    Pixel,
    Place,
    one_spelling,
)

# What kind of marks to simulate, and on which cases.

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


@dataclass(frozen=True)
class MarkOptions:
    """Settings of a simulation besides how much of a region is marked.

    per_component: every connected part of a region gets a mark of its own; boxes, extreme points
    and moments describe the whole region always. share: percent of the cases, whole groups of
    them, that are marked; the others stay as they are. ratio_noise: largest error of a
    ratio, in percent of it. seed: of all that is drawn by chance. WssegError outside 0..100.
    """

    kind: Kind = "erode"
    per_component: bool = False
    share: float = 100.0
    ratio_noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, percent in (("share", self.share), ("ratio noise", self.ratio_noise)):
            if not 0 <= percent <= 100:
                raise WssegError(f"a {name} of {percent:g} percent: give 0 to 100")


# Regions as arrays of pixels: how many to mark, which come first, how deep they lie.

Mask = Bool[NDArray[np.bool_], "rows columns"]
TOUCHING_CORNERS = np.ones((3, 3), dtype=bool)
"""Pixels that touch by a corner belong to one component."""


def depth(region: Mask) -> Float[NDArray[np.float64], "rows columns"]:
    """Euclidean distance in pixels to the nearest pixel outside the region; 0 outside it.

    What lies beyond the border of the picture counts as outside, so that a region which the frame
    cuts is not deepest at its cut.
    """
    distance = np.zeros(region.shape)
    for place in ndimage.find_objects(region.astype(np.uint8)):
        # Nothing outside its box is nearer than what lies around the box.
        padded = ndimage.distance_transform_edt(np.pad(region[place], 1))
        distance[place] = padded[1:-1, 1:-1]
    return distance


def deepest(region: Mask) -> tuple[int, int]:
    """Row and column of the pixel farthest from the outside, the first in reading order.

    The region must not be empty.
    """
    row, column = np.unravel_index(int(np.argmax(depth(region))), region.shape)
    return int(row), int(column)


def share_count(pixels: int, percent: float) -> int:
    """The nearest whole number to `percent` % of so many pixels, at least 1; 0 of none.

    percent in (0, 100]; WssegError otherwise.
    """
    if not 0 < percent <= 100:
        raise WssegError(f"{percent:g} percent of a region cannot be marked: give 0 to 100")
    return min(pixels, max(1, round(percent / 100 * pixels)))


def first_pixels(
    region: Mask, rank: Float[NDArray[np.float64], "rows columns"], count: int
) -> Mask:
    """The `count` pixels of the region with the lowest rank.

    Equals are taken in reading order, which makes the number exact and the choice repeatable.
    """
    places = np.flatnonzero(region)
    order = np.argsort(rank.ravel()[places], kind="stable")
    chosen = np.zeros(region.shape, dtype=bool)
    chosen.ravel()[places[order[:count]]] = True
    return chosen


def distance_from(
    shape: tuple[int, int], point: tuple[int, int]
) -> Float[NDArray[np.float64], "rows columns"]:
    """Squared Euclidean distance of every pixel to one, in pixels squared."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    squared: NDArray[np.float64] = (
        np.square(rows - point[0]) + np.square(columns - point[1])
    ).astype(np.float64)
    return squared


def random_pixel(region: Mask, random: np.random.Generator) -> tuple[int, int]:
    """Row and column of a pixel of the region, all equally likely; the region must not be empty."""
    places = np.flatnonzero(region)
    row, column = np.unravel_index(places[random.integers(places.size)], region.shape)
    return int(row), int(column)


def components(region: Mask) -> Iterator[Mask]:
    """The connected parts of a region, in reading order; corners connect."""
    numbers, count = ndimage.label(region, structure=TOUCHING_CORNERS)
    for number in range(1, count + 1):
        yield numbers == number


# What a simulation leaves to chance: streams of random numbers, marked cases, wrong ratios.

USES = ("mark", "share", "ratio")


def generator(
    seed: int, use: Literal["mark", "share", "ratio"], *place: int
) -> np.random.Generator:
    """Random numbers for one use at one place, such as a row and a class.

    Independent of every other use and place, so that a change of one draw shifts no other.
    """
    return np.random.default_rng((seed, USES.index(use), *place))


def marked_rows(cases: Sequence[Case], share: float, seed: int) -> frozenset[int]:
    """Rows of the cases to mark: `share` percent of them, as nearly as whole groups allow.

    Groups are taken in an order drawn by the seed, so that a larger share holds the smaller ones;
    at least one group for a share above 0. A case without a group is one of its own image.
    """
    groups: dict[str, list[int]] = {}
    for case, (_, name) in zip(cases, one_spelling(cases), strict=True):
        groups.setdefault(name, []).append(case.row)
    names = sorted(groups)
    order = [names[place] for place in generator(seed, "share").permutation(len(names))]
    totals = np.cumsum([0, *(len(groups[name]) for name in order)])
    nearest = int(np.argmin(np.abs(totals - share / 100 * len(cases))))
    taken = max(nearest, 1) if share > 0 else 0
    return frozenset(row for name in order[:taken] for row in groups[name])


def noisy_ratio(ratio: float, percent: float, random: np.random.Generator) -> float:
    """The ratio times a factor drawn evenly from 1 - percent/100 to 1 + percent/100; at most 1."""
    return min(1.0, ratio * (1 + percent / 100 * random.uniform(-1, 1)))


# Regions in a few numbers: box, extreme points and moments.


class Moments(NamedTuple):
    """Mean and standard deviation of a region's rows and columns, in pixels."""

    centroid: Place
    spread: Place


def box_of(region: Mask) -> Box:
    """The smallest box around a region that is not empty."""
    rows, columns = np.nonzero(region)
    return Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)


def extremes_of(region: Mask) -> tuple[Pixel, Pixel, Pixel, Pixel]:
    """The topmost, leftmost, bottommost and rightmost pixel of a region that is not empty.

    Of several in one row or column, the middle one.
    """
    box = box_of(region)
    return (
        (box.top, _middle(region[box.top])),
        (_middle(region[:, box.left]), box.left),
        (box.bottom - 1, _middle(region[box.bottom - 1])),
        (_middle(region[:, box.right - 1]), box.right - 1),
    )


def moments_of(region: Mask) -> Moments:
    """Centroid and spread of a region that is not empty; whole numbers are centres of pixels."""
    rows, columns = np.nonzero(region)
    return Moments(
        (float(rows.mean()), float(columns.mean())), (float(rows.std()), float(columns.std()))
    )


def _middle(line: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> int:
    places = np.flatnonzero(line)
    return int(places[(places.size - 1) // 2])


# Blobs and points, which tell where a region is and nothing of its shape.


def disc_mark(region: Mask, percent: float) -> Mask:
    """A disc of `percent` % of the region's pixels around its deepest pixel.

    Where the disc would leave the region, the nearest pixels inside take the place of those
    outside, so that the number of pixels is exact.
    """
    count = share_count(int(region.sum()), percent)
    return _nearest(region, deepest(region), count) if count else np.zeros_like(region)


def random_disc_mark(region: Mask, percent: float, random: np.random.Generator) -> Mask:
    """A disc of `percent` % of the region's pixels around any of its pixels, as `disc_mark`."""
    count = share_count(int(region.sum()), percent)
    return _nearest(region, random_pixel(region, random), count) if count else np.zeros_like(region)


def point_mark(region: Mask) -> Mask:
    """The deepest pixel of the region alone; nothing of an empty region."""
    return _single(region.shape, deepest(region)) if region.any() else np.zeros_like(region)


def random_point_mark(region: Mask, random: np.random.Generator) -> Mask:
    """Any one pixel of the region, all equally likely; nothing of an empty region."""
    if not region.any():
        return np.zeros_like(region)
    return _single(region.shape, random_pixel(region, random))


def _nearest(region: Mask, centre: tuple[int, int], count: int) -> Mask:
    return first_pixels(region, distance_from(region.shape, centre), count)


def _single(shape: tuple[int, ...], place: tuple[int, int]) -> Mask:
    mark = np.zeros(shape, dtype=bool)
    mark[place] = True
    return mark


# The innermost part of a region, as a reader who marks the sure middle would paint it.


def erode_mark(region: Mask, percent: float) -> Mask:
    """The innermost `percent` % of a region's pixels (row, column).

    Keeps the pixels with the largest Euclidean distance to the outside: the nearest whole number
    of them, at least one of a region that is not empty. Such a mark tells much of the region's
    shape, more than most hand-drawn marks do.
    """
    count = share_count(int(region.sum()), percent)
    return first_pixels(region, -depth(region), count)


# Scribbles: a thin stroke along the middle of a region, and one of background beside it.

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
