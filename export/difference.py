"""How far an engine's masks and ratios are from PyTorch's on the same slices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import FOREGROUND, IMAGE, RatioDefinition

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
    def empty(self) -> bool:
        """PyTorch finds no pixel of any class: an engine that finds none either proves nothing."""
        return not any((r.probability >= self.thresholds).any() for r in self.references)


@dataclass(frozen=True)
class Difference:
    """Of one batch or of several; the fields are `Parity`'s, which says what they mean.

    slices: how many the means are taken over. empty: no mask of either side has a pixel.
    """

    agreement: float
    probability: float
    ratio: float
    ratio_mean: float
    mask_iou: float
    slices: int
    empty: bool = False


def difference(
    masks: Masks, reference: Reference, standard: Standard, *, probability: float, border: float
) -> Difference:
    """The figures of an engine's masks (n, k, H, W) for one batch.

    probability: largest difference of a pixel's, as measured. border: pixels whose PyTorch
    probability is that close to their threshold count as equal.
    """
    expected = (reference.probability >= standard.thresholds).astype(np.uint8)
    masks = _settled(masks, reference, standard, border)
    found = area_ratios(masks, standard.classes, standard.ratios)
    wanted = area_ratios(expected, standard.classes, standard.ratios)
    unknown = np.isnan(found) & np.isnan(wanted)
    apart = np.nan_to_num(np.where(unknown, 0.0, np.abs(found - wanted)), nan=UNKNOWN)
    return Difference(
        agreement=float((masks == expected).mean((1, 2, 3)).min()),
        probability=probability,
        ratio=float(apart.max()),
        ratio_mean=float(apart.mean()),
        mask_iou=float(mask_iou(masks, expected).mean()),
        slices=len(masks),
        empty=not (masks.any() or expected.any()),
    )


def overall(differences: Sequence[Difference]) -> Difference:
    """The least favourable figures and the means over all slices.

    Those of total disagreement where nothing was compared.
    """
    count = sum(d.slices for d in differences)
    if not count:
        inf = float("inf")
        return Difference(0.0, inf, inf, inf, 0.0, 0)
    return Difference(
        agreement=min(d.agreement for d in differences),
        probability=max(d.probability for d in differences),
        ratio=max(d.ratio for d in differences),
        ratio_mean=sum(d.ratio_mean * d.slices for d in differences) / count,
        mask_iou=sum(d.mask_iou * d.slices for d in differences) / count,
        slices=count,
        empty=all(d.empty for d in differences),
    )


def mask_iou(one: Masks, other: Masks) -> NDArray[np.float64]:
    """Intersection over union (n, k) of masks (n, k, H, W); 1 where both are empty."""
    both = (one & other).sum((2, 3), dtype=np.int64)
    either = (one | other).sum((2, 3), dtype=np.int64)
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def area_ratios(
    masks: Masks, classes: tuple[str, ...], ratios: tuple[RatioDefinition, ...]
) -> NDArray[np.float64]:
    """Every ratio of every slice (n, r) from masks (n, k, H, W); NaN where it divides by 0."""
    areas = dict(zip(classes, masks.sum((2, 3), dtype=np.int64).T, strict=True))
    areas[IMAGE] = np.full(len(masks), masks.shape[2] * masks.shape[3])
    areas[FOREGROUND] = masks.any(1).sum((1, 2))
    numerators = np.stack([areas[ratio.numerator] for ratio in ratios], 1)
    denominators = np.stack([areas[ratio.denominator] for ratio in ratios], 1).astype(np.float64)
    return numerators / np.where(denominators > 0, denominators, np.nan)


def _settled(masks: Masks, reference: Reference, standard: Standard, border: float) -> Masks:
    """The masks with PyTorch's answer in every pixel that is within `border` of its threshold."""
    expected = reference.probability >= standard.thresholds
    unsure = np.abs(reference.probability - standard.thresholds) < border
    return np.where(unsure, expected, masks).astype(np.uint8)
