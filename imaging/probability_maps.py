"""Probability maps on the grid of their image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsseg.imaging.files import atomic
from wsseg.imaging.label_maps import safe_name
from wsseg.imaging.nifti_writer import NiftiHeader, save_nifti
from wsseg.imaging.scan import Scan

ProbabilityType = Literal["float32", "uint8"]
FULL = 255
"""The value of an 8-bit map that stands for a probability of 1."""
# The float32 below 1/255: the nearest one would let readers see more than 1.
SLOPE = float(np.nextafter(np.float32(1 / FULL), np.float32(0)))


def stored_probability(probability: NDArray[np.float32], kind: ProbabilityType) -> NDArray[Any]:
    """A probability, 0..1, in the type of its map: a copy, or rounded to whole numbers of 1/255."""
    if kind == "float32":
        return probability.copy()
    whole: NDArray[np.uint8] = np.rint(probability * np.float32(FULL)).astype(np.uint8)
    return whole


def write_probability(
    scan: Scan,
    probability: NDArray[Any],
    folder: Path,
    *,
    descriptions: Sequence[str],
) -> list[Path]:
    """Write the probability (slice, class, row, column) of each class on the scan's own grid.

    probability: as `stored_probability` gives it, 0..1 in float32 or 0..255 in uint8. One file for
    each class, whose name ends in `.p` and the number of the class, from 1. All but pictures become
    NIfTI, placed like label maps, and 8-bit ones have the factor 1/255 in their header, so that
    readers see 0..1 again. Pictures become TIFF; 8-bit ones of one page PNG. descriptions: of each
    class, for the header.
    """
    eight_bits = probability.dtype == np.uint8
    one_page = len(probability) == 1
    picture = ".png" if eight_bits and one_page else ".tif"
    suffix = picture if scan.ref.kind == "picture" else ".nii.gz"
    name = safe_name(scan, suffix=suffix)
    paths = []
    for number, description in enumerate(descriptions, start=1):
        values = probability[:, number - 1]
        path = folder / f"{name}.p{number}{suffix}"
        with atomic(path) as partial:
            if suffix == ".nii.gz":
                about = NiftiHeader(description, slope=SLOPE if eight_bits else 1.0)
                save_nifti(scan, values, partial, about)
            elif suffix == ".png":
                Image.fromarray(values[0]).save(partial, format="PNG")
            else:
                first, *others = [Image.fromarray(plane) for plane in values]
                tiff = {"compression": "tiff_adobe_deflate", "save_all": True}
                first.save(partial, format="TIFF", append_images=others, **tiff)
        paths.append(path)
    return paths
