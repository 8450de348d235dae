"""The result of a comparison: the figures of each ratio and group, the pairs, and what is left."""

from collections import Counter
from dataclasses import dataclass, field
from html import escape

from wsseg.serve.agreement.estimates import Estimate
from wsseg.serve.agreement.figures import FigureName, Figures, Pairs
from wsseg.serve.agreement.join import Pair, UnmatchedRow

TITLES: dict[FigureName, str] = {
    "recorded_mean": "mean recorded ratio",
    "measured_mean": "mean measured ratio",
    "bias": "bias (mean of measured less recorded)",
    "sd_of_differences": "SD of the differences",
    "limit_low": "lower 95 % limit of agreement",
    "limit_high": "upper 95 % limit of agreement",
    "percentile_low": "2.5th percentile of the differences",
    "percentile_high": "97.5th percentile of the differences",
    "proportional_bias": "proportional bias (slope of difference on mean)",
    "spread_slope": "growth of the spread (slope of absolute residual on mean)",
    "icc_2_1": "ICC(2,1), absolute agreement",
    "icc_3_1": "ICC(3,1), consistency",
    "mean_absolute_error": "mean absolute error",
    "root_mean_square_error": "root mean square error",
    "limit_of_quantitation": "limit of quantitation",
    "repeatability_recorded": "repeatability coefficient of recorded ratios",
    "repeatability_measured": "repeatability coefficient of measured ratios",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
}


@dataclass(frozen=True, eq=False)
class Group:
    """The figures of one ratio, of all images or of a group. by: the column that divides, "" for
    all. group: its value."""

    ratio_name: str
    by: str
    group: str
    pairs: Pairs = field(repr=False)
    figures: Figures = field(repr=False)

    @property
    def title(self) -> str:
        """The ratio, and the group if it is one, in words."""
        return (
            f"{self.ratio_name}, {self.by} {self.group or '(empty)'}"
            if self.by
            else self.ratio_name
        )

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.pairs.measured)


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far measured ratios agree with recorded ones; a notebook shows the figures as a table.

    groups: for each ratio first all images, then each group. pairs, unmatched: what was compared,
    and which rows had no partner. text: the result in words with its method, for a paper. All
    ratios and differences are fractions.
    """

    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...] = field(repr=False)
    unmatched: tuple[UnmatchedRow, ...] = field(repr=False)
    text: str = field(repr=False)

    def figures(self, ratio_name: str | None = None) -> Figures:
        """The figures of all images of a ratio; without a name, of the only or first one."""
        name = self.groups[0].ratio_name if ratio_name is None else ratio_name
        return next(each.figures for each in self.groups if each.ratio_name == name and not each.by)

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows without a partner, by reason."""
        return dict(sorted(Counter(row.reason for row in self.unmatched).items()))

    def _repr_html_(self) -> str:
        whole = [each for each in self.groups if not each.by]
        head = "".join(f"<th>{escape(each.ratio_name)} (n = {each.images})</th>" for each in whole)
        rows = "".join(
            f"<tr><td>{escape(title)}</td>"
            + "".join(f"<td>{escape(_cell(each.figures[name]))}</td>" for each in whole)
            + "</tr>"
            for name, title in TITLES.items()
        )
        return f"<table><tr><th>figure (95 % interval)</th>{head}</tr>{rows}</table>"


def _cell(found: Estimate) -> str:
    if found.value is None:
        return found.note
    interval = (
        "" if found.low is None or found.high is None else f" ({found.low:.4g} to {found.high:.4g})"
    )
    return f"{found.value:.4g}{interval}"
