"""Standardised uptake values: the factor that makes PET images comparable."""

import math
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from wsseg.imaging.dicom_values import first_item, number, tags_of, text, texts, value_of

SUV = "SUV"

_PHILIPS = (0x70530010, 0x70531000, 0x70531009)  # creator, SUV factor, activity factor
_GE = (0x00090010, 0x0009100D)  # creator, start of the scan
# Weight and times serve the factor alone: they are neither kept nor written nor logged.
SUV_TAGS = [
    *tags_of(
        (
            *("Units", "SUVType", "CorrectedImage", "DecayCorrection", "PatientWeight"),
            *("DecayCorrected", "AttenuationCorrected", "DecayCorrectionDateTime"),
            *("RadiopharmaceuticalInformationSequence", "RealWorldValueMappingSequence"),
            *("SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime"),
            *("FrameReferenceTime", "ActualFrameDuration"),
        )
    ),
    *_PHILIPS,
    *_GE,
]

# What a header can mean by a weight, a dose and a decay. Beyond, it has another unit (grams, MBq,
# minutes) or dates that were changed apart from each other.
_HEAVIEST_KG = 500.0
_LOWEST_DOSE_BQ = 1e5
_MOST_HALF_LIVES = 10.0
# Of an injection only the time of day may be known. Nobody scans a day later what decays this fast.
_SHORT_LIVED_S = 6 * 3600.0
_DAY_S = 86400.0
# Times are rounded to seconds by some attributes and not by others.
_SAME_MOMENT = timedelta(seconds=1)


def suv_factor(header: Dataset, units: str) -> float | None:
    """What PET values in `units` are multiplied with to become SUV by body weight, in g/ml.

    header: attributes of one image, or of a frame and its object together. None where it does not
    give all that is needed, or not credibly. The dose is decayed to the time to which the image is
    corrected. Source: Kinahan et al., vendor-neutral pseudo-code for SUV, QIBA FDG-PET/CT profile.
    """
    if units == "GML":
        return 1.0 if text(header, "SUVType") in ("", "BW") else None
    if not _corrected(header):
        return None
    if units == "CNTS":
        factor, activity = _philips(header)
        if factor:
            return factor
        per_activity = _per_activity(header) if activity else None
        return None if per_activity is None else activity * per_activity
    return _per_activity(header) if units == "BQML" else None


def _corrected(header: Dataset) -> bool:
    """Whether attenuation and decay were corrected for, without which no activity is known."""
    if {"ATTN", "DECY"} <= set(texts(header, "CorrectedImage")):
        return True
    enhanced = (text(header, keyword) for keyword in ("AttenuationCorrected", "DecayCorrected"))
    return all(found == "YES" for found in enhanced)


def _per_activity(header: Dataset) -> float | None:
    """Grams of body for each Bq that is left at the time of the image."""
    weight = number(header, "PatientWeight") or 0.0
    isotope = first_item(header, "RadiopharmaceuticalInformationSequence")
    dose = number(isotope, "RadionuclideTotalDose") or 0.0
    half_lives = _half_lives(header, isotope)
    if not 0 < weight <= _HEAVIEST_KG or dose < _LOWEST_DOSE_BQ or half_lives is None:
        return None
    return weight * 1000 / (dose * math.exp2(-half_lives))


def _half_lives(header: Dataset, isotope: Dataset) -> float | None:
    """How many half-lives the dose decayed before the time to which the image is corrected."""
    correction = text(header, "DecayCorrection")
    if correction == "ADMIN":
        return 0.0
    half_life = number(isotope, "RadionuclideHalfLife") or 0.0
    stated = _moment(text(header, "DecayCorrectionDateTime"))
    if half_life <= 0 or (correction != "START" and stated is None):
        return None
    scanned = stated or _scan_start(header, half_life)
    if scanned is None:
        return None
    injected = _moment(text(isotope, "RadiopharmaceuticalStartDateTime"))
    if injected:
        elapsed = (scanned - injected).total_seconds()
    else:
        time = _moment("20000101" + _time(isotope, "RadiopharmaceuticalStartTime"))
        if time is None or half_life > _SHORT_LIVED_S:
            return None
        start = datetime.combine(scanned.date(), time.time())
        elapsed = (scanned - start).total_seconds() % _DAY_S  # the night may lie between them
    half_lives = elapsed / half_life
    return half_lives if 0 <= half_lives <= _MOST_HALF_LIVES else None


def _scan_start(header: Dataset, half_life: float) -> datetime | None:
    """When the acquisition of the series began, to which scanners correct its decay."""
    acquired = _moment(text(header, "AcquisitionDate") + _time(header, "AcquisitionTime"))
    series = _moment(text(header, "SeriesDate") + _time(header, "SeriesTime"))
    if series and acquired and series <= acquired + _SAME_MOMENT:
        return series
    # A series that was processed later has the time of that; the frame may tell the scan's.
    if text_at(header, _GE[0]) == "GEMS_PETD_01" and (start := _moment(text_at(header, _GE[1]))):
        return start
    offset = number(header, "FrameReferenceTime")
    duration = number(header, "ActualFrameDuration")
    if acquired is None or offset is None or not duration or duration < 0:
        return None
    decay = math.log(2) / half_life * duration / 1000
    mean_s = duration / 1000 / decay * math.log(decay / -math.expm1(-decay))
    return acquired - timedelta(seconds=offset / 1000 - mean_s)


def _philips(header: Dataset) -> tuple[float, float]:
    """Factors from counts to SUV and to Bq/ml; 0 where there is none."""
    if not text_at(header, _PHILIPS[0]).startswith("Philips PET"):
        return 0.0, 0.0
    return _number_at(header, _PHILIPS[1]), _number_at(header, _PHILIPS[2])


def _time(dataset: Dataset, keyword: str) -> str:
    return text(dataset, keyword).replace(":", "")


def _moment(stated: str) -> datetime | None:
    """YYYYMMDDHHMMSS, with a fraction or without its end; None where a date or the time lacks.

    A zone at the end is left out: the other times of the header are of the same place.
    """
    plain = stated.partition("+")[0].partition("-")[0].replace(".", "", 1)
    digits, fraction = plain[:14], plain[14:]
    if len(digits) < 10 or not plain.isdecimal():
        return None
    try:
        moment = datetime.strptime(digits.ljust(14, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return moment + timedelta(seconds=float(f"0.{fraction or 0}"))


def text_at(dataset: Dataset, tag: int) -> str:
    """A private element as text, "" where there is none."""
    value = value_of(dataset, tag)
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return "" if value is None else str(value).strip("\0 ")


def _number_at(dataset: Dataset, tag: int) -> float:
    try:
        found = float(text_at(dataset, tag))
    except ValueError:
        return 0.0
    return found if math.isfinite(found) and found > 0 else 0.0
