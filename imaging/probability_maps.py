"""Probability maps on the grid of their image."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsseg.imaging.files import atomic
from wsseg.imaging.label_maps import on_stored_grid, safe_name, save_nifti
from wsseg.imaging.scan import Scan

ProbabilityType = Literal["float32", "uint8"]
FULL = 255
"""The value of an 8-bit map that stands for a probability of 1."""


def write_probability(
    scan: Scan,
    probability: NDArray[np.float32],
    folder: Path,
    *,
    kind: ProbabilityType = "float32",
    description: str = "probability of a class",
) -> list[Path]:
    """Write the probability (slice, class, row, column), 0..1, of each class on the scan's grid.

    One file for each class, whose name ends in `.p` and the number of the class, from 1. All but
    pictures become NIfTI, placed like label maps; pictures become TIFF. uint8: the probability
    times 255, rounded; NIfTI files have the factor 1/255 in their header, so that readers see 0..1
    again, and pictures are PNG if they have one page.
    """
    paths = []
    for number, values in enumerate(np.moveaxis(probability, 1, 0), start=1):
        picture = ".png" if kind == "uint8" and len(values) == 1 else ".tif"
        suffix = picture if scan.ref.kind == "picture" else ".nii.gz"
        path = folder / f"{safe_name(scan, suffix=suffix)}.p{number}{suffix}"
        stored = np.rint(values * FULL).astype(np.uint8) if kind == "uint8" else values
        with atomic(path) as partial:
            if scan.ref.kind == "picture":
                first, *others = [Image.fromarray(plane) for plane in stored]
                if suffix == ".png":
                    first.save(partial, format="PNG")
                else:
                    tiff = {"compression": "tiff_adobe_deflate", "save_all": True}
                    first.save(partial, format="TIFF", append_images=others, **tiff)
            else:
                voxels, header = on_stored_grid(scan, stored)
                header.set_data_dtype(kind)
                slope = 1 / FULL if kind == "uint8" else None
                save_nifti(voxels, header, partial, description, slope=slope)
        paths.append(path)
    return paths
