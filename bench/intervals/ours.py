"""wsseg's own intervals, by the code that a hospital runs, and by other scales of the error."""

from collections.abc import Callable

import numpy as np

from bench.intervals.held_out import Cases, Floats
from wsseg.serve import confidence as serve
from wsseg.serve.intervals import FLOOR, calibrated, quantile
from wsseg.serve.manifest import RatioCalibration

NAME = "the ratio"
Scale = Callable[[Cases], Floats]
SCALES: dict[str, Scale] = {
    "the same for all": lambda cases: np.ones(len(cases)),
    "root of the ratio": lambda cases: np.maximum(np.sqrt(cases.soft), FLOOR),
    "ratio": lambda cases: np.maximum(cases.soft, FLOOR),
    "mean of p(1 - p)": lambda cases: np.maximum(cases.variance, FLOOR),
    "root of the mean of p(1 - p)": lambda cases: np.maximum(np.sqrt(cases.variance), FLOOR),
    "as in the product": lambda cases: cases.scale,
}


def ours(
    calibration: Cases, measured: Cases, level: float, scale: Scale = SCALES["as in the product"]
) -> tuple[Floats, Floats]:
    """Lower and upper ends (image,) for the images of `measured`, within 0..1."""
    half = quantile(_calibrated(calibration, scale), level) * scale(measured)
    return (measured.measured - half).clip(0, 1), (measured.measured + half).clip(0, 1)


def confidence(calibration: Cases, measured: Cases) -> Floats:
    """Probability (image,) that the error is within a tenth of the ratio."""
    own = _calibrated(calibration, SCALES["as in the product"])
    return serve.confidence(own.confidence, measured.measured, measured.scale)


def quantile_of(score: Floats, cases: Cases, level: float) -> float:
    """The quantile of any score of calibration cases at a level, for an image of a new group."""
    # Scores below 0 are shifted, for those of a calibration are distances.
    least = min(float(score.min()), 0.0)
    ones = np.ones(len(cases))
    return (
        quantile(calibrated(NAME, score - least, ones, ones, cases.group.tolist()), level) + least
    )


def _calibrated(cases: Cases, scale: Scale) -> RatioCalibration:
    error = abs(cases.true - cases.measured)
    return calibrated(NAME, error, scale(cases), cases.measured, cases.group.tolist())
