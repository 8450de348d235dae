"""CARE's intervals of ratio biomarkers from the probability map, as a comparison.

Li et al., CARE: Confidence-Aware Ratio Estimation for Medical Biomarkers, MIDL 2026
(arXiv 2505.19585). The full text was not at hand: this implements the parts that the abstracts
state, and is not the authors' program:

- the estimate is the ratio of the sums of the (post-hoc calibrated) probabilities. Calibration is
  temperature scaling here, fitted to the pixels of the calibration images;
- (1) the estimate has a statistical interval for independent pixels. The denominator, the image,
  is known, so its bias is 0 and its variance sum p (1 - p) / pixels^2;
- (2) the network is not calibrated: the error of an expected volume is at most the calibration
  error of the image (Popordanoska et al., MICCAI 2021). A quantile of the calibration images'
  calibration errors, at the confidence level, is added at both ends.

It needs the masks of the calibration images; wsseg's intervals need their ratios alone.

That is the form of the abstracts. Its coverage need not be the level, so widths are compared with
forms whose second part is chosen for the level instead, by the rule that wsseg uses: the same
addition for all images, and an addition in proportion to the region in which the class is possible
at all. The abstracts do not have the latter; it lets a small region have a short interval. Both
are there without temperature scaling too, which can be narrower.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from bench.intervals.held_out import UNTEMPERED, Cases, Floats

Added = Literal["calibration error", "constant", "regional"]


@dataclass(frozen=True)
class Form:
    """What is added to the statistical interval, and whether the probabilities are tempered."""

    added: Added
    tempered: bool


FORMS = {
    "CARE": Form("calibration error", tempered=True),
    "CARE for the level": Form("constant", tempered=True),
    "CARE for the level, not tempered": Form("constant", tempered=False),
    "CARE by region": Form("regional", tempered=True),
    "CARE by region, not tempered": Form("regional", tempered=False),
}
Quantile = Callable[[Floats, Cases, float], float]
"""The quantile of a score of calibration cases at a level, for an image of a new group."""


def care(
    form: Form, calibration: Cases, measured: Cases, level: float, quantile: Quantile
) -> tuple[Floats, Floats]:
    """Lower and upper ends (image,) for the images of `measured`, within 0..1."""
    at = int(calibration.cross_entropy.mean(axis=0).argmin()) if form.tempered else UNTEMPERED
    deviations = NormalDist().inv_cdf((1 + level) / 2)

    def statistical(cases: Cases) -> Floats:
        return deviations * np.sqrt(cases.tempered_variance[:, at] / cases.pixels)

    def unit(cases: Cases) -> Floats:
        # Never 0: an image in which no pixel is possible would have no score.
        region = cases.region[:, at].clip(1e-3)
        return region if form.added == "regional" else np.ones(len(cases))

    if form.added == "calibration error":
        score = calibration.calibration_error[:, at]
    else:
        error = abs(calibration.true - calibration.tempered_soft[:, at])
        score = (error - statistical(calibration)) / unit(calibration)
    added = quantile(score, calibration, level)
    half = np.maximum(statistical(measured) + added * unit(measured), 0)
    centre = measured.tempered_soft[:, at]
    return (centre - half).clip(0, 1), (centre + half).clip(0, 1)
