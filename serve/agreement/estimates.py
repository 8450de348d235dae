"""Agreement of two methods: bias, limits of agreement, proportional bias, ICC, repeatability.

All intervals have a confidence of 95 %. What cannot be computed is None, and its note says why.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
Labels = NDArray[np.int64]

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
Z = float(stats.norm.ppf(1 - TAIL))
"""Limits of agreement lie 1.96 SD from the bias: 95 % of normal differences are between them."""
ROUNDING = 64 * float(np.finfo(np.float64).eps)
"""Relative deviations below this are rounding: the values are equal."""
TOO_FEW = "it takes at least {} images"
EQUAL = "no interval: all differences are equal"
AGREE = "no interval: the methods agree in every image"
CONSTANT = "no interval: the methods differ by the same amount in every image"


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval. p: that it differs from 0 by chance alone. note: for readers."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Component:
    """A part of the variance of single differences: `weight` times `variance`, with its degrees of
    freedom."""

    weight: float
    variance: float
    df: int


@dataclass(frozen=True)
class Differences:
    """The mean of the differences and the variance of a single one.

    units: patients, or images if each is a patient's only one: what is independent. The first
    component is the variance of the means of these units, whose mean `mean` is.
    """

    mean: float
    units: int
    components: tuple[Component, ...]

    @property
    def sd(self) -> float:
        """Standard deviation of a single difference, of one image and one reading."""
        return math.sqrt(sum(part.weight * part.variance for part in self.components))

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return math.sqrt(self.components[0].variance / self.units)


def describe(
    differences: Values, patient: Labels, readings: Sequence[Sequence[float]] = ()
) -> Differences:
    """Mean and components of variance of differences (n,), n >= 2, of at least two patients.

    patient: (n,) equal numbers for images of one patient. Several images of a patient add the
    variance within patients, and several readings of an image, of which the differences have the
    mean, that within images, because the limits are for single images and readings. Patients count
    alike, whatever the number of their images. Sources: Bland & Altman, Stat Methods Med Res 1999,
    8:135, section 5; J Biopharm Stat 2007, 17:571; Zou, Stat Methods Med Res 2013, 22:630.
    """
    order = np.unique(patient, return_inverse=True)[1]
    counts = np.bincount(order)
    means = np.bincount(order, differences) / counts
    parts = [Component(1.0, float(means.var(ddof=1)), len(means) - 1)]
    if (counts > 1).any():
        within = float(np.square(differences - means[order]).sum())
        df = len(differences) - len(means)
        parts.append(Component(1 - float(np.mean(1 / counts)), within / df, df))
    if any(len(each) > 1 for each in readings):
        variance, df = within_variance(readings)
        weight = 1 - float(np.mean([1 / len(each) for each in readings]))
        parts.append(Component(weight, variance, df))
    return Differences(float(means.mean()), len(means), tuple(parts))


def bias(found: Differences) -> Estimate:
    """Mean of the differences, with its t interval."""
    margin = float(stats.t.ppf(1 - TAIL, found.units - 1)) * found.standard_error
    return Estimate(found.mean, found.mean - margin, found.mean + margin)


def limits(found: Differences) -> tuple[Estimate, Estimate]:
    """Lower and upper limit of agreement, the bias -/+ 1.96 SD.

    The interval of each limit is exact for independent normal differences, by the noncentral t
    distribution (Carkeet, Optom Vis Sci 2015, 92:e71, limits considered individually). With several
    components it is recovered from the variances of these (MOVER; Zou 2013).
    """
    if found.sd <= ROUNDING * abs(found.mean):
        equal = Estimate(found.mean, note=EQUAL)
        return equal, equal
    if len(found.components) == 1:
        inner, outer = exact_factors(found.units)
        inner, outer = inner * found.sd, outer * found.sd
    else:
        inner, outer = _recovered(found)
    half = Z * found.sd
    return (
        Estimate(found.mean - half, found.mean - outer, found.mean - inner),
        Estimate(found.mean + half, found.mean + inner, found.mean + outer),
    )


def exact_factors(n: int, *, z: float = Z, tail: float = TAIL) -> tuple[float, float]:
    """Ends of the interval of a limit of n >= 2 differences, in SD from their mean.

    z: of the limit, in SD. tail: probability beyond either end. These are the one-sided tolerance
    factors of a normal distribution.
    """
    inner, outer = stats.nct.ppf([tail, 1 - tail], n - 1, z * math.sqrt(n)) / math.sqrt(n)
    return float(inner), float(outer)


def _recovered(found: Differences) -> tuple[float, float]:
    """Distances of the ends of a limit's interval from the mean."""
    down = up = 0.0
    for part in found.components:
        variance = part.weight * part.variance
        low, high = stats.chi2.ppf([TAIL, 1 - TAIL], part.df)
        down += (variance * (1 - part.df / high)) ** 2
        up += (variance * (part.df / low - 1)) ** 2
    smallest = math.sqrt(found.sd**2 - math.sqrt(down))
    largest = math.sqrt(found.sd**2 + math.sqrt(up))
    of_mean, half = Z * found.standard_error, Z * found.sd
    return (
        half - math.hypot(of_mean, Z * (found.sd - smallest)),
        half + math.hypot(of_mean, Z * (largest - found.sd)),
    )


def slope(x: Values, y: Values, patient: Labels) -> Estimate:
    """Slope of the regression of y on x, both (n,), by least squares.

    Several images of a patient: the standard error is robust to their correlation (sandwich with
    patients as clusters, t with one degree of freedom fewer than patients).
    """
    from statsmodels.regression.linear_model import OLS

    patients = len(np.unique(patient))
    if min(len(x), patients) < 3:
        return Estimate(note="it takes at least 3 images of 3 patients")
    if np.ptp(x) <= ROUNDING * np.abs(x).max():
        return Estimate(note="all images have the same ratio")
    model = OLS(y, np.column_stack([np.ones_like(x), x]))
    if patients < len(x):
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": patient}, use_t=True)
    else:
        fit = model.fit()
    value = float(fit.params[1])
    if np.abs(fit.resid).max() <= ROUNDING * max(np.abs(y).max(), np.abs(x).max()):
        return Estimate(value, note="no interval: all images lie on one line")
    low, high = (float(end) for end in fit.conf_int(alpha=1 - CONFIDENCE)[1])
    return Estimate(value, low, high, float(fit.pvalues[1]))


@dataclass(frozen=True)
class MeanSquares:
    """Two-way analysis of variance of n images by k methods: between images, methods, the rest."""

    images: float
    methods: float
    rest: float
    n: int
    k: int

    @property
    def agreement(self) -> float:
        """ICC(2,1) of Shrout & Fleiss, ICC(A,1) of McGraw & Wong; NaN if nothing varies."""
        by_method = self.k * (self.methods - self.rest) / self.n
        return _over(self.images - self.rest, self.images + (self.k - 1) * self.rest + by_method)

    @property
    def consistency(self) -> float:
        """ICC(3,1) of Shrout & Fleiss, ICC(C,1) of McGraw & Wong; NaN if images do not vary."""
        return _over(self.images - self.rest, self.images + (self.k - 1) * self.rest)


def mean_squares(ratings: Values) -> MeanSquares:
    """Mean squares of ratings (n, k), n >= 2 and k >= 2; those of rounding alone are 0."""
    n, k = ratings.shape
    centred = ratings - ratings.mean()
    rows, columns = centred.mean(1), centred.mean(0)
    # From residuals, not as a difference of sums, which rounding can make negative.
    rest = centred - rows[:, None] - columns
    least = np.square(ROUNDING * np.abs(ratings).max())
    squares = (
        k * np.square(rows).sum() / (n - 1),
        n * np.square(columns).sum() / (k - 1),
        np.square(rest).sum() / ((n - 1) * (k - 1)),
    )
    images, methods, rest = (0.0 if each <= least else float(each) for each in squares)
    return MeanSquares(images, methods, rest, n, k)


def icc_agreement(ratings: Values) -> Estimate:
    """ICC(2,1): two-way random effects, absolute agreement, a single measurement; ratings (n, k).

    Interval: McGraw & Wong, Psychological Methods 1996, 1:30, table 7, case ICC(A,1). It is an
    approximation that can turn upside down for coefficients below 0, and is then left out.
    """
    squares, note = _varied(ratings)
    if squares is None:
        return Estimate(note=note)
    value = squares.agreement
    n, k = squares.n, squares.k
    if squares.rest == squares.methods == 0:
        return Estimate(value, note=AGREE)
    if 1 - value < ROUNDING:
        return Estimate(value, note="no interval: the coefficient is 1 but for rounding")
    share = value / (1 - value)
    a, b = k * share / n, 1 + k * share * (n - 1) / n
    parts = a * squares.methods, b * squares.rest
    spread = parts[0] ** 2 / (k - 1) + parts[1] ** 2 / ((n - 1) * (k - 1))
    df = (parts[0] + parts[1]) ** 2 / spread if spread > 0 else 0.0
    doubtful = Estimate(
        value, note="no interval: its approximation fails for a coefficient this low"
    )
    if df < 0.5:
        return doubtful
    upper, lower = stats.f.ppf(1 - TAIL, n - 1, df), stats.f.ppf(1 - TAIL, df, n - 1)
    others = k * squares.methods + (k * n - k - n) * squares.rest
    low = n * (squares.images - upper * squares.rest) / (upper * others + n * squares.images)
    high = n * (lower * squares.images - squares.rest) / (others + n * lower * squares.images)
    return _ordered(Estimate(value, float(low), float(high)), doubtful)


def icc_consistency(ratings: Values) -> Estimate:
    """ICC(3,1): two-way mixed effects, consistency, a single measurement; ratings (n, k).

    A constant difference between the methods does not lower it. Interval: Shrout & Fleiss,
    Psychological Bulletin 1979, 86:420; exact for normal values.
    """
    squares, note = _varied(ratings)
    if squares is None:
        return Estimate(note=note)
    value = squares.consistency
    if squares.rest == 0:
        return Estimate(value, note=AGREE if squares.methods == 0 else CONSTANT)
    n, k = squares.n, squares.k
    df = (n - 1) * (k - 1)
    ratio = squares.images / squares.rest
    low = ratio / float(stats.f.ppf(1 - TAIL, n - 1, df))
    high = ratio * float(stats.f.ppf(1 - TAIL, df, n - 1))
    return Estimate(value, (low - 1) / (low + k - 1), (high - 1) / (high + k - 1))


def _varied(ratings: Values) -> tuple[MeanSquares | None, str]:
    """The mean squares; None, and why, if there is no coefficient."""
    if len(ratings) < 3:
        return None, TOO_FEW.format(3)
    squares = mean_squares(ratings)
    if squares.images == squares.rest == 0:
        return None, "all images have the same ratio, of which no share can be due to the images"
    return squares, ""


def _ordered(found: Estimate, otherwise: Estimate) -> Estimate:
    ends = (found.low, found.value, found.high)
    known = [end for end in ends if end is not None and math.isfinite(end)]
    fits = len(known) == 3 and known[2] <= 1 and all(a <= b for a, b in pairwise(known))
    return found if fits else otherwise


def _over(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def within_variance(repeats: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Variance within groups of repeated values, and its degrees of freedom (one-way analysis of
    variance); groups of one value count for nothing."""
    groups = [np.asarray(group, np.float64) for group in repeats if len(group) > 1]
    df = sum(len(group) - 1 for group in groups)
    total = sum(float(np.square(group - group.mean()).sum()) for group in groups)
    return (total / df if df else math.nan), df


def repeatability(repeats: Sequence[Sequence[float]]) -> Estimate:
    """Repeatability coefficient, 1.96 * sqrt(2) * SD within groups of repeated values.

    Two values of the same thing differ by less in 95 % of pairs. Interval from the chi-squared
    distribution of the variance. Sources: Bland & Altman 1999, section 4; Obuchowski & Bullen, Stat
    Methods Med Res 2018, 27:3258.
    """
    variance, df = within_variance(repeats)
    if not df:
        return Estimate(note="nothing was measured or recorded twice")
    value = Z * math.sqrt(2 * variance)
    if variance == 0:
        return Estimate(0.0, note="no interval: repeated values are all equal")
    low, high = np.sqrt(df / stats.chi2.ppf([1 - TAIL, TAIL], df))
    return Estimate(value, float(value * low), float(value * high), note=f"{df} degrees of freedom")
