"""How far an engine's masks and ratios are from PyTorch's on the same slices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import (
    PixelCounts,
    RatioDefinition,
    area_ratios,
    denominator_of,
    mask_iou,
)

Pixels = NDArray[np.float32]
Masks = NDArray[np.uint8]

# A ratio that one side has and the other has not (its denominator is empty) counts as all of 0..1.
UNKNOWN = 1.0


@dataclass(frozen=True)
class Reference:
    """PyTorch's output for one batch; several references may come from one sample slice.

    pixels: (n, c, H, W) raw. probability: (n, k, H, W).
    """

    sample: int
    pixels: Pixels
    probability: NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceOutputs:
    """PyTorch's outputs, with which every engine is compared, and what masks and ratios need."""

    references: tuple[Reference, ...]
    thresholds: NDArray[np.float32]
    classes: tuple[str, ...]
    ratios: tuple[RatioDefinition, ...]

    @property
    def unseen(self) -> tuple[str, ...]:
        """Classes of which PyTorch finds no pixel: masks and ratios prove nothing about them."""
        seen = np.any(
            [(r.probability >= self.thresholds).any((0, 2, 3)) for r in self.references], axis=0
        )
        return tuple(n for n, shown in zip(self.classes, seen, strict=True) if not shown)

    def area_ratios(self, masks: Masks) -> NDArray[np.float64]:
        """Every ratio of every slice (n, r) from masks (n, k, H, W)."""
        return area_ratios(
            PixelCounts.of_masks(masks),
            [denominator_of(ratio, self.classes) for ratio in self.ratios],
            [self.classes.index(ratio.numerator) for ratio in self.ratios],
        )


@dataclass(frozen=True)
class Means:
    """Sums (m,) of m figures and of how many slices each was taken over."""

    totals: NDArray[np.float64]
    counts: NDArray[np.int64]

    def each(self) -> NDArray[np.float64]:
        """The figures' means (m,); NaN where there was none."""
        return self.totals / np.where(self.counts > 0, self.counts, np.nan)


@dataclass(frozen=True)
class Difference:
    """The difference over one batch or several; `Parity` explains the figures.

    ratios: mean difference of each ratio over the slices where either side is not 0.
    ious: mean IoU of each class over the slices where either mask has a pixel; two empty masks
        agree but say nothing about how well outlines agree.
    slices: number of slices. empty: no mask of either side has a pixel.
    """

    agreement: float
    probability: float
    ratio: float
    ratios: Means
    ious: Means
    slices: int
    empty: bool = False

    @property
    def ratio_mean(self) -> float:
        """Mean difference of the ratio that differs most; 0 where all ratios are 0."""
        return float(np.nanmax(np.append(self.ratios.each(), 0.0)))

    @property
    def mask_iou(self) -> float:
        """Mean IoU of the class that agrees least; 1 where all masks are empty."""
        return float(np.nanmin(np.append(self.ious.each(), 1.0)))


def difference(
    masks: Masks,
    reference: Reference,
    standard: ReferenceOutputs,
    *,
    probability: float,
    border: float,
) -> Difference:
    """Return the difference of an engine's masks (n, k, H, W) from PyTorch's for one batch.

    probability: the measured largest difference of a pixel's probability. border: pixels whose
    PyTorch probability is this close to their threshold count as equal.
    """
    expected = (reference.probability >= standard.thresholds).astype(np.uint8)
    undecided = np.abs(reference.probability - standard.thresholds) < border
    masks = np.where(undecided, expected, masks).astype(np.uint8)
    ratios, expected_ratios = standard.area_ratios(masks), standard.area_ratios(expected)
    unknown = np.isnan(ratios) & np.isnan(expected_ratios)
    errors = np.where(unknown, 0.0, np.abs(ratios - expected_ratios))
    errors = np.nan_to_num(errors, nan=UNKNOWN)
    # A NaN is not 0: a ratio that only one side has counts.
    compared = ~unknown & ((ratios != 0) | (expected_ratios != 0))
    shown = (masks | expected).any((2, 3))
    return Difference(
        agreement=float((masks == expected).mean((1, 2, 3)).min()),
        probability=probability,
        ratio=float(errors.max()),
        ratios=Means((errors * compared).sum(0), compared.sum(0)),
        ious=Means((mask_iou(masks, expected) * shown).sum(0), shown.sum(0)),
        slices=len(masks),
        empty=not shown.any(),
    )


def overall(differences: Sequence[Difference]) -> Difference:
    """Return the least favourable figures and the means over all slices.

    Without any difference, the figures are those of total disagreement.
    """
    if not differences:
        inf, one = float("inf"), np.ones(1, np.int64)
        worst, nothing = np.array([inf]), np.zeros(1)
        return Difference(0.0, inf, inf, Means(worst, one), Means(nothing, one), 0)
    return Difference(
        agreement=min(d.agreement for d in differences),
        probability=max(d.probability for d in differences),
        ratio=max(d.ratio for d in differences),
        ratios=_summed([d.ratios for d in differences]),
        ious=_summed([d.ious for d in differences]),
        slices=sum(d.slices for d in differences),
        empty=all(d.empty for d in differences),
    )


def _summed(means: Sequence[Means]) -> Means:
    return Means(
        np.stack([each.totals for each in means]).sum(0),
        np.stack([each.counts for each in means]).sum(0),
    )
