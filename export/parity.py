"""The gate: no engine is published that disagrees with PyTorch on the run's own slices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from wsseg.export.tolerance import TOLERANCES, Tolerance
from wsseg.imaging.definitions import FOREGROUND, IMAGE, RatioDefinition
from wsseg.imaging.errors import SomeFailedError
from wsseg.serve.engine import Prediction
from wsseg.serve.manifest import Parity, PrecisionName, Profile
from wsseg.train.predictor import Predictor

Pixels = NDArray[np.float32]


class EngineRejectedError(SomeFailedError):
    """An engine that was built and disagrees with PyTorch: it must not be published."""


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


@dataclass(frozen=True)
class Candidate:
    """An engine to be judged.

    run: as it will be served. provider: the runtime and device it really runs on. probability:
    the same nodes with the probability left visible as an output; None where that would need a
    second build, then the slices' mean probabilities are compared in its place.
    """

    run: Callable[[Pixels], Prediction]
    provider: str
    precision: PrecisionName
    probability: Callable[[Pixels], NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class Verdict:
    """The figures for the manifest, and why the engine must not be published, or None."""

    parity: Parity
    failure: str | None


@dataclass(frozen=True)
class _Difference:
    agreement: float
    probability: float
    ratio: float


def make_standard(
    predictor: Predictor,
    samples: Sequence[Pixels],
    thresholds: Sequence[float],
    classes: tuple[str, ...],
    ratios: tuple[RatioDefinition, ...],
) -> Standard:
    """PyTorch's answers for every sample (c, H, W), alone and in a batch with its mirror image."""
    references: list[Reference] = []
    for number, sample in enumerate(samples):
        pixels = np.stack([sample, sample[..., ::-1]]).astype(np.float32)
        with torch.inference_mode():
            probability = predictor.eval()(torch.from_numpy(pixels)).numpy()
        references.append(Reference(number, pixels, probability))
        references.append(Reference(number, pixels[:1], probability[:1]))
    limits = np.asarray(thresholds, np.float32).reshape(1, -1, 1, 1)
    return Standard(tuple(references), limits, classes, ratios)


def within(standard: Standard, profile: Profile) -> Standard:
    """The standard without the batches that an engine of this profile does not take."""

    def fits(reference: Reference) -> bool:
        count, _, height, width = reference.pixels.shape
        shape = (count, height, width)
        bounds = zip(profile.minimum, shape, profile.maximum, strict=True)
        return all(low <= value <= high for low, value, high in bounds)

    return replace(standard, references=tuple(filter(fits, standard.references)))


def check(candidate: Candidate, standard: Standard) -> Verdict:
    """Run an engine on every reference and hold it to the tolerance of its precision."""
    tolerance = TOLERANCES[candidate.precision]
    measured: list[_Difference] = []
    judged: list[_Difference] = []
    flaw = None
    for reference in standard.references:
        prediction = candidate.run(reference.pixels)
        flaw = flaw or _flaw(prediction, reference)
        if flaw:
            break
        probability = _probability_difference(candidate, prediction, reference)
        for border, kept in ((0.0, measured), (tolerance.border, judged)):
            masks = _settled(prediction.masks, reference, standard, border)
            kept.append(_difference(masks, reference, standard, probability))
    worst = _worst(judged)
    return Verdict(
        _parity(_worst(measured), candidate, standard), flaw or _shortfall(worst, tolerance)
    )


def judge(candidate: Candidate, standard: Standard) -> Parity:
    """The figures of an engine that agrees; raises EngineRejectedError for one that does not."""
    verdict = check(candidate, standard)
    if verdict.failure:
        raise EngineRejectedError(
            f"{candidate.precision} on {candidate.provider} disagrees with PyTorch: "
            f"{verdict.failure}"
        )
    return verdict.parity


def area_ratios(
    masks: NDArray[np.uint8], classes: tuple[str, ...], ratios: tuple[RatioDefinition, ...]
) -> NDArray[np.float64]:
    """Every ratio of every slice (n, r) from masks (n, k, H, W); NaN where it divides by 0."""
    areas = dict(zip(classes, masks.sum((2, 3), dtype=np.int64).T, strict=True))
    areas[IMAGE] = np.full(len(masks), masks.shape[2] * masks.shape[3])
    areas[FOREGROUND] = masks.any(1).sum((1, 2))
    numerators = np.stack([areas[ratio.numerator] for ratio in ratios], 1)
    denominators = np.stack([areas[ratio.denominator] for ratio in ratios], 1).astype(np.float64)
    return numerators / np.where(denominators > 0, denominators, np.nan)


def _flaw(prediction: Prediction, reference: Reference) -> str | None:
    """What is wrong with an answer in itself."""
    masks, areas, soft = prediction.masks, prediction.pixel_areas, prediction.soft_areas
    if masks.shape != reference.probability.shape:
        return f"masks have shape {masks.shape}, not {reference.probability.shape}"
    if not np.isfinite(soft).all():
        return "soft areas are not finite"
    if not np.array_equal(areas, masks.sum((2, 3), dtype=np.int64)):
        return "pixel areas are not the number of mask pixels"
    return None


def _probability_difference(
    candidate: Candidate, prediction: Prediction, reference: Reference
) -> float:
    slice_pixels = float(np.prod(reference.pixels.shape[2:]))
    expected = reference.probability.sum((2, 3), dtype=np.float64)
    mean = float(np.abs(prediction.soft_areas - expected).max()) / slice_pixels
    if candidate.probability is None:
        return mean
    each = np.abs(candidate.probability(reference.pixels) - reference.probability)
    # A NaN must not be lost in a maximum.
    return max(mean, float(each.max())) if np.isfinite(each).all() else float("inf")


def _settled(
    masks: NDArray[np.uint8], reference: Reference, standard: Standard, border: float
) -> NDArray[np.uint8]:
    """The masks with PyTorch's answer in every pixel that is within `border` of its threshold."""
    expected = reference.probability >= standard.thresholds
    unsure = np.abs(reference.probability - standard.thresholds) < border
    return np.where(unsure, expected, masks).astype(np.uint8)


def _difference(
    masks: NDArray[np.uint8], reference: Reference, standard: Standard, probability: float
) -> _Difference:
    expected = (reference.probability >= standard.thresholds).astype(np.uint8)
    found = area_ratios(masks, standard.classes, standard.ratios)
    wanted = area_ratios(expected, standard.classes, standard.ratios)
    unknown = np.isnan(found) & np.isnan(wanted)
    apart = np.nan_to_num(np.where(unknown, 0.0, np.abs(found - wanted)), nan=UNKNOWN)
    equal = (masks == expected).mean((1, 2, 3)).min()
    return _Difference(float(equal), probability, float(apart.max()))


def _worst(differences: Sequence[_Difference]) -> _Difference:
    """The least favourable figures; those of total disagreement where nothing was compared."""
    if not differences:
        return _Difference(0.0, float("inf"), float("inf"))
    return _Difference(
        min(d.agreement for d in differences),
        max(d.probability for d in differences),
        max(d.ratio for d in differences),
    )


def _shortfall(worst: _Difference, tolerance: Tolerance) -> str | None:
    if worst.probability > tolerance.probability:
        return f"a probability differs by {worst.probability:.2g} (at most {tolerance.probability})"
    if worst.agreement < tolerance.agreement:
        return f"masks agree in {worst.agreement:.5f} (at least {tolerance.agreement})"
    if worst.ratio > tolerance.ratio:
        return f"an area ratio differs by {worst.ratio:.2g} (at most {tolerance.ratio})"
    return None


def _parity(measured: _Difference, candidate: Candidate, standard: Standard) -> Parity:
    return Parity(
        slices=len({reference.sample for reference in standard.references}),
        provider=candidate.provider,
        mask_agreement=measured.agreement,
        probability_difference=measured.probability,
        ratio_difference=measured.ratio,
    )
