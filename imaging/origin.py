"""What a file says of its pixels besides their values: modality, unit, and whether they have
colours."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.scan import Scan

# By modality, the unit of its values, and the flag of a scan whose values are not in it.
UNITS = {"CT": ("HU", "NOT_HU"), "PT": ("SUV", "NOT_SUV")}
NO_UNIT = "none"
# Both are single X-ray exposures; DICOM names them by the detector.
RADIOGRAPHY = ("CR", "DX")
# "Other", and what a screen was captured on, name no way to make an image.
NAMELESS = ("OT", "SC")
# A pixel has a colour where its channels differ by this part of the largest value, and a picture
# where this part of its pixels do: a coloured scale or logo makes no colour picture.
COLOURED = 0.1
COLOURED_PIXELS = 0.05

Colours = Literal["grey", "colour"]


@dataclass(frozen=True)
class Origin:
    """modality: DICOM's code, "" where the file names none, as no picture and no NIfTI file does.

    unit: "HU", "SUV", "none" for CT and PET whose values are in neither, "" where the file does
    not say.
    """

    modality: str = ""
    unit: str = ""


def scan_origin(scan: Scan) -> Origin:
    """What the headers of a scan say."""
    named = "" if scan.modality in NAMELESS else scan.modality
    modality = RADIOGRAPHY[0] if named in RADIOGRAPHY else named
    unit, missing = UNITS.get(modality, ("", ""))
    return Origin(modality, NO_UNIT if missing in scan.flags else unit)


def colours_of(pixels: NDArray[np.float32]) -> Colours:
    """Whether a picture (row, column[, 3]) has colours worth the name."""
    if pixels.ndim == 2:
        return "grey"
    differ = np.ptp(pixels, axis=-1) > COLOURED * pixels.max()
    return "colour" if differ.mean() > COLOURED_PIXELS else "grey"
