"""All figures of a set of pairs, in the order of the tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from wsseg.serve.agreement.estimates import (
    TAIL,
    TOO_FEW,
    Estimate,
    Labels,
    Values,
    bias,
    describe,
    limits,
    repeatability,
    slope,
)
from wsseg.serve.agreement.resampling import (
    Resampler,
    correlations,
    icc,
    limit_of_quantitation,
    mean_absolute_error,
    root_mean_square_error,
)
from wsseg.serve.agreement.tables import LOQ_ERROR

FigureName = Literal[
    "recorded_mean",
    "measured_mean",
    "bias",
    "sd_of_differences",
    "limit_low",
    "limit_high",
    "percentile_low",
    "percentile_high",
    "proportional_bias",
    "spread_slope",
    "icc_2_1",
    "icc_3_1",
    "mean_absolute_error",
    "root_mean_square_error",
    "limit_of_quantitation",
    "repeatability_recorded",
    "repeatability_measured",
    "pearson",
    "spearman",
]
FIGURES: tuple[FigureName, ...] = get_args(FigureName)
Figures = dict[FigureName, Estimate]


@dataclass(frozen=True, eq=False)
class Pairs:
    """n images of one ratio, measured and recorded, as fractions.

    measured: (n,). readings: the recorded ratios of each image, one or more. patient: (n,) equal
    for images of one patient. subject: (n,) equal for images of one thing that did not change,
    which were scanned to see how far results repeat; None if no such scans are known.
    """

    measured: Values
    readings: tuple[tuple[float, ...], ...]
    patient: Labels
    subject: Labels | None = None

    @property
    def recorded(self) -> Values:
        """The mean reading of each image, (n,)."""
        return np.array([sum(each) / len(each) for each in self.readings])

    @property
    def differences(self) -> Values:
        """Measured less recorded, (n,)."""
        return self.measured - self.recorded

    @property
    def patients(self) -> int:
        """Number of patients."""
        return len(np.unique(self.patient))

    @property
    def several_images(self) -> bool:
        """Whether any patient has several images."""
        return self.patients < len(self.measured)

    @property
    def several_readings(self) -> int:
        """Number of images with several readings."""
        return sum(len(each) > 1 for each in self.readings)

    def chosen(self, keep: Sequence[bool]) -> "Pairs":
        """The pairs that a mask (n,) keeps."""
        mask = np.asarray(keep, bool)
        readings = tuple(each for each, kept in zip(self.readings, mask, strict=True) if kept)
        subject = None if self.subject is None else self.subject[mask]
        return Pairs(self.measured[mask], readings, self.patient[mask], subject)


def figures(pairs: Pairs, *, loq_error: float = LOQ_ERROR) -> Figures:
    """Every figure of n >= 1 pairs; what these pairs cannot give has a note that says why."""
    measured, recorded, differences = pairs.measured, pairs.recorded, pairs.differences
    mean = (measured + recorded) / 2
    resampler = Resampler(pairs.patient)
    found: Figures = {
        "recorded_mean": Estimate(float(recorded.mean())),
        "measured_mean": Estimate(float(measured.mean())),
        **_of_differences(pairs),
        "proportional_bias": slope(mean, differences, pairs.patient),
        "spread_slope": _spread(mean, differences, pairs),
        "mean_absolute_error": mean_absolute_error(differences, resampler),
        "root_mean_square_error": root_mean_square_error(differences, resampler),
        "limit_of_quantitation": limit_of_quantitation(
            measured, recorded, resampler, error=loq_error
        ),
        **_repeats(pairs),
    }
    found["icc_2_1"], found["icc_3_1"] = icc(measured, recorded, resampler)
    found["pearson"], found["spearman"] = correlations(measured, recorded, resampler)
    return {name: found[name] for name in FIGURES}


def _of_differences(pairs: Pairs) -> Figures:
    differences = pairs.differences
    names: tuple[FigureName, ...] = (
        "bias",
        "sd_of_differences",
        "limit_low",
        "limit_high",
        "percentile_low",
        "percentile_high",
    )
    if len(differences) < 3 or pairs.patients < 2:
        why = TOO_FEW.format(3) + " of 2 patients"
        found = dict.fromkeys(names, Estimate(note=why))
        return found | {"bias": Estimate(float(differences.mean()), note=f"no interval: {why}")}
    described = describe(differences, pairs.patient, pairs.readings)
    low, high = np.quantile(differences, [TAIL, 1 - TAIL])
    ends = limits(described)
    return {
        "bias": bias(described),
        "sd_of_differences": Estimate(described.sd),
        "limit_low": ends[0],
        "limit_high": ends[1],
        "percentile_low": Estimate(float(low)),
        "percentile_high": Estimate(float(high)),
    }


def _spread(mean: Values, differences: Values, pairs: Pairs) -> Estimate:
    """Slope of the absolute residuals of the proportional bias: whether the spread grows with the
    ratio (Bland & Altman 1999, section 3.2)."""
    found = slope(mean, differences, pairs.patient)
    if found.value is None:
        return found
    centred = differences - differences.mean() - found.value * (mean - mean.mean())
    return slope(mean, np.abs(centred), pairs.patient)


def _repeats(pairs: Pairs) -> Figures:
    """Repeatability: of readings of one image, or of scans of one thing if such are known."""
    if pairs.subject is None:
        none = "no column names the scans of one unchanged thing: name it with --repeats"
        return {
            "repeatability_recorded": repeatability(pairs.readings),
            "repeatability_measured": Estimate(note=none),
        }
    groups = [pairs.subject == each for each in np.unique(pairs.subject)]
    recorded = pairs.recorded
    return {
        "repeatability_recorded": repeatability([recorded[group].tolist() for group in groups]),
        "repeatability_measured": repeatability(
            [pairs.measured[group].tolist() for group in groups]
        ),
    }
