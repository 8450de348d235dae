"""Figures whose intervals come from resampling whole patients: errors, ICC, limit of quantitation.

A resample draws as many patients as there are, with replacement, and takes all images of each
(cluster bootstrap). It is drawn with a fixed seed: equal tables give equal intervals.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wsseg.serve.agreement.estimates import (
    TAIL,
    TOO_FEW,
    Estimate,
    Labels,
    Values,
    Z,
    icc_agreement,
    icc_consistency,
)

RESAMPLES = 2000
FEWEST_PATIENTS = 10
"""Fewer patients have too few different resamples for an interval of 95 %."""
FEWEST_FOR_QUANTITATION = 20
"""Images that the regressions of the limit of quantitation need at least."""
SEED = 12
CHUNK = 1 << 22
"""Weights held at once."""

Weights = NDArray[np.float64]
Figure = Callable[[Weights], Values]
"""A figure of weighted images: weights (b, n) to values (b,)."""


class Resampler:
    """Intervals of figures of n images of the given patients (n,)."""

    def __init__(self, patient: Labels) -> None:
        self._patient = np.unique(patient, return_inverse=True)[1]
        self.patients = int(self._patient.max()) + 1
        self.clustered = self.patients < len(patient)

    def _weights(self) -> Iterator[Weights]:
        """How often each image is in each resample, (rows, n) at a time; the same in every call."""
        random = np.random.default_rng(SEED)
        rows = max(1, CHUNK // len(self._patient))
        for at in range(0, RESAMPLES, rows):
            count = min(rows, RESAMPLES - at)
            drawn = random.integers(0, self.patients, (count, self.patients))
            drawn += self.patients * np.arange(count)[:, None]
            times = np.bincount(drawn.ravel(), minlength=count * self.patients)
            yield times.reshape(count, -1)[:, self._patient].astype(np.float64)

    def samples(self, figure: Figure) -> Values:
        """The figure in each resample, (b,); not finite where it does not exist."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.concatenate([figure(weights) for weights in self._weights()])

    def interval(self, value: float, figure: Figure) -> Estimate:
        """The value with the percentile interval of its figure."""
        if not math.isfinite(value):
            return Estimate(note="all images have the same ratio")
        if self.patients < FEWEST_PATIENTS:
            unit = "patients" if self.clustered else "images"
            return Estimate(value, note=f"no interval: it takes at least {FEWEST_PATIENTS} {unit}")
        found = self.samples(figure)
        found = found[np.isfinite(found)]
        if len(found) < 0.95 * RESAMPLES:
            return Estimate(value, note="no interval: the figure does not exist in many resamples")
        low, high = np.quantile(found, [TAIL, 1 - TAIL])
        return Estimate(value, float(low), float(high))


def mean_absolute_error(differences: Values, resampler: Resampler) -> Estimate:
    """Mean of the absolute differences (n,)."""
    sizes = np.abs(differences)
    return resampler.interval(float(sizes.mean()), lambda w: w @ sizes / w.sum(1))


def root_mean_square_error(differences: Values, resampler: Resampler) -> Estimate:
    """Root of the mean squared difference (n,): bias and spread in one figure."""
    squares = np.square(differences)
    value = float(np.sqrt(squares.mean()))
    return resampler.interval(value, lambda w: np.sqrt(w @ squares / w.sum(1)))


def icc(measured: Values, recorded: Values, resampler: Resampler) -> tuple[Estimate, Estimate]:
    """ICC(2,1) and ICC(3,1) of two methods, (n,) each.

    The intervals of `icc_agreement` and `icc_consistency` hold for independent images; several
    images of a patient are resampled instead.
    """
    ratings = np.column_stack([measured, recorded])
    found = icc_agreement(ratings), icc_consistency(ratings)
    if not resampler.clustered:
        return found
    mean, difference = ratings.mean(1), measured - recorded

    def figure(w: Weights, by_method: float) -> Values:
        n = w.sum(1)
        images, rest = 2 * _variance(w, mean), _variance(w, difference) / 2
        methods = n * np.square(w @ difference / n) / 2
        values: Values = (images - rest) / (images + rest + by_method * 2 * (methods - rest) / n)
        return values

    def resampled(formula: Estimate, by_method: float) -> Estimate:
        if formula.value is None or formula.note.endswith("in every image"):
            return formula
        return resampler.interval(formula.value, lambda w: figure(w, by_method))

    return resampled(found[0], 1.0), resampled(found[1], 0.0)


def correlations(
    measured: Values, recorded: Values, resampler: Resampler
) -> tuple[Estimate, Estimate]:
    """Pearson's and Spearman's correlation; the interval of the first is Fisher's, or resampled
    where patients have several images."""
    if len(measured) < 4:
        few = Estimate(note=TOO_FEW.format(4))
        return few, few
    if not (np.ptp(measured) and np.ptp(recorded)):
        same = Estimate(note="one method gives the same ratio in all images")
        return same, same
    rank = Estimate(float(stats.spearmanr(measured, recorded).statistic))
    found = stats.pearsonr(measured, recorded)
    if not resampler.clustered:
        low, high = found.confidence_interval(1 - 2 * TAIL)
        return Estimate(float(found.statistic), float(low), float(high)), rank

    def figure(w: Weights) -> Values:
        total, apart = _variance(w, measured + recorded), _variance(w, measured - recorded)
        product = _variance(w, measured) * _variance(w, recorded)
        values: Values = (total - apart) / (4 * np.sqrt(product))
        return values

    return resampler.interval(float(found.statistic), figure), rank


def limit_of_quantitation(
    measured: Values, recorded: Values, resampler: Resampler, *, error: float
) -> Estimate:
    """The smallest ratio from which on 95 % of measured ratios are within `error` of the recorded.

    error: a share of the recorded ratio. At a recorded ratio x, the bias b(x) is the regression of
    the differences on x, and the SD s(x) that of their absolute residuals times sqrt(pi / 2) (Bland
    & Altman 1999, section 3.2). The limit is the smallest x within the recorded ratios from which
    |b(x)| + 1.96 s(x) <= error * x up to the largest: a total error as CLSI EP17-A2 asks for, of
    bias and imprecision. Images with a recorded ratio of 0 have no relative error and are left out.
    """
    shown = recorded > 0
    count = int(shown.sum())
    if count < FEWEST_FOR_QUANTITATION:
        need = f"it takes at least {FEWEST_FOR_QUANTITATION} images with a recorded ratio above 0"
        return Estimate(note=f"{need}, and there are {count}")
    x, d = recorded[shown], (measured - recorded)[shown]
    smallest, largest = float(x.min()), float(x.max())
    if smallest == largest:
        return Estimate(note="all images have the same recorded ratio")

    def figure(w: Weights) -> Values:
        return _from_where_on(w[:, shown] if w.shape[1] == len(shown) else w, x, d, error)

    value = float(figure(np.ones((1, count)))[0])
    if not math.isfinite(value):
        return Estimate(
            note=f"not reached: at the largest recorded ratio, {100 * largest:.3g} %, the error of "
            f"95 % of the measured ratios still exceeds {100 * error:g} %"
        )
    notes = ["no recorded ratio is smaller"] if value <= smallest else []
    low = high = None
    if resampler.patients >= FEWEST_PATIENTS:
        found = resampler.samples(figure)
        low, high = np.quantile(found, [TAIL, 1 - TAIL], method="inverted_cdf")
        low, high = float(low), float(high)
        if math.isinf(high):
            missed = float(np.mean(np.isinf(found)))
            notes.append(f"no upper end: {100 * missed:.0f} % of the resamples do not reach it")
            high = None
    else:
        unit = "patients" if resampler.clustered else "images"
        notes.append(f"no interval: it takes at least {FEWEST_PATIENTS} {unit}")
    return Estimate(value, low, high, note="; ".join(notes))


def _from_where_on(w: Weights, x: Values, d: Values, error: float) -> Values:
    """The limit of each row of weights (b, n); infinite where it is not reached, NaN never."""
    bias = _line(w, x, d)
    residuals = np.abs(d - bias[0][:, None] - bias[1][:, None] * x)
    spread = tuple(Z * math.sqrt(math.pi / 2) * part for part in _line(w, x, residuals))
    low, high = x.min(), x.max()
    start, reached = np.full(len(w), low), np.ones(len(w), bool)
    # The bound is the largest of these lines, so that it is kept on one stretch of x.
    for sign in (1, -1):
        for wide in (1, 0):
            constant = sign * bias[0] + wide * spread[0]
            gradient = sign * bias[1] + wide * spread[1] - error
            reached &= constant + gradient * high <= 0
            falls = gradient < 0
            start = np.where(
                falls, np.maximum(start, -constant / np.where(falls, gradient, 1)), start
            )
            reached &= np.isfinite(constant) & np.isfinite(gradient)
    limits: Values = np.where(reached, start, np.inf)
    return limits


def _line(w: Weights, x: Values, y: Values) -> tuple[Values, Values]:
    """Constant and gradient (b,) of weighted regressions of y, (n,) or (b, n), on x (n,)."""
    n = w.sum(1)
    x_mean, y_mean = w @ x / n, (w * y).sum(1) / n
    gradient = ((w * y) @ x / n - x_mean * y_mean) / (w @ np.square(x) / n - np.square(x_mean))
    return y_mean - gradient * x_mean, gradient


def _variance(w: Weights, values: Values) -> Values:
    """Weighted variances (b,) with one degree of freedom less than images."""
    n = w.sum(1)
    centred = values - values.mean()  # keeps the digits
    variances: Values = (w @ np.square(centred) - np.square(w @ centred) / n) / (n - 1)
    return variances
