"""Blobs of a known size: where a region may lie in a picture of which only its area is known.

The area sets the scale to look at: among all ellipses that cover it, the one that stands out most
from the ring around it. Source: blob detection at a given scale (Lindeberg, "Feature Detection with
Automatic Scale Selection", IJCV 1998), the scale being known here.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

Polarity = Literal[-1, 1]
"""Whether a region is darker (-1) or brighter (1) than what lies around it."""
POLARITIES: tuple[Polarity, ...] = (-1, 1)

SHAPES = ((1.0, 0.0), *((1.6, quarter * math.pi / 4) for quarter in range(4)))
"""Long over short axis, and the angle of the long one; columns to rows, radians."""
RING = 1.15
"""Reach of the ring around a blob, over the blob's own; at least RING_PIXELS beyond it."""
RING_PIXELS = 1.5
LEAST_PIXELS = 12.0
LEAST_CONTRAST = 1e-4
"""Of intensities 0..1; what is fainter may be rounding."""
INSIDE = 0.98
"""Share of a blob that lies within the picture: what sticks out at a border is mostly shadow."""


@dataclass(frozen=True)
class Blob:
    """An ellipse; lengths as shares of the picture's longest side.

    row, column: centre. long, short: half axes. angle: of the long one, columns to rows, radians.
    contrast: how far its mean lies above (bright) or below (dark) its ring's, in intensities.
    """

    row: float
    column: float
    long: float
    short: float
    angle: float
    contrast: float

    def draw(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Its pixels on a grid of this shape, which has the picture's proportions."""
        side = max(shape)
        rows, columns = ((np.indices(shape) + 0.5).T / side).T - np.reshape(
            [self.row, self.column], (2, 1, 1)
        )
        return _radius(rows, columns, (self.long, self.short), self.angle) <= 1


def best_blobs(image: NDArray[np.floating], area: float) -> dict[Polarity, Blob]:
    """The darkest and the brightest blob of a picture next to its ring; empty if none fits.

    image: intensities 0..1 (row, column), finite. area: share of the picture that the blob covers,
    > 0; one of fewer than LEAST_PIXELS is not told from noise, and one of more than about 0.78
    of a square does not fit. A blob has a contrast of at least LEAST_CONTRAST.
    """
    found: dict[Polarity, Blob] = {}
    if area * image.size < LEAST_PIXELS:
        return found
    radius = math.sqrt(area * image.size / math.pi)
    for stretch, angle in SHAPES:
        axes = (radius * math.sqrt(stretch), radius / math.sqrt(stretch))
        contrast = _contrasts(image, axes, angle)
        for polarity in POLARITIES:
            signed = polarity * contrast
            place = int(np.argmax(np.nan_to_num(signed, nan=-math.inf)))
            best = float(signed.flat[place])
            least = found[polarity].contrast if polarity in found else LEAST_CONTRAST
            if best > least:
                found[polarity] = _blob(image.shape, place, axes, angle, best)
    return found


def _contrasts(
    image: NDArray[np.floating], axes: tuple[float, float], angle: float
) -> NDArray[np.floating]:
    """Mean within an ellipse about each pixel minus the mean of its ring; NaN if it sticks out."""
    grown = max(RING, 1 + RING_PIXELS / axes[1])
    reach = math.ceil(axes[0] * grown)
    rows, columns = np.indices((2 * reach + 1,) * 2) - float(reach)
    radius = _radius(rows, columns, axes, angle)
    inside, ring = radius <= 1, (radius > 1) & (radius <= grown)
    means, counts = [], []
    for kernel in (inside, ring):
        # Symmetric about its centre, so that convolution and correlation are the same.
        weights = kernel.astype(np.float64)
        count = fftconvolve(np.ones(image.shape), weights, mode="same")
        means.append(fftconvolve(image, weights, mode="same") / np.maximum(count, 0.5))
        counts.append(count)
    fits = (counts[0] >= INSIDE * inside.sum()) & (counts[1] >= 0.5)
    contrast: NDArray[np.float64] = np.where(fits, means[0] - means[1], math.nan)
    return contrast


def _radius(
    rows: NDArray[np.floating],
    columns: NDArray[np.floating],
    axes: tuple[float, float],
    angle: float,
) -> NDArray[np.floating]:
    """Distance from the centre in units of the ellipse: 1 at its border."""
    cosine, sine = math.cos(angle), math.sin(angle)
    along, across = columns * cosine + rows * sine, rows * cosine - columns * sine
    radius: NDArray[np.floating] = np.hypot(along / axes[0], across / axes[1])
    return radius


def _blob(
    shape: tuple[int, ...], place: int, axes: tuple[float, float], angle: float, contrast: float
) -> Blob:
    row, column = (float(value) for value in np.unravel_index(place, shape))
    side = max(shape)
    return Blob(
        (row + 0.5) / side, (column + 0.5) / side, axes[0] / side, axes[1] / side, angle, contrast
    )
