"""The comparison of engines with PyTorch on a run's own slices: masks, ratios, tolerances.

No engine is published that disagrees.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from wsseg.imaging.definitions import (
    PixelCounts,
    RatioDefinition,
    area_ratios,
    denominator_of,
    mask_iou,
)
from wsseg.imaging.errors import SomeFailedError
from wsseg.serve.engines.base import Engine, Prediction
from wsseg.serve.manifest import Parity, PrecisionName, Profile
from wsseg.train.networks import Predictor

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

    def flaw_of(self, prediction: Prediction) -> str | None:
        """Describe what is wrong in itself with a prediction for these pixels; None if nothing."""
        masks, areas, soft = prediction.masks, prediction.pixel_areas, prediction.soft_areas
        if masks.shape != self.probability.shape:
            return f"masks have shape {masks.shape}, not {self.probability.shape}"
        if not np.isfinite(soft).all():
            return "soft areas are not finite"
        variances = prediction.area_variances
        if variances is not None and not np.isfinite(variances).all():
            return "variances of areas are not finite"
        if not np.array_equal(areas, masks.sum((2, 3), dtype=np.int64)):
            return "pixel areas are not the number of mask pixels"
        return None


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


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may differ from PyTorch and still be published.

    probability: largest difference of a pixel's probability on any slice, 0..1.
    agreement: smallest fraction of equal mask pixels on any slice, 0..1.
    ratio: largest difference of an area ratio on any slice.
    border: a pixel whose PyTorch probability is this close to its threshold counts for
        `probability` alone, because rounding decides its class.
    ratio_mean: largest mean difference of an area ratio over the slices that show the class.
    mask_iou: smallest mean IoU of a class over the slices that show it, 0..1.
    """

    probability: float
    agreement: float
    ratio: float
    border: float
    ratio_mean: float = 1.0
    mask_iou: float = 0.0

    def shortfall(self, worst: Difference) -> str | None:
        """Describe the first figure that is outside of the tolerance; None where all are inside."""
        if worst.probability > self.probability:
            return f"a probability differs by {worst.probability:.2g} (at most {self.probability})"
        if worst.agreement < self.agreement:
            return f"masks agree in {worst.agreement:.5f} (at least {self.agreement})"
        if worst.ratio > self.ratio:
            return f"an area ratio differs by {worst.ratio:.2g} (at most {self.ratio})"
        if worst.ratio_mean > self.ratio_mean:
            mean = worst.ratio_mean
            return f"area ratios differ by {mean:.2g} on average (at most {self.ratio_mean})"
        if worst.mask_iou < self.mask_iou:
            return f"masks have a mean IoU of {worst.mask_iou:.4f} (at least {self.mask_iou})"
        return None


# No finite output exceeds the limits for single slices: the averages decide.
_ON_AVERAGE = Tolerance(
    probability=1.0, agreement=0.0, ratio=float("inf"), border=0.0, ratio_mean=0.002, mask_iou=0.98
)

TOLERANCES: dict[PrecisionName, Tolerance] = {
    # Another order of float32 sums moves a probability by 1e-7 to 1e-5 in networks this deep
    # (measured): a difference of 1e-3 is a wrong graph. The border, ten times that noise, keeps a
    # hardly trained network, flat around its threshold, from failing on its last bits.
    "fp32": Tolerance(probability=1e-3, agreement=0.9999, ratio=1e-4, border=1e-4),
    # Half precision has 11 bits; 1e-5 to 1e-2 was measured. The whole difference counts, without
    # a border: where a ratio is that sensitive, float32 is the engine to use.
    "fp16": Tolerance(probability=2e-2, agreement=0.995, ratio=5e-3, border=0.0),
    # Eight bits, of the number or of its mantissa, move outlines by single pixels on every slice:
    # what counts is that areas do not move with them. 0.002 is a fifth of a percent of the image.
    "bf16": _ON_AVERAGE,
    "int8": _ON_AVERAGE,
}

# As many as serving sends at once, and an odd number, for which blocked kernels have a remainder.
BATCHES = (8, 3)
# Float sums around the integer network depend on the batch in their last bits, which decide the
# class of a pixel exactly at its threshold: one pixel in 10,000 may differ.
EQUAL_IN_BATCH = 0.9999
# Coarse numbers: the last bit of a sum, taken in another order, may be a whole step of the next.
ROUNDED: frozenset[PrecisionName] = frozenset(("int8", "bf16"))


def batch_dependence(
    run: Callable[[NDArray[np.float32]], Prediction], standard: ReferenceOutputs
) -> str | None:
    """Describe a slice whose mask depends on the other slices of its batch; None if there is none.

    Every slice is run alone, then, with the sizes in reverse order, at the end of batches of
    shifted and mirrored variants of itself.
    """
    single = [r.pixels for r in standard.references if len(r.pixels) == 1]
    masks = [run(pixels).masks[0] for pixels in single]
    for pixels, mask in zip(reversed(single), reversed(masks), strict=True):
        for count in BATCHES:
            variants = [np.roll(pixels[..., ::-1], 7 * shift, axis=-1) for shift in range(1, count)]
            batched = run(np.concatenate([*variants, pixels])).masks[-1]
            equal = float((batched == mask).mean())
            if equal < EQUAL_IN_BATCH:
                return (
                    f"the mask of a {mask.shape[1:]} slice in a batch of {count} equals its mask "
                    f"alone in only {equal:.5f} of the pixels (at least {EQUAL_IN_BATCH} is "
                    "required)"
                )
    return None


class EngineRejectedError(SomeFailedError):
    """An engine that was built and disagrees with PyTorch: it must not be published."""


@dataclass(frozen=True)
class Candidate:
    """An engine to be judged.

    run: the engine as it will be served. provider: the runtime and device that it really runs on.
    probability: returns the probabilities (n, k, H, W) of the same nodes; None where that would
    need a second build. The mean probabilities of the slices are compared then.
    """

    run: Callable[[Pixels], Prediction]
    provider: str
    precision: PrecisionName
    probability: Callable[[Pixels], NDArray[np.float32]] | None = None

    def probability_difference(self, prediction: Prediction, reference: Reference) -> float:
        """Return the largest difference of a pixel's probability, or of a slice's means.

        The variance of a pixel differs by no more than its probability, so its mean does as well.
        """
        slice_pixels = float(np.prod(reference.pixels.shape[2:]))
        exact = reference.probability.astype(np.float64)
        means = [np.abs(prediction.soft_areas - exact.sum((2, 3))).max()]
        if prediction.area_variances is not None:
            variances = (exact * (1 - exact)).sum((2, 3))
            means.append(np.abs(prediction.area_variances - variances).max())
        mean = float(max(means)) / slice_pixels
        if self.probability is None:
            return mean
        each = np.abs(self.probability(reference.pixels) - reference.probability)
        # A NaN must not be lost in a maximum.
        return max(mean, float(each.max())) if np.isfinite(each).all() else float("inf")


@dataclass(frozen=True)
class Verdict:
    """The figures for the manifest, and why the engine must not be published, or None."""

    parity: Parity
    failure: str | None


def reference_outputs(
    predictor: Predictor,
    samples: Sequence[Pixels],
    thresholds: Sequence[float],
    classes: tuple[str, ...],
    ratios: tuple[RatioDefinition, ...],
) -> ReferenceOutputs:
    """Return PyTorch's outputs for every sample (c, H, W), alone and with its mirror image."""
    references: list[Reference] = []
    for index, sample in enumerate(samples):
        pixels = np.stack([sample, sample[..., ::-1]]).astype(np.float32)
        with torch.inference_mode():
            probability = predictor.eval()(torch.from_numpy(pixels)).numpy()
        references.append(Reference(index, pixels, probability))
        references.append(Reference(index, pixels[:1], probability[:1]))
    limits = np.asarray(thresholds, np.float32).reshape(1, -1, 1, 1)
    return ReferenceOutputs(tuple(references), limits, classes, ratios)


def within(standard: ReferenceOutputs, profile: Profile) -> ReferenceOutputs:
    """Return the reference outputs without the batches that an engine of this profile rejects."""

    def fits(reference: Reference) -> bool:
        count, _, height, width = reference.pixels.shape
        shape = (count, height, width)
        bounds = zip(profile.minimum, shape, profile.maximum, strict=True)
        return all(low <= value <= high for low, value, high in bounds)

    return replace(standard, references=tuple(filter(fits, standard.references)))


def check(candidate: Candidate, standard: ReferenceOutputs) -> Verdict:
    """Run an engine on every reference batch and compare it by the tolerance of its precision."""
    tolerance = TOLERANCES[candidate.precision]
    measured: list[Difference] = []
    judged: list[Difference] = []
    flaw = None
    for reference in standard.references:
        prediction = candidate.run(reference.pixels)
        flaw = reference.flaw_of(prediction)
        if flaw:
            break
        probability = candidate.probability_difference(prediction, reference)
        for border, differences in ((0.0, measured), (tolerance.border, judged)):
            differences.append(
                difference(
                    prediction.masks, reference, standard, probability=probability, border=border
                )
            )
    failure = flaw or tolerance.shortfall(overall(judged))
    if candidate.precision in ROUNDED and not failure:
        failure = batch_dependence(candidate.run, standard)
    total = overall(measured)
    parity = Parity(
        slices=len({reference.sample for reference in standard.references}),
        provider=candidate.provider,
        mask_agreement=total.agreement,
        probability_difference=total.probability,
        ratio_difference=total.ratio,
        ratio_difference_mean=total.ratio_mean,
        mask_iou=total.mask_iou,
        masks_empty=total.empty,
    )
    return Verdict(parity, failure)


def judge(candidate: Candidate, standard: ReferenceOutputs) -> Parity:
    """Return the figures of an engine; raise EngineRejectedError where it disagrees."""
    require_evidence(candidate.precision, standard)
    verdict = check(candidate, standard)
    if verdict.failure:
        raise EngineRejectedError(
            f"{candidate.precision} on {candidate.provider} disagrees with PyTorch: "
            f"{verdict.failure}"
        )
    return verdict.parity


def require_evidence(precision: PrecisionName, standard: ReferenceOutputs) -> None:
    """Raise EngineRejectedError where no sample slice shows a class and the precision needs one."""
    if precision in ROUNDED and standard.unseen:
        raise EngineRejectedError(
            f"the network finds no {' and no '.join(standard.unseen)} in the slices that the run "
            f"kept, and {precision} is judged by masks and ratios; train longer, or try a lower "
            "--threshold"
        )


def judge_served(engine: Engine, precision: PrecisionName, standard: ReferenceOutputs) -> Parity:
    """`judge` for an engine that was opened from a file as serving opens it."""
    candidate = Candidate(
        engine, engine.name, precision, lambda pixels: engine.with_probability(pixels)[1]
    )
    return judge(candidate, standard)
