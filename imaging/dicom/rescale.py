"""From stored values to physical ones: the line that a header gives, and the unit it leads to.

CT in Hounsfield units, PET in standardised uptake values (SUV) where the header has all they take.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from wsseg.imaging.dicom.file import first_item, items, number, tags_of, text, texts, value_of
from wsseg.imaging.dicom.geometry import macro
from wsseg.imaging.dicom.sop_classes import is_ct, is_pet, kind_of, stores_ct
from wsseg.imaging.errors import ReadError

HU = "HU"
SUV = "SUV"

# Third value of ImageType and of a frame's type: a projection, whatever its rescale says.
_LOCALIZER = "LOCALIZER"
# Maps of multi-energy CT that show no attenuation (PS3.3 C.8.15.3.13), in whatever unit.
_SPECTRAL_MAPS = frozenset(
    {"EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_VALUE_BASED"}
)
# Units as UCUM writes them.
_UCUM_HU = "[hnsf'U]"
_UCUM_SUV = frozenset({"{SUVbw}g/ml", "g/ml{SUVbw}"})
_UCUM_ACTIVITY = frozenset({"Bq/ml", "Bq/mL"})

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
# Limits of a plausible weight, dose and decay. Beyond, the header has another unit (grams, MBq,
# minutes) or dates that were changed apart from each other.
_HEAVIEST_KG = 500.0
_LOWEST_DOSE_BQ = 1e5
_MOST_HALF_LIVES = 10.0
# Of an injection only the time of day may be known. Nobody scans a day later what decays this fast.
_SHORT_LIVED_S = 6 * 3600.0
_DAY_S = 86400.0
# Times are rounded to seconds by some attributes and not by others.
_SAME_MOMENT = timedelta(seconds=1)


@dataclass(frozen=True)
class Rescale:
    """Physical value = stored value * slope + intercept.

    unit: "HU", "SUV" (by body weight, g/ml), another unit that the header names, or "" where it
    names none.
    """

    slope: float = 1.0
    intercept: float = 0.0
    unit: str = ""


def rescale_of(dataset: Dataset, own: Dataset, shared: Dataset, source: str) -> Rescale:
    """The rescale of a frame: its own functional group wins over the shared one and the top level.

    `own` and `shared` are empty for an object without functional groups. Raises ReadError for a
    rescale that no pixel could survive.
    """
    transformation = macro(own, shared, "PixelValueTransformationSequence")
    line = _line(transformation, _line(dataset, Rescale(), source), source)
    if tables := items(dataset, "ModalityLUTSequence"):
        line = replace(line, unit=_named(tables[0], "ModalityLUTType"))
    modality = text(dataset, "Modality")
    sop_class = text(dataset, "SOPClassUID")
    if is_ct(sop_class, modality):
        implied = stores_ct(sop_class) or kind_of(sop_class) == "unknown"
        in_hu = _in_hu(dataset, transformation, (own, shared), implied=implied)
        other = "" if line.unit == HU else line.unit
        return replace(line, unit=HU if in_hu else other)
    if is_pet(sop_class, modality):
        return _uptake(dataset, own, shared, line)
    return line


def _line(dataset: Dataset, default: Rescale, source: str) -> Rescale:
    line = {"RescaleSlope": default.slope, "RescaleIntercept": default.intercept}
    for keyword in line:
        if not _stated(dataset, keyword) and not _malformed(dataset, keyword):
            continue
        value = number(dataset, keyword)
        if value is None or (keyword == "RescaleSlope" and value == 0):
            raise ReadError(
                "broken_header",
                f"{source} is damaged, its {keyword} is not a usable number: export it again",
            )
        line[keyword] = value
    return Rescale(
        line["RescaleSlope"],
        line["RescaleIntercept"],
        _named(dataset, "RescaleType") or default.unit,
    )


def _stated(dataset: Dataset, keyword: str) -> bool:
    return value_of(dataset, keyword) not in (None, "")


def _malformed(dataset: Dataset, keyword: str) -> bool:
    """True where the element is there, not empty, and cannot be converted."""
    if keyword not in dataset:
        return False
    try:
        _ = dataset[keyword].value
    except Exception:  # pydicom raises many types on malformed values
        return True
    return False


def _named(dataset: Dataset, keyword: str) -> str:
    """The unit that a rescale or a table names, "" for none and for "unspecified"."""
    unit = text(dataset, keyword).upper()
    return "" if unit in ("US", "UNSPECIFIED") else unit


def _in_hu(
    dataset: Dataset, transformation: Dataset, groups: tuple[Dataset, Dataset], *, implied: bool
) -> bool:
    """Whether the values of a CT are Hounsfield units, by its header.

    groups: the frame's own functional groups and the shared ones. implied: a rescale without a
    type leads to Hounsfield units, as in a CT image (PS3.3 C.8.2.1).
    """
    frame_type = macro(*groups, "CTImageFrameTypeSequence")
    kinds = {*texts(dataset, "ImageType"), *texts(frame_type, "FrameType")}
    if _LOCALIZER in kinds or kinds & _SPECTRAL_MAPS:
        return False
    if tables := items(dataset, "ModalityLUTSequence"):
        return _named(tables[0], "ModalityLUTType") == HU
    if not all(
        _stated(transformation, keyword) or _stated(dataset, keyword)
        for keyword in ("RescaleSlope", "RescaleIntercept")
    ):
        return False
    stated = text(transformation, "RescaleType") or text(dataset, "RescaleType")
    if stated:
        return stated.upper() == HU
    # An image of several energies has to name its unit.
    if not implied or text(dataset, "MultienergyCTAcquisition") == "YES":
        return False
    mapped = _real_world_lines(dataset, *groups)
    return not mapped or _UCUM_HU in mapped


def _uptake(dataset: Dataset, own: Dataset, shared: Dataset, line: Rescale) -> Rescale:
    """SUV where the header has all that it takes, the stored quantity otherwise."""
    mapped = _real_world_lines(dataset, own, shared)
    for unit, mapping in mapped.items():
        if unit in _UCUM_SUV:
            return Rescale(*mapping, SUV)
    # A converted object has sequences for attributes that no functional group has a place for
    # (PS3.3 C.7.6.16.2.25).
    converted = (
        *items(shared, "UnassignedSharedConvertedAttributesSequence")[:1],
        *items(own, "UnassignedPerFrameConvertedAttributesSequence")[:1],
    )
    header = dataset
    if converted:
        header = Dataset()
        for part in (dataset, *converted):
            header.update(part)
    units = text(header, "Units") or line.unit
    for unit, mapping in mapped.items():
        if unit in _UCUM_ACTIVITY and units != "BQML":
            line, units = Rescale(*mapping, "BQML"), "BQML"
    factor = suv_factor(header, units)
    if factor is None:
        return replace(line, unit=units)
    return Rescale(line.slope * factor, line.intercept * factor, SUV)


def _real_world_lines(
    dataset: Dataset, own: Dataset, shared: Dataset
) -> dict[str, tuple[float, float]]:
    """Linear real world value mappings: UCUM unit to slope and intercept."""
    keyword = "RealWorldValueMappingSequence"
    lines = {}
    for mapping in items(own, keyword) or items(shared, keyword) or items(dataset, keyword):
        code = first_item(mapping, "MeasurementUnitsCodeSequence")
        slope = number(mapping, "RealWorldValueSlope")
        intercept = number(mapping, "RealWorldValueIntercept")
        unit = text(code, "CodeValue")
        if unit and slope and intercept is not None:
            lines[unit] = (slope, intercept)
    return lines


def suv_factor(header: Dataset, units: str) -> float | None:
    """The factor from PET values in `units` to SUV by body weight, in g/ml.

    header: attributes of one image, or of a frame and its object together. None where it does not
    state all that is needed, or not credibly. The dose is decayed to the time to which the image
    is corrected. Source: Kinahan et al., vendor-neutral pseudo-code for SUV, QIBA FDG-PET/CT
    profile.
    """
    if units == "GML":
        return 1.0 if text(header, "SUVType") in ("", "BW") else None
    # Without correction for attenuation and decay no activity is known.
    enhanced = [text(header, keyword) for keyword in ("AttenuationCorrected", "DecayCorrected")]
    if not {"ATTN", "DECY"} <= set(texts(header, "CorrectedImage")) and enhanced != ["YES"] * 2:
        return None
    if units == "CNTS":
        if not _text_at(header, _PHILIPS[0]).startswith("Philips PET"):
            return None
        if factor := _positive_at(header, _PHILIPS[1]):
            return factor
        activity = _positive_at(header, _PHILIPS[2])  # Bq/ml of one count
        per_activity = _per_activity(header) if activity else None
        return None if per_activity is None else activity * per_activity
    return _per_activity(header) if units == "BQML" else None


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
    """The number of half-lives from the injection to the time to which the image is corrected."""
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
    """The start of the series' acquisition, to which scanners correct its decay."""
    acquired = _moment(text(header, "AcquisitionDate") + _time(header, "AcquisitionTime"))
    series = _moment(text(header, "SeriesDate") + _time(header, "SeriesTime"))
    if series and acquired and series <= acquired + _SAME_MOMENT:
        return series
    # A series that was processed later has the time of that; the frame may state the scan's.
    if _text_at(header, _GE[0]) == "GEMS_PETD_01" and (start := _moment(_text_at(header, _GE[1]))):
        return start
    offset = number(header, "FrameReferenceTime")
    duration = number(header, "ActualFrameDuration")
    if acquired is None or offset is None or not duration or duration < 0:
        return None
    decay = math.log(2) / half_life * duration / 1000
    mean_s = duration / 1000 / decay * math.log(decay / -math.expm1(-decay))
    return acquired - timedelta(seconds=offset / 1000 - mean_s)


def _time(dataset: Dataset, keyword: str) -> str:
    return text(dataset, keyword).replace(":", "")


def _moment(stated: str) -> datetime | None:
    """YYYYMMDDHHMMSS, with a fraction or without its end; None without a date or a time.

    A time zone at the end is ignored: the other times of the header are of the same location.
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


def _text_at(dataset: Dataset, tag: int) -> str:
    """A private element as text, "" where there is none."""
    value = value_of(dataset, tag)
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return "" if value is None else str(value).strip("\0 ")


def _positive_at(dataset: Dataset, tag: int) -> float:
    """A positive number in a private element, 0 where there is none."""
    try:
        value = float(_text_at(dataset, tag))
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0
