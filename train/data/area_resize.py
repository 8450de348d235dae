"""Label maps on the network's grid: by the area they cover there, so that nothing vanishes."""

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsseg.train.cases.schema import NOT_MARKED

# A cell belongs to what covers at least this share of it.
HALF = 0.5
# A mark too thin to cover half of any cell keeps the cells that come this near to its best one:
# a one-pixel scribble stays a line, a single pixel stays in the cell or two it really lies in.
NEAR_BEST = 0.75


def coverage(mask: NDArray[np.bool_], size: int) -> NDArray[np.float32]:
    """Share 0..1 of every cell of a size x size grid over the mask (row, column), exactly.

    The mean of the result is the mask's share of its own image, for larger and smaller grids.
    """
    return area_mean(mask.astype(np.float32), (size, size))


def area_mean(values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Mean of the values (row, column) over every cell of a grid of another shape, exactly."""
    means = _row_means(_row_means(values, shape[0]).T, shape[1]).T
    return means.astype(np.float32, copy=False)


def _row_means(values: NDArray[np.float32], cells: int) -> NDArray[np.float32]:
    """Mean of the values (row, column) over so many cells along the rows."""
    rows = len(values)
    pixels, rest = divmod(rows, cells)
    if rest or pixels & (pixels - 1):
        return _overlap(cells, rows) @ values
    # In powers of two no share is rounded: sums in this order are those of the product, and faster.
    share = np.float32(1 / pixels)
    means = values[::pixels] * share
    for pixel in range(1, pixels):
        means += values[pixel::pixels] * share
    return means


@functools.lru_cache(maxsize=32)
def _overlap(cells: int, pixels: int) -> NDArray[np.float32]:
    """Share of each cell (row) that each pixel (column) covers along one axis."""
    starts = np.arange(cells)[:, None] * (pixels / cells)
    ends = starts + pixels / cells
    place = np.arange(pixels)[None]
    common = np.minimum(ends, place + 1) - np.maximum(starts, place)
    share: NDArray[np.float32] = (np.clip(common, 0, None) * (cells / pixels)).astype(np.float32)
    return share


def shrink_mask(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Full masks (k, row, column) on a size x size grid: cells covered by at least half.

    A region that covers half of no cell keeps its best-covered one: it must not be taught as
    absent.
    """
    return np.stack([_half_covered(coverage(layer, size)) for layer in mask])


def _half_covered(share: NDArray[np.float32]) -> NDArray[np.bool_]:
    # float32 sums of a half may end just below it.
    covered: NDArray[np.bool_] = share >= HALF - 1e-5
    return covered if covered.any() else keep_one(share)


def keep_one(share: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The best-covered cell of a region, given by its share of every cell; none of an empty one."""
    kept = np.zeros(share.shape, bool)
    if share.any():
        kept[np.unravel_index(int(share.argmax()), share.shape)] = True
    return kept


def shrink_marks(marks: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Weak marks (row, column) on a grid of another shape.

    A cell carries the label that covers at least half of it; a connected mark that covers half of
    no cell keeps its best-covered ones. Where two labels claim a cell, the better covered wins.
    """
    smaller = np.full(shape, NOT_MARKED, np.uint8)
    best = np.zeros(shape, np.float32)
    for label in np.unique(marks[marks != NOT_MARKED]) if marks.any() else ():
        mark = marks == label
        share = area_mean(mark.astype(np.float32), shape)
        claimed = ((share >= HALF - 1e-5) | _thin(mark, share)) & (share > best)
        smaller[claimed] = label
        best[claimed] = share[claimed]
    return smaller


def _thin(mark: NDArray[np.bool_], share: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Cells that connected pieces of a mark keep, each by its own best coverage."""
    # Around the mark alone: most pictures are empty but for it.
    top, bottom = np.flatnonzero(mark.any(1))[[0, -1]]
    left, right = np.flatnonzero(mark.any(0))[[0, -1]]
    around = mark[top : bottom + 1, left : right + 1]
    pieces, count = ndimage.label(around, np.ones((3, 3)))
    inside = np.nonzero(around)
    piece, rows, columns = pieces[inside] - 1, inside[0] + top, inside[1] + left
    cells = tuple(
        ((place + 0.5) * (cells / extent)).astype(int)
        for place, cells, extent in zip((rows, columns), share.shape, mark.shape, strict=True)
    )
    covered = share[cells]
    best = np.zeros(count, np.float32)
    np.maximum.at(best, piece, covered)
    kept = covered >= np.minimum(HALF, NEAR_BEST * best)[piece]
    thin = np.zeros(share.shape, bool)
    thin[cells[0][kept], cells[1][kept]] = True
    return thin
