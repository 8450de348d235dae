"""The result in words that a paper can quote: figures, numbers of images, method and versions."""

from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version

import wsseg
from wsseg.serve.agreement.estimates import Estimate
from wsseg.serve.agreement.join import Joined
from wsseg.serve.agreement.resampling import RESAMPLES
from wsseg.serve.agreement.result import Group
from wsseg.serve.agreement.tables import AgreeOptions, MeasuredTable, RecordedTable

SHARE, POINTS = "%", "percentage points"

Provenance = tuple[MeasuredTable, RecordedTable]


def text(groups: Sequence[Group], joined: Joined, tables: Provenance, options: AgreeOptions) -> str:
    """The whole text, one paragraph a ratio and group, then the method and what was compared."""
    paragraphs = [_paragraph(group, options) for group in groups]
    paragraphs += [_method(groups, joined, options), _left(joined), _provenance(tables)]
    return "\n\n".join(each for each in paragraphs if each) + "\n"


def closing_words(group: Group) -> str:
    """One line of the main figures."""
    figures = group.figures
    bias, low, high = (
        figures["bias"].value,
        figures["limit_low"].value,
        figures["limit_high"].value,
    )
    said = f"{group.title}: {_counted(group)}, bias {_points(bias)} percentage points"
    if low is not None:
        said += f", limits of agreement {_points(low)} to {_points(high)}"
    icc = figures["icc_2_1"].value
    return said + ("" if icc is None else f", ICC(2,1) {icc:.3f}")


def _paragraph(group: Group, options: AgreeOptions) -> str:
    found = group.figures
    said = [
        f"{group.title}: {_counted(group)}. Mean ratio {_in(found['recorded_mean'], SHARE)} "
        f"recorded and {_in(found['measured_mean'], SHARE)} measured.",
        f"Bias (measured less recorded) {_in(found['bias'], POINTS)}.",
    ]
    low, high = found["limit_low"].value, found["limit_high"].value
    if low is None or high is None:
        said.append(f"No limits of agreement: {found['limit_low'].note}.")
    else:
        outside = sum(not low <= each <= high for each in group.pairs.differences.tolist())
        percentiles = (found["percentile_low"], found["percentile_high"])
        said.append(
            f"95 % limits of agreement {_in(found['limit_low'], '')} and "
            f"{_in(found['limit_high'], POINTS)}; {outside} of {group.images} differences lie "
            "outside them, and the 2.5th and 97.5th percentiles of the differences are "
            f"{' and '.join(_points(each.value) for each in percentiles)}."
        )
    said += [
        f"Proportional bias: slope {_plain(found['proportional_bias'])}. "
        f"Growth of the spread with the ratio: slope {_plain(found['spread_slope'])}.",
        f"ICC(2,1) {_plain(found['icc_2_1'])}; ICC(3,1) {_plain(found['icc_3_1'])}.",
        f"Mean absolute error {_in(found['mean_absolute_error'], POINTS)}, root mean square error "
        f"{_in(found['root_mean_square_error'], POINTS)}.",
        f"Limit of quantitation (95 % of measured ratios within {100 * options.loq_error:g} % of "
        f"the recorded) {_in(found['limit_of_quantitation'], SHARE)}.",
    ]
    repeats = {
        "recorded": found["repeatability_recorded"],
        "measured": found["repeatability_measured"],
    }
    said += [
        f"Repeatability coefficient of {which} ratios {_in(each, POINTS)}."
        for which, each in repeats.items()
        if each.value is not None
    ]
    said.append(
        f"Pearson's correlation {_plain(found['pearson'])}, Spearman's "
        f"{_plain(found['spearman'])}; neither measures agreement."
    )
    return " ".join(said)


def _method(groups: Sequence[Group], joined: Joined, options: AgreeOptions) -> str:
    whole = [group.pairs for group in groups if not group.by]
    clustered = any(pairs.several_images for pairs in whole)
    readings = sum(pairs.several_readings for pairs in whole)
    said = [
        "Method: limits of agreement are the bias -/+ 1.96 SD of the differences (Bland & Altman, "
        "Lancet 1986;i:307; Stat Methods Med Res 1999;8:135). Intervals have 95 % confidence; "
        "those of the limits assume normal differences, which the quantile plot shows or not."
    ]
    if joined.patients_by:
        said.append(f"Patients were told apart by {joined.patients_by}.")
    else:
        said.append(
            "No column names patients: images of one study, series or file counted as one "
            "patient's, and others as independent. If they are not, the intervals are too narrow."
        )
    if clustered:
        said.append(
            "As patients have several images, each patient counts alike in the bias, the SD has "
            "components between and within patients (Bland & Altman, J Biopharm Stat "
            "2007;17:571), the intervals of the limits are recovered from these (MOVER; Zou, Stat "
            "Methods Med Res 2013;22:630), slopes have standard errors robust to clusters, and the "
            f"intervals of ICC and Pearson's correlation come from {RESAMPLES} resamples of "
            "patients."
        )
    else:
        said.append(
            "The intervals of the limits are exact for normal differences (Carkeet, Optom Vis Sci "
            "2015;92:e71, limits considered individually), those of ICC from F distributions "
            "(Shrout & Fleiss, Psychol Bull 1979;86:420; McGraw & Wong, Psychol Methods 1996;1:30)."
        )
    if readings:
        said.append(
            f"{readings} images have several recorded readings: differences are of their means, "
            "and the SD is that of single readings (Bland & Altman 1999, section 5)."
        )
    said.append(
        f"Intervals of the errors and of the limit of quantitation come from {RESAMPLES} resamples "
        "of patients. The limit of quantitation is the smallest recorded ratio from which on "
        "|bias| + 1.96 SD, both regressed on the recorded ratio, stay within "
        f"{100 * options.loq_error:g} % of it (Bland & Altman 1999, section 3.2; total error as in "
        "CLSI EP17-A2)."
    )
    if any(each.figures["repeatability_recorded"].value is not None for each in groups):
        said.append("Repeatability coefficients are 1.96 * sqrt(2) * SD within repeated values.")
    return " ".join(said)


def _left(joined: Joined) -> str:
    if not joined.unmatched:
        return f"All rows of both tables have partners: {len(joined.pairs)} pairs."
    counts = Counter((row.table, row.reason) for row in joined.unmatched)
    listed = ", ".join(f"{n} {table} ({reason})" for (table, reason), n in sorted(counts.items()))
    return f"{len(joined.pairs)} pairs. Left out, having no partner: {listed}."


def _provenance(tables: Provenance) -> str:
    measured, recorded = tables
    models = [
        f"{name} (sha256 {', '.join(each[:12] for each in measured.distinct('model_sha256'))})"
        for name in [", ".join(measured.distinct("model"))]
        if name
    ]
    made_by = ", ".join(measured.distinct("wsseg_version"))
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "statsmodels"))
    return (
        f"Measured: column {measured.column} of {measured.path.name} (sha256 "
        f"{measured.sha256[:12]})"
        + (f", model {models[0]}" if models else "")
        + (f", wsseg {made_by}" if made_by else "")
        + f". Recorded: column {', '.join(recorded.columns)} of {recorded.path.name} (sha256 "
        f"{recorded.sha256[:12]}). Compared with wsseg {wsseg.__version__}, {packages}."
    )


def _counted(group: Group) -> str:
    images = f"{group.images} image{'' if group.images == 1 else 's'}"
    patients = group.pairs.patients
    of = f" of {patients} patient{'' if patients == 1 else 's'}"
    return images + (of if group.pairs.several_images else "")


def _in(found: Estimate, unit: str) -> str:
    """A ratio or difference with its interval, in percent or percentage points."""
    return _estimate(found, _hundredfold, unit)


def _plain(found: Estimate) -> str:
    """A figure without a unit, with its interval."""
    return _estimate(found, lambda value: f"{value:.3f}", "")


def _estimate(found: Estimate, written: Callable[[float], str], unit: str) -> str:
    if found.value is None:
        return f"none ({found.note})"
    details = []
    if found.low is not None and found.high is not None:
        details.append(f"95 % CI {written(found.low)} to {written(found.high)}")
    elif found.low is not None:
        details.append(f"95 % CI from {written(found.low)}")
    if found.p is not None:
        details.append(f"p = {found.p:.2g}" if found.p >= 1e-4 else "p < 0.0001")
    if found.note:
        details.append(found.note)
    value = f"{written(found.value)} {unit}".strip()
    return f"{value} ({'; '.join(details)})" if details else value


def _points(value: float | None) -> str:
    return "none" if value is None else _hundredfold(value)


def _hundredfold(value: float) -> str:
    return f"{100 * value + 0.0:.3g}"  # no -0
