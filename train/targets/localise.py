"""Localisation from areas: where a class may lie in cases that do not locate it.

The proposal for an image is the blob of the known area that stands out most. Whether regions are
dark or bright, and whether they are blobs at all, follows from the whole data set: if they are, an
image's own area finds stronger blobs in it than the area of another image does.

A blob is the ellipse of the known area that stands out most from the ring around it. Source: blob
detection at a given scale (Lindeberg, "Feature Detection with Automatic Scale Selection", IJCV
1998), where here the area gives the scale.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfftn, next_fast_len, rfftn

from wsseg.train.data.preprocess import area_mean

Polarity = Literal[-1, 1]
"""Whether a region is darker (-1) or brighter (1) than its surroundings."""
POLARITIES: tuple[Polarity, ...] = (-1, 1)

SHAPES = ((1.0, 0.0), *((1.6, quarter * math.pi / 4) for quarter in range(4)))
"""Ratio of the long to the short axis, and angle of the long axis from columns to rows, radians."""
RING = 1.15
"""Outer radius of the ring around a blob, relative to the blob; at least RING_PIXELS more."""
RING_PIXELS = 1.5
LEAST_PIXELS = 12.0
LEAST_CONTRAST = 1e-4
"""Least contrast of intensities 0..1; a fainter one may be due to rounding."""
INSIDE = 0.98
"""Share of a blob that must lie within the image: blobs across a border are mostly shadow."""
SIDE = 64
"""Longest side of the grid on which blobs are searched, pixels."""
LEAST_CASES = 20
TESTED = 256
"""Largest number of images, evenly spread, from which the polarity is estimated."""
COVERED = 0.6
"""Mean share of the marks that the blobs of marked images must cover, if there are any."""
SIGNIFICANT = 4.0
"""Least t statistic of an image's own area against another's. By chance 20 images reach it, for
either polarity, once in 1300 times; many images hardly ever."""

Refusal = Literal["few", "unexplained", "missed"]


@dataclass(frozen=True)
class Blob:
    """An ellipse; lengths are fractions of the image's longest side.

    row, column: the centre. long, short: half axes. angle: of the long axis, from columns to rows,
    in radians. contrast: difference of the means of the ellipse and of its ring, in intensities;
    positive, whichever of them is brighter.
    """

    row: float
    column: float
    long: float
    short: float
    angle: float
    contrast: float

    def draw(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the blob's pixels on a grid of this shape, which has the image's proportions."""
        side = max(shape)
        rows, columns = ((np.indices(shape) + 0.5).T / side).T - np.reshape(
            [self.row, self.column], (2, 1, 1)
        )
        return _radius(rows, columns, (self.long, self.short), self.angle) <= 1


def best_blobs(image: NDArray[np.floating], area: float) -> dict[Polarity, Blob]:
    """Return the darkest and the brightest blob of an image next to its ring; empty if none fits.

    image: finite intensities 0..1 (row, column). area: share of the image that the blob covers,
    > 0. A blob of fewer than LEAST_PIXELS is not distinct from noise, and one of more than about
    0.78 of a square image does not fit. A blob has a contrast of at least LEAST_CONTRAST.
    """
    blobs: dict[Polarity, Blob] = {}
    if area * image.size < LEAST_PIXELS:
        return blobs
    side = max(image.shape)
    radius = math.sqrt(area * image.size / math.pi)
    for stretch, angle in SHAPES:
        axes = (radius * math.sqrt(stretch), radius / math.sqrt(stretch))
        contrast = _contrasts(image, axes, angle)
        for polarity in POLARITIES:
            signed = polarity * contrast
            index = int(np.argmax(np.where(np.isnan(signed), -math.inf, signed)))
            best = float(signed.flat[index])
            if best > (blobs[polarity].contrast if polarity in blobs else LEAST_CONTRAST):
                row, column = (float(at) + 0.5 for at in np.unravel_index(index, image.shape))
                long, short = axes
                blobs[polarity] = Blob(
                    row / side, column / side, long / side, short / side, angle, best
                )
    return blobs


def _contrasts(
    image: NDArray[np.floating], axes: tuple[float, float], angle: float
) -> NDArray[np.floating]:
    """Return, for an ellipse at each pixel, its mean minus its ring's; NaN if it does not fit."""
    rows, columns = image.shape
    probe = _probe((rows, columns), axes, angle)
    spectrum = rfftn(image, probe.transformed)
    inside, ring = (
        probe.around(spectrum * kernel) / np.maximum(count, 0.5)
        for kernel, count in zip(probe.spectra, probe.counts, strict=True)
    )
    contrast: NDArray[np.float64] = np.where(probe.fits, inside - ring, math.nan)
    return contrast


@dataclass(frozen=True)
class _Probe:
    """An ellipse and its ring, ready to be laid about each pixel of an image.

    shape: of the image; transformed: to which both are padded. spectra: of ellipse and ring.
    counts: how many of their pixels lie in the image, about each of its pixels. fits: whether
    enough do.
    """

    shape: tuple[int, int]
    reach: int
    transformed: tuple[int, int]
    spectra: tuple[NDArray[np.complexfloating], ...]
    counts: tuple[NDArray[np.floating], ...] = ()
    fits: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def around(self, spectrum: NDArray[np.complexfloating]) -> NDArray[np.floating]:
        """The sums about each pixel that a product of spectra stands for."""
        rows, columns = self.shape
        sums: NDArray[np.floating] = irfftn(spectrum, self.transformed)
        return sums[self.reach : self.reach + rows, self.reach : self.reach + columns]


# One area is looked for in two images, one after the other, and in many where all have it.
@lru_cache(maxsize=2 * len(SHAPES))
def _probe(shape: tuple[int, int], axes: tuple[float, float], angle: float) -> _Probe:
    grown = max(RING, 1 + RING_PIXELS / axes[1])
    reach = math.ceil(axes[0] * grown)
    rows, columns = np.indices((2 * reach + 1,) * 2) - float(reach)
    radius = _radius(rows, columns, axes, angle)
    inside, ring = radius <= 1, (radius > 1) & (radius <= grown)
    height, width = (next_fast_len(side + 2 * reach, real=True) for side in shape)
    # Symmetric about their centres, so that convolution and correlation are the same.
    spectra = tuple(rfftn(kernel.astype(np.float64), (height, width)) for kernel in (inside, ring))
    probe = _Probe(shape, reach, (height, width), spectra)
    everywhere = rfftn(np.ones(shape), (height, width))
    counts = tuple(probe.around(everywhere * kernel) for kernel in spectra)
    fits = (counts[0] >= INSIDE * inside.sum()) & (counts[1] >= 0.5)
    return replace(probe, counts=counts, fits=fits)


def _radius(
    rows: NDArray[np.floating],
    columns: NDArray[np.floating],
    axes: tuple[float, float],
    angle: float,
) -> NDArray[np.floating]:
    """Return the distance from the centre in units of the ellipse: 1 at its border."""
    cosine, sine = math.cos(angle), math.sin(angle)
    along, across = columns * cosine + rows * sine, rows * cosine - columns * sine
    radius: NDArray[np.floating] = np.hypot(along / axes[0], across / axes[1])
    return radius


@dataclass(frozen=True)
class BlobProposal:
    """A blob, and its certainty: its rank by contrast among all n, from 1/n (faintest) to 1."""

    blob: Blob
    certainty: float


@dataclass(frozen=True)
class Proposals:
    """The proposals for a class, by the index of the image, and the polarity of its regions."""

    polarity: Polarity
    by_index: dict[int, BlobProposal]


def on_blob_grid(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return an image (row, column) on the grid of blobs: at most SIDE, by area means."""
    scale = min(1.0, SIDE / max(image.shape))
    rows, columns = (max(1, round(side * scale)) for side in image.shape)
    return area_mean(image.astype(np.float32), (rows, columns))


def localise_class(
    images: Sequence[NDArray[np.floating]],
    areas: Sequence[float],
    marks: Mapping[int, NDArray[np.floating]],
) -> Proposals | Refusal:
    """Return where a class may lie in each image, or why it cannot be localised.

    images: intensities 0..1 (row, column) from `on_blob_grid`. areas: exact share of the
    image; images with NaN (unknown) or 0 (absent) are left out. marks: by the index of an image,
    how far each of its pixels is known to be inside, 0..1. "few": fewer than LEAST_CASES areas are
    known. "unexplained": the areas explain no blobs. "missed": the blobs of marked images miss the
    marks.
    """
    shown = [index for index, area in enumerate(areas) if area > 0]
    if len(shown) < LEAST_CASES:
        return "few"
    tested = [
        shown[at]
        for at in np.linspace(0, len(shown) - 1, min(len(shown), TESTED)).round().astype(int)
    ]
    candidates, scores = _candidates_and_scores(images, areas, tested)
    polarity = max(scores, key=lambda sign: scores[sign])
    if scores[polarity] < SIGNIFICANT:
        return "unexplained"
    candidates |= {at: best_blobs(images[at], areas[at]) for at in shown if at not in candidates}
    blobs = {at: candidates[at][polarity] for at in shown if polarity in candidates[at]}
    covered = []
    for at, mark in marks.items():
        if at in blobs:
            # The share of the mark that the blob covers, or of the blob if that is smaller.
            drawn = blobs[at].draw(mark.shape)
            smaller = max(min(mark.sum(), drawn.sum()), 1e-6)
            covered.append(float((mark * drawn).sum() / smaller))
    if covered and float(np.mean(covered)) < COVERED:
        return "missed"
    order = sorted(blobs, key=lambda index: blobs[index].contrast)
    return Proposals(
        polarity,
        {at: BlobProposal(blobs[at], (rank + 1) / len(order)) for rank, at in enumerate(order)},
    )


def _candidates_and_scores(
    images: Sequence[NDArray[np.floating]], areas: Sequence[float], tested: Sequence[int]
) -> tuple[dict[int, dict[Polarity, Blob]], dict[Polarity, float]]:
    """Return the blobs of the tested images at their own areas, by index, and how they compare.

    The score of a polarity is the t statistic of contrasts at an image's own area minus at
    another's.
    """
    own: dict[int, dict[Polarity, Blob]] = {}
    foreign: dict[int, dict[Polarity, Blob]] = {}
    order = np.random.default_rng(0).permutation(tested).tolist()
    for index, other in zip(order, [*order[1:], order[0]], strict=True):
        # One after the other, so that both find the probes of the area ready.
        own[other] = best_blobs(images[other], areas[other])
        foreign[index] = best_blobs(images[index], areas[other])
    scores: dict[Polarity, float] = {-1: 0.0, 1: 0.0}
    for polarity in POLARITIES:
        gains = [
            own[index][polarity].contrast - foreign[index][polarity].contrast
            for index in order
            if polarity in own[index] and polarity in foreign[index]
        ]
        if len(gains) >= LEAST_CASES and (spread := np.std(gains, ddof=1)) > 0:
            scores[polarity] = float(np.mean(gains) / spread * math.sqrt(len(gains)))
    return own, scores
