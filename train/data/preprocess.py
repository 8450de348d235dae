"""Images as the network's input, and label maps on its grid.

Training and export use the same module for images, so that they cannot differ. Label maps are
resized by the area that they cover, so that no region vanishes.
"""

import functools

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from wsseg.imaging.definitions import SPAN_SD, Window
from wsseg.train.cases.schema import NOT_MARKED

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)
"""Of RGB images on 0..1, as the pretrained weights expect them."""
CONSTANT = 1e-6
"""A standard deviation below this share of the largest value is rounding: the image is constant."""
HALF = 0.5
"""Least share of a cell that a region must cover to own it."""
ROUNDING = 1e-5
"""float32 sums of a half may end just below it."""
NEAR_BEST = 0.75
"""A mark too thin to cover half of any cell keeps the cells with at least this share of its best
coverage: a one-pixel scribble stays a line, a single pixel stays in the one or two cells it is in.
"""


class Preprocess(nn.Module):
    """Raw pixels of any size -> intensity window -> square of `size` -> ImageNet normalisation.

    window: see `Window`. size: side of the network's square input, pixels. channels: 1 (grey) or
    3 (RGB). The module has no weights and adds nothing to a state_dict. A raw value that is not
    finite (outside the scanner's view, in some NIfTI files) counts as the low end of a fixed
    window, or as 0 where the window is the image's own.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, window: Window, size: int, channels: int) -> None:
        super().__init__()
        self.window = window
        self.size = size
        self.channels = channels
        # Constants of the graph, not weights: a checkpoint must not carry them.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("sd", torch.tensor(IMAGENET_SD).view(3, 1, 1), persistent=False)

    def forward(self, raw: Float[Tensor, "n c rows columns"]) -> Float[Tensor, "n 3 s s"]:
        """Return the network's input for raw pixels: `normalise(prepare(raw))`."""
        return self.normalise(self.prepare(raw))

    def prepare(self, raw: Float[Tensor, "n c rows columns"]) -> Float[Tensor, "n c s s"]:
        """Return 0..1 intensities at the network's size for raw pixels in physical units."""
        return self.resized(self.windowed(raw))

    def resized(self, image: Float[Tensor, "n c rows columns"]) -> Float[Tensor, "n c s s"]:
        """Return an image at the network's size."""
        # Plain bilinear, because a smoothing resize has no counterpart in TensorRT and in most
        # ONNX runtimes; half-pixel centres are the convention all of them share.
        return F.interpolate(
            image, size=(self.size, self.size), mode="bilinear", align_corners=False
        )

    def windowed(self, raw: Float[Tensor, "n c rows columns"]) -> Float[Tensor, "n c rows columns"]:
        """Return 0..1 intensities at the raw grid for raw pixels in physical units."""
        fixed = self.window.kind == "fixed"
        return self.windowed_finite(
            torch.where(torch.isfinite(raw), raw, self.window.low if fixed else 0.0)
        )

    def windowed_finite(
        self, raw: Float[Tensor, "n c rows columns"]
    ) -> Float[Tensor, "n c rows columns"]:
        """Return the same as `windowed` for pixels that are known to be finite."""
        if self.window.kind == "fixed":
            low, high = self.window.low, self.window.high
            return ((raw - low) / (high - low)).clamp(0.0, 1.0)
        every_pixel = (1, 2, 3)
        centred = raw - raw.mean(every_pixel, keepdim=True)
        sd = centred.square().mean(every_pixel, keepdim=True).sqrt()
        constant = sd <= CONSTANT * raw.abs().amax(every_pixel, keepdim=True)
        spread = torch.where(constant, 1.0, 2 * SPAN_SD * sd)
        relative = torch.where(constant, 0.0, centred / spread)
        return (relative + 0.5).clamp(0.0, 1.0)

    def normalise(self, image: Float[Tensor, "n c s s"]) -> Float[Tensor, "n 3 s s"]:
        """Return 0..1 intensities in ImageNet's units; grey is repeated to RGB."""
        return (image.expand(-1, 3, -1, -1) - self.mean) / self.sd


def coverage(mask: NDArray[np.bool_], size: int) -> NDArray[np.float32]:
    """Return the exact share 0..1 of each cell of a size x size grid under a mask (row, column).

    The mean of the result is the mask's share of its own image, for larger and smaller grids.
    """
    return area_mean(mask.astype(np.float32), (size, size))


def area_mean(values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the exact mean of values (row, column) over each cell of a grid of another shape."""
    means = _row_means(_row_means(values, shape[0]).T, shape[1]).T
    return means.astype(np.float32, copy=False)


def _row_means(values: NDArray[np.float32], cells: int) -> NDArray[np.float32]:
    """Return the means of values (row, column) over `cells` intervals of rows."""
    rows = len(values)
    pixels, rest = divmod(rows, cells)
    if rest or pixels & (pixels - 1):
        return _overlap(cells, rows) @ values
    # Shares that are powers of two are exact, so that these sums equal the product, but are faster.
    share = np.float32(1 / pixels)
    means = values[::pixels] * share
    for pixel in range(1, pixels):
        means += values[pixel::pixels] * share
    return means


@functools.lru_cache(maxsize=32)
def _overlap(cells: int, pixels: int) -> NDArray[np.float32]:
    """Return the share of each cell (row) that each pixel (column) covers along one axis."""
    starts = np.arange(cells)[:, None] * (pixels / cells)
    ends = starts + pixels / cells
    pixel = np.arange(pixels)[None]
    common = np.minimum(ends, pixel + 1) - np.maximum(starts, pixel)
    share: NDArray[np.float32] = (np.clip(common, 0, None) * (cells / pixels)).astype(np.float32)
    return share


def shrink_mask(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Return full masks (k, row, column) on a size x size grid: cells covered by at least half.

    A region that covers half of no cell keeps its best-covered one, so that it is not learnt as
    absent.
    """
    layers = []
    for share in (coverage(layer, size) for layer in mask):
        covered = share >= HALF - ROUNDING
        layers.append(covered if covered.any() else keep_one(share))
    return np.stack(layers)


def keep_one(share: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the best-covered cell of a region with these shares of cells; none if it is empty."""
    best = np.zeros(share.shape, bool)
    if share.any():
        best[np.unravel_index(int(share.argmax()), share.shape)] = True
    return best


def shrink_marks(marks: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return weak marks (row, column) on a grid of another shape.

    A cell has the label that covers at least half of it. A connected mark that covers half of no
    cell keeps its best-covered ones. Of two labels in a cell, the one that covers more of it wins.
    """
    smaller = np.full(shape, NOT_MARKED, np.uint8)
    best = np.zeros(shape, np.float32)
    for label in np.unique(marks[marks != NOT_MARKED]) if marks.any() else ():
        mark = marks == label
        share = area_mean(mark.astype(np.float32), shape)
        claimed = ((share >= HALF - ROUNDING) | _thin(mark, share)) & (share > best)
        smaller[claimed] = label
        best[claimed] = share[claimed]
    return smaller


def _thin(mark: NDArray[np.bool_], share: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the cells that the connected pieces of a mark keep, each by its own best coverage."""
    # Most of an image is not marked: only the surroundings of the mark are searched.
    top, bottom = np.flatnonzero(mark.any(1))[[0, -1]]
    left, right = np.flatnonzero(mark.any(0))[[0, -1]]
    around = mark[top : bottom + 1, left : right + 1]
    pieces, count = ndimage.label(around, np.ones((3, 3)))
    inside = np.nonzero(around)
    piece, rows, columns = pieces[inside] - 1, inside[0] + top, inside[1] + left
    cells = tuple(
        ((pixels + 0.5) * (cells / extent)).astype(int)
        for pixels, cells, extent in zip((rows, columns), share.shape, mark.shape, strict=True)
    )
    covered = share[cells]
    best = np.zeros(count, np.float32)
    np.maximum.at(best, piece, covered)
    kept = covered >= np.minimum(HALF, NEAR_BEST * best)[piece]
    thin = np.zeros(share.shape, bool)
    thin[cells[0][kept], cells[1][kept]] = True
    return thin
