"""How long a pixel of a TIFF is, where its writer knows: ImageJ, OME, or a resolution in cm."""

import math
from typing import TYPE_CHECKING, Any

from wsseg.imaging.picture_page import UNKNOWN_LENGTHS, Lengths

if TYPE_CHECKING:
    from tifffile import TiffFile

# Millimetres of a unit as ImageJ and OME write it. What is not here (pixel, reference frame) is
# no length.
UNITS_MM = {
    "m": 1000.0, "dm": 100.0, "cm": 10.0, "mm": 1.0, "nm": 1e-6, "pm": 1e-9,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "\\u00b5m": 1e-3, "micron": 1e-3, "microns": 1e-3,
    "micrometer": 1e-3, "micrometre": 1e-3, "millimeter": 1.0, "millimetre": 1.0,
    "in": 25.4, "inch": 25.4, "inches": 25.4, "centimeter": 10.0, "centimetre": 10.0, "å": 1e-7,
}  # fmt: skip
# Programs that write the size of what is pictured. A resolution in inches, or of any other
# program, is that of a screen or of paper.
_WRITERS = ("tifffile", "imagej", "fiji", "ome bio-formats", "scifio", "metamorph", "zen", "leica")
_CENTIMETRE = 3
_TYPOGRAPHIC_DPI = (72, 96, 100, 120, 144, 150, 180, 200, 240, 250, 300, 360, 400, 600, 720, 1200)
_DPI_TOLERANCE = 0.005
_MM_PER_CM, _MM_PER_INCH = 10.0, 25.4


def tiff_lengths(file: "TiffFile") -> Lengths:
    """The lengths that a TIFF states as those of what it shows; screens' and printers' are none."""
    if file.is_ome:
        return _ome(file.ome_metadata or "")
    if file.is_imagej:
        return _imagej(file)
    return _resolution(file)


def _ome(text: str) -> Lengths:
    from xml.etree import ElementTree

    root = ElementTree.fromstring(text)
    pixels = next((node for node in root.iter() if node.tag.endswith("Pixels")), None)
    if pixels is None:
        return UNKNOWN_LENGTHS
    x, y, z = (
        _length(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "XYZ"
    )
    return Lengths((y, x) if x and y else None, z)


def _imagej(file: "TiffFile") -> Lengths:
    stated: dict[str, Any] = file.imagej_metadata or {}
    unit = str(stated.get("unit", ""))
    across, down = _per_unit(file)
    if not (across and down):
        return UNKNOWN_LENGTHS
    per_cm = _MM_PER_CM / UNITS_MM.get(unit.strip().lower(), math.inf)
    if any(_typographic(per_unit * per_cm) for per_unit in (across, down)):
        return UNKNOWN_LENGTHS
    x = _length(1 / across, unit)
    y = _length(1 / down, str(stated.get("yunit", unit)))
    z = _length(stated.get("spacing"), str(stated.get("zunit", unit)))
    return Lengths((y, x) if x and y else None, abs(z) if z else None)


def _resolution(file: "TiffFile") -> Lengths:
    page: Any = file.pages.first
    software = str(page.software).lower()
    across, down = _per_unit(file)
    unit = int(page.tags.valueof(296, 2))
    if unit != _CENTIMETRE or not software.startswith(_WRITERS) or not (across and down):
        return UNKNOWN_LENGTHS
    if any(_typographic(per_cm) for per_cm in (across, down)):
        return UNKNOWN_LENGTHS
    return Lengths((_MM_PER_CM / down, _MM_PER_CM / across))


def _typographic(per_cm: float) -> bool:
    dpi = per_cm * _MM_PER_INCH / _MM_PER_CM
    return any(abs(dpi - usual) <= _DPI_TOLERANCE * usual for usual in _TYPOGRAPHIC_DPI)


def _per_unit(file: "TiffFile") -> tuple[float | None, float | None]:
    """Columns and rows a unit of length."""
    page: Any = file.pages.first
    across, down = (_fraction(page.tags.valueof(code)) for code in (282, 283))
    return across, down


def _fraction(value: Any) -> float | None:
    if not isinstance(value, tuple) or len(value) != 2 or not value[0] or not value[1]:
        return None
    return float(value[0] / value[1])


def _length(value: Any, unit: str) -> float | None:
    """A stated length in mm; None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    scale = UNITS_MM.get(unit.strip().lower())
    if scale is None or not math.isfinite(number) or number <= 0:
        return None
    return number * scale
