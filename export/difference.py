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
    """What PyTorch answers for one batch; several references may come from one sample slice.

    pixels: (n, c, H, W) raw. probability: (n, k, H, W).
    """

    sample: int
    pixels: Pixels
    probability: NDArray[np.float32]


@dataclass(frozen=True)
class Standard:
    """What every engine is held against: PyTorch's answers, and how masks and ratios follow."""

    references: tuple[Reference, ...]
    thresholds: NDArray[np.float32]
    classes: tuple[str, ...]
    ratios: tuple[RatioDefinition, ...]

    @property
    def unseen(self) -> tuple[str, ...]:
        """Classes of which PyTorch finds no pixel: masks and ratios prove nothing of them."""
        found = np.any(
            [(r.probability >= self.thresholds).any((0, 2, 3)) for r in self.references], axis=0
        )
        return tuple(n for n, there in zip(self.classes, found, strict=True) if not there)

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
    """Of one batch or of several; `Parity` says what the figures mean.

    ratios: differences of each ratio where either side is not 0; ious: of each class where either
    mask has a pixel. Slices where both are empty agree, and say nothing of how well. slices: how
    many there are. empty: no mask of either side has a pixel.
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
        """Of the ratio that differs most; 0 where all of them are 0."""
        return float(np.nanmax(np.append(self.ratios.each(), 0.0)))

    @property
    def mask_iou(self) -> float:
        """Of the class that agrees least; 1 where all masks are empty."""
        return float(np.nanmin(np.append(self.ious.each(), 1.0)))


def difference(
    masks: Masks, reference: Reference, standard: Standard, *, probability: float, border: float
) -> Difference:
    """The figures of an engine's masks (n, k, H, W) for one batch.

    probability: largest difference of a pixel's, as measured. border: pixels whose PyTorch
    probability is that close to their threshold count as equal.
    """
    expected = (reference.probability >= standard.thresholds).astype(np.uint8)
    masks = _settled(masks, reference, standard, border)
    found, wanted = standard.area_ratios(masks), standard.area_ratios(expected)
    unknown = np.isnan(found) & np.isnan(wanted)
    apart = np.nan_to_num(np.where(unknown, 0.0, np.abs(found - wanted)), nan=UNKNOWN)
    # A NaN is not 0: a ratio that one side lacks counts.
    told = ~unknown & ((found != 0) | (wanted != 0))
    shown = (masks | expected).any((2, 3))
    return Difference(
        agreement=float((masks == expected).mean((1, 2, 3)).min()),
        probability=probability,
        ratio=float(apart.max()),
        ratios=Means((apart * told).sum(0), told.sum(0)),
        ious=Means((mask_iou(masks, expected) * shown).sum(0), shown.sum(0)),
        slices=len(masks),
        empty=not shown.any(),
    )


def overall(differences: Sequence[Difference]) -> Difference:
    """The least favourable figures and the means over all slices.

    Those of total disagreement where nothing was compared.
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


def _settled(masks: Masks, reference: Reference, standard: Standard, border: float) -> Masks:
    """The masks with PyTorch's answer in every pixel that is within `border` of its threshold."""
    expected = reference.probability >= standard.thresholds
    unsure = np.abs(reference.probability - standard.thresholds) < border
    return np.where(unsure, expected, masks).astype(np.uint8)
