"""The pixel size that a user gives for pictures that do not know theirs."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from wsseg.imaging.scan import Scan

GIVEN = "PIXEL_MM_GIVEN"


def _as_pair(value: Any) -> Any:
    """One length for both directions, or ROW,COLUMN, from the text of an option."""
    if not isinstance(value, str):
        return value
    parts = value.split(",")
    try:
        lengths = [float(part) for part in parts]
    except ValueError:
        lengths = []
    if len(lengths) not in (1, 2):
        raise ValueError(f"{value} is no pixel size: write one length in mm, or ROW,COLUMN")
    return (lengths[0], lengths[-1])


Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PixelSize = Annotated[tuple[Length, Length], BeforeValidator(_as_pair)]
"""(row, column) distance of neighbouring pixels in mm."""


def with_pixel_size(scan: Scan, pixel_mm: tuple[float, float] | None) -> Scan:
    """The scan; a picture without a length of its own takes `pixel_mm`, (row, column), flagged."""
    known = scan.ref.kind != "picture" or scan.geometry.pixel_mm is not None
    if pixel_mm is None or known:
        return scan
    geometry = replace(scan.geometry, pixel_mm=pixel_mm)
    return replace(scan, geometry=geometry, flags=(*scan.flags, GIVEN))
