"""From stored values to physical ones: the line that a header gives, and the unit it leads to."""

from dataclasses import dataclass, replace

from pydicom.dataset import Dataset

from wsseg.imaging.dicom_classes import is_ct, is_pet, sort_of, stores_ct
from wsseg.imaging.dicom_planes import macro
from wsseg.imaging.dicom_suv import SUV, suv_factor
from wsseg.imaging.dicom_values import first_item, items, number, text, texts, value_of
from wsseg.imaging.errors import ReadError

HU = "HU"

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


@dataclass(frozen=True)
class Rescale:
    """Physical value = stored value * slope + intercept.

    unit: "HU", "SUV" (by body weight, g/ml), what else the header names, or "" where it names none.
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
        implied = stores_ct(sop_class) or sort_of(sop_class) == "unknown"
        in_hu = _in_hu(dataset, transformation, (own, shared), implied=implied)
        other = "" if line.unit == HU else line.unit
        return replace(line, unit=HU if in_hu else other)
    if is_pet(sop_class, modality):
        return _uptake(dataset, own, shared, line)
    return line


def _line(dataset: Dataset, default: Rescale, source: str) -> Rescale:
    found = []
    for keyword, value in (
        ("RescaleSlope", default.slope),
        ("RescaleIntercept", default.intercept),
    ):
        if not _stated(dataset, keyword) and not _malformed(dataset, keyword):
            found.append(value)
            continue
        stored = number(dataset, keyword)
        if stored is None or (keyword == "RescaleSlope" and stored == 0):
            raise ReadError(
                "broken_header",
                f"{source} is damaged, its {keyword} is not a usable number: export it again",
            )
        found.append(stored)
    return Rescale(found[0], found[1], _named(dataset, "RescaleType") or default.unit)


def _in_hu(
    dataset: Dataset, transformation: Dataset, groups: tuple[Dataset, Dataset], *, implied: bool
) -> bool:
    """Whether the values of a CT are Hounsfield units, by what its header says of them.

    implied: a rescale without a type leads to them, as in a CT image (PS3.3 C.8.2.1).
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
    # Of several energies an image has to name its unit.
    if not implied or text(dataset, "MultienergyCTAcquisition") == "YES":
        return False
    mapped = _mapped(dataset, *groups)
    return not mapped or _UCUM_HU in mapped


def _uptake(dataset: Dataset, own: Dataset, shared: Dataset, line: Rescale) -> Rescale:
    """SUV where the header has all that it takes, the stored quantity otherwise."""
    mapped = _mapped(dataset, own, shared)
    for unit, mapping in mapped.items():
        if unit in _UCUM_SUV:
            return Rescale(*mapping, SUV)
    header = _together(dataset, own, shared)
    units = text(header, "Units") or line.unit
    for unit, mapping in mapped.items():
        if unit in _UCUM_ACTIVITY and units != "BQML":
            line, units = Rescale(*mapping, "BQML"), "BQML"
    factor = suv_factor(header, units)
    if factor is None:
        return replace(line, unit=units)
    return Rescale(line.slope * factor, line.intercept * factor, SUV)


def _together(dataset: Dataset, own: Dataset, shared: Dataset) -> Dataset:
    """The attributes of a frame, of all frames and of the object, as one: a converted object
    keeps those that have no place of their own in its groups (PS3.3 C.7.6.16.2.25)."""
    parts = (
        dataset,
        *items(shared, "UnassignedSharedConvertedAttributesSequence")[:1],
        *items(own, "UnassignedPerFrameConvertedAttributesSequence")[:1],
    )
    if len(parts) == 1:
        return dataset
    together = Dataset()
    for part in parts:
        together.update(part)
    return together


def _mapped(dataset: Dataset, own: Dataset, shared: Dataset) -> dict[str, tuple[float, float]]:
    """Real world values by their unit in UCUM: slope and intercept of those that lie on a line."""
    keyword = "RealWorldValueMappingSequence"
    found = {}
    for mapping in items(own, keyword) or items(shared, keyword) or items(dataset, keyword):
        code = first_item(mapping, "MeasurementUnitsCodeSequence")
        slope = number(mapping, "RealWorldValueSlope")
        intercept = number(mapping, "RealWorldValueIntercept")
        unit = text(code, "CodeValue")
        if unit and slope and intercept is not None:
            found[unit] = (slope, intercept)
    return found


def _named(dataset: Dataset, keyword: str) -> str:
    """The unit that a rescale or a table names, "" for none and for "unspecified"."""
    named = text(dataset, keyword).upper()
    return "" if named in ("US", "UNSPECIFIED") else named


def _stated(dataset: Dataset, keyword: str) -> bool:
    return value_of(dataset, keyword) not in (None, "")


def _malformed(dataset: Dataset, keyword: str) -> bool:
    """True where the element is there, not empty, and cannot be converted."""
    if keyword not in dataset:
        return False
    try:
        _ = dataset[keyword].value
    except Exception:  # pydicom raises many kinds on malformed values
        return True
    return False
