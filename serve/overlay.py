"""Overlays: each slice with its regions tinted and outlined."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsseg.imaging.definitions import Window, grey_values, label_colours
from wsseg.imaging.files import atomic
from wsseg.imaging.label_maps import safe_name
from wsseg.serve.measure import MeasuredScan

TINT = 0.35
PNG_LEVEL = 1  # a quarter of the time of the default level, for files a tenth larger


def write_overlays(measured: MeasuredScan, window: Window, folder: Path) -> None:
    """Write one PNG for each slice of a scan, at the slice's own grid.

    A class has the same colour everywhere; more than seven classes share colours. A file name is
    `safe_name` of the scan for a PNG (so x.png and x.nii.gz stay apart) and the index of the slice.
    Raises ValueError for a scan without label maps.
    """
    labels = measured.labels
    if labels is None:
        raise ValueError("labels were not kept for this scan")
    name = safe_name(measured.scan, suffix=".png")
    for index, pixels in enumerate(measured.scan.pixels):
        with atomic(folder / f"{name}-{index:04d}.png") as partial:
            drawn = Image.fromarray(overlay(pixels, labels[index], window))
            drawn.save(partial, compress_level=PNG_LEVEL)


def overlay(
    pixels: NDArray[np.float32], labels: NDArray[np.uint8], window: Window
) -> NDArray[np.uint8]:
    """A windowed slice (row, column, 3), regions tinted, their outermost pixels in full colour."""
    shown = grey_values(pixels, window) * np.float32(255)
    drawn: NDArray[np.uint8] = np.rint(shown).astype(np.uint8)
    if shown.ndim == 2:
        drawn, shown = np.repeat(drawn[..., None], 3, axis=-1), shown[..., None]
    inside = labels > 0
    colour = label_colours(labels[inside]).astype(np.float32)
    weight = np.where(outline(labels)[inside], 1.0, TINT)[:, None]
    drawn[inside] = np.rint(shown[inside] + weight * (colour - shown[inside]))
    return drawn


def outline(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of a region with a side neighbour of another label, or at the picture's edge."""
    around = np.pad(labels, 1)
    inner = around[1:-1, 1:-1]
    neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    differs = np.logical_or.reduce([inner != neighbour for neighbour in neighbours])
    edge: NDArray[np.bool_] = differs & (labels > 0)
    return edge
