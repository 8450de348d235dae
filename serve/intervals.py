"""Intervals of area ratios: the conformal quantile of errors on recorded cases.

The error of a ratio is divided by its scale, which the network's own probability gives: small where
every pixel is decided, large where many are not. The quantile of these scores over cases with
recorded ratios, times the scale of a new slice, is the half width of its interval.

Slices of one patient are alike, so patients (groups) count and not slices: each group has the same
weight, divided evenly among its cases. The interval of a slice of a new group then holds the
recorded ratio with at least the stated probability, if that group is exchangeable with those of the
calibration. With one case a group this is split conformal prediction.

Sources: Lee, Barber, Willett, Distribution-free inference with hierarchical data, arXiv 2306.06342;
Dunn, Wasserman, Ramdas, Distribution-free prediction sets for two-layer hierarchical models, JASA
2023; Lei et al., Distribution-free predictive inference for regression, JASA 2018 (scaled scores).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsseg.imaging.definitions import (
    Denominator,
    PixelCounts,
    RatioDefinition,
    denominator_of,
    quotient,
)
from wsseg.imaging.errors import WssegError
from wsseg.serve.confidence import confidence, fit_curve
from wsseg.serve.manifest import Calibration, Manifest, RatioCalibration

LOW_CONFIDENCE = "LOW_CONFIDENCE"
WIDE_INTERVAL = "WIDE_INTERVAL"

DEFAULT_COVERAGE = 0.9
FLOOR = 5e-3
"""The least scale of a ratio: a slice without a doubtful pixel would have no score, and an interval
without width. `python -m bench.intervals` compares this scale with others."""
UNUSUAL = 0.95
"""Share of the calibration cases beyond which a slice is flagged."""
# Of sums of weights such as 1/3, and of coverages such as 0.9, which are no binary fractions.
ROUNDING = 1e-9

Floats = NDArray[np.float64]
Coverage = Annotated[float, Field(gt=0, lt=1)]
"""The probability with which an interval holds the ratio that would have been recorded."""


@dataclass(frozen=True)
class SoftAreas:
    """What the probability p tells of each class's area on n slices, (n, k) each, in pixels.

    area: sum of p. variance: sum of p (1 - p). NaN where the network did not run, or its file does
    not tell them.
    """

    area: NDArray[np.float32]
    variance: NDArray[np.float32]

    @classmethod
    def unknown(cls, slices: int, classes: int) -> Self:
        """Those of slices that the network has not seen."""
        area, variance = np.full((2, slices, classes), np.nan, np.float32)
        return cls(area, variance)


@dataclass(frozen=True)
class Measured:
    """One ratio of a model on n slices of equal size, with what its scale depends on.

    numerator: class index. counts: (n,) pixels, by the masks.
    """

    numerator: int
    denominator: Denominator
    counts: PixelCounts
    soft: SoftAreas

    @property
    def ratios(self) -> Floats:
        """The ratios (n,); NaN where the denominator has no pixel."""
        return quotient(self.counts.of(self.numerator), self.counts.of(self.denominator))

    def scale(self, floor: float = FLOOR) -> Floats:
        """The scale (n,) of the errors, in units of the ratio and at least `floor`.

        Over the image it is v / sqrt(m) = sqrt(v) sqrt(v / m), where v is the mean over the pixels
        of p (1 - p) and m that of p: the first factor grows with the doubtful pixels, the second
        tells how undecided the region itself is. It does not depend on the resolution. The error of
        another denominator is added as if it were independent. NaN where the soft areas are unknown
        or the denominator has no pixel.
        """
        area, variance = self.soft.area.astype(np.float64), self.soft.variance.astype(np.float64)
        squared = _squared(area[:, self.numerator], variance[:, self.numerator])
        if self.denominator == "foreground":
            squared += self.ratios**2 * _squared(area.sum(-1), variance.sum(-1))
        elif self.denominator != "image":
            below = self.denominator
            squared += self.ratios**2 * _squared(area[:, below], variance[:, below])
        pixels = np.sqrt(self.counts.image * squared)
        return np.maximum(quotient(pixels, self.counts.of(self.denominator)), floor)


def _squared(area: Floats, variance: Floats) -> Floats:
    """The squared scale (n,) of an area, over the pixels of the image; 0 without any area."""
    return variance**2 / np.where(area == 0, 1.0, area)


def measured_ratio(
    definition: RatioDefinition, classes: Sequence[str], counts: PixelCounts, soft: SoftAreas
) -> Measured:
    """A ratio of a model with these classes, as it was measured on n slices of equal size."""
    denominator = denominator_of(definition, classes)
    return Measured(classes.index(definition.numerator), denominator, counts, soft)


def groups_needed(coverage: float) -> int:
    """The smallest number of groups from which intervals of this coverage can be computed."""
    return math.ceil(coverage / (1 - coverage) - ROUNDING)


def quantile(calibration: RatioCalibration, coverage: float) -> float:
    """The score that a case of a new group stays below with at least this probability.

    The new group has the same weight as each of the calibration and counts as infinite. Raises
    WssegError if there are too few groups for the coverage, which must lie between 0 and 1.
    """
    wanted = coverage * (calibration.groups + 1) - ROUNDING
    reached = np.flatnonzero(np.cumsum(calibration.weights) >= wanted)
    if not len(reached):
        most = calibration.groups / (calibration.groups + 1)
        raise WssegError(
            f"a coverage of {coverage:g} takes {groups_needed(coverage)} groups (patients) with "
            f"recorded ratios, and {calibration.ratio} was calibrated on {calibration.groups}: ask "
            f"for {math.floor(1000 * most) / 1000:g} or less, or calibrate on more"
        )
    return calibration.scores[int(reached[0])]


def calibrated(
    name: str, errors: Floats, scales: Floats, ratios: Floats, groups: Sequence[str]
) -> RatioCalibration:
    """The calibration of one ratio from n cases, whose errors, scales and measured ratios are (n,).

    groups: of each case. Every value must be finite.
    """
    _, index, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    scores, weights = errors / scales, 1 / sizes[index]
    order = np.lexsort((weights, scores))
    curve = fit_curve(errors, scales, ratios, weights)
    return RatioCalibration(
        ratio=name,
        groups=len(sizes),
        scores=tuple(scores[order].tolist()),
        weights=tuple(weights[order].tolist()),
        confidence=curve,
        widest_usual=_weighted_quantile(scales, weights, UNUSUAL),
        least_usual=-_weighted_quantile(-confidence(curve, ratios, scales), weights, UNUSUAL),
    )


def _weighted_quantile(values: Floats, weights: Floats, share: float) -> float:
    """The least value that this share of the weights does not exceed."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) >= share * weights.sum() - ROUNDING
    return float(values[order][reached][0])


@dataclass(frozen=True)
class Bounds:
    """The intervals of one ratio on n slices; NaN and False where there is none.

    low, high: (n,) in units of the ratio. confidence: (n,) 0..1. wide, unsure: (n,) whether the
    interval is wider, and the confidence lower, than in UNUSUAL of the calibration cases.
    """

    low: Floats
    high: Floats
    confidence: Floats
    wide: NDArray[np.bool_]
    unsure: NDArray[np.bool_]

    @classmethod
    def unknown(cls, slices: int) -> Self:
        """Those of slices without an interval."""
        number, flag = np.full(slices, np.nan), np.zeros(slices, np.bool_)
        return cls(number, number, number, flag, flag)


@dataclass(frozen=True)
class Intervals:
    """The intervals of a model's ratios at one coverage, made by `intervals_of`.

    classes: of the model. calibrations, quantiles: of each calibrated ratio, by its name. floor: of
    the scale. coverage: 0..1.
    """

    classes: tuple[str, ...]
    calibrations: dict[str, RatioCalibration]
    quantiles: dict[str, float]
    floor: float
    coverage: float

    def bounds(
        self, definition: RatioDefinition, counts: PixelCounts, soft: SoftAreas
    ) -> Bounds | None:
        """The intervals of a ratio on n slices of equal size; None if it was not calibrated.

        An interval begins at 0 at the least, and ends at 1 at the most if the denominator is the
        image or the foreground.
        """
        calibration = self.calibrations.get(definition.name)
        if calibration is None:
            return None
        measured = measured_ratio(definition, self.classes, counts, soft)
        ratios, scales = measured.ratios, measured.scale(self.floor)
        half = self.quantiles[definition.name] * scales
        most = np.inf if isinstance(measured.denominator, int) else 1.0
        sure = confidence(calibration.confidence, ratios, scales)
        return Bounds(
            low=np.maximum(ratios - half, 0.0),
            high=np.minimum(ratios + half, most),
            confidence=sure,
            wide=scales > calibration.widest_usual,
            unsure=sure < calibration.least_usual,
        )


def intervals_of(manifest: Manifest, coverage: float | None) -> Intervals | None:
    """The intervals of a model; None for one without a calibration, if no coverage is asked for.

    coverage: the probability with which an interval holds the recorded ratio, between 0 and 1; None
    for DEFAULT_COVERAGE. Raises WssegError for a model without a calibration, or one with too few
    groups for this coverage.
    """
    calibration: Calibration | None = manifest.calibration
    if calibration is None:
        if coverage is not None:
            raise WssegError(
                f"--coverage: model {manifest.name} has no intervals, because it was exported "
                "without cases to calibrate them on: run wsseg-export with --calibrate cases.csv"
            )
        return None
    wanted = DEFAULT_COVERAGE if coverage is None else coverage
    return Intervals(
        classes=manifest.classes,
        calibrations={each.ratio: each for each in calibration.ratios},
        quantiles={each.ratio: quantile(each, wanted) for each in calibration.ratios},
        floor=calibration.floor,
        coverage=wanted,
    )
