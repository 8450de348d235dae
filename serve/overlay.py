"""Pictures to look at: each slice with its regions tinted and outlined."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsseg.imaging.atomic import atomic
from wsseg.imaging.definitions import Window
from wsseg.imaging.labels import safe_name
from wsseg.serve.segmented import Segmented

# Okabe and Ito's palette, told apart with any colour vision; black and grey are left out.
COLOURS = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ],
    np.float32,
)
TINT = 0.35
PNG_LEVEL = 1  # a quarter of the time of the default level, for files a tenth larger
SPREAD = 3.0  # standard deviations that an "image" window reaches to either side


def write_overlays(found: Segmented, window: Window, folder: Path) -> None:
    """One PNG for each slice of a scan whose labels were kept, at the slice's own grid.

    A class has the same colour everywhere; more than seven classes share colours. File names are
    `safe_name` of the scan for a PNG (so x.png and x.nii.gz stay apart) and the slice's number,
    from 0.
    """
    labels = found.labels
    if labels is None:
        raise ValueError("labels were not kept for this scan")
    name = safe_name(found.scan, suffix=".png")
    for index, pixels in enumerate(found.scan.pixels):
        with atomic(folder / f"{name}-{index:04d}.png") as partial:
            drawn = Image.fromarray(overlay(pixels, labels[index], window))
            drawn.save(partial, compress_level=PNG_LEVEL)


def overlay(
    pixels: NDArray[np.float32], labels: NDArray[np.uint8], window: Window
) -> NDArray[np.uint8]:
    """A windowed slice (row, column, 3), regions tinted, their outermost pixels in full colour."""
    shown = windowed(pixels, window)
    drawn: NDArray[np.uint8] = np.rint(shown).astype(np.uint8)
    if shown.ndim == 2:
        drawn, shown = np.repeat(drawn[..., None], 3, axis=-1), shown[..., None]
    inside = labels > 0
    colour = COLOURS[(labels[inside].astype(np.intp) - 1) % len(COLOURS)]
    weight = np.where(outline(labels)[inside], 1.0, TINT)[:, None]
    drawn[inside] = np.rint(shown[inside] + weight * (colour - shown[inside]))
    return drawn


def windowed(pixels: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
    """Intensities as 0..255 through the window that the network sees them through."""
    finite = np.nan_to_num(pixels)
    low, high = window.low, window.high
    if window.kind == "image":
        middle, reach = float(finite.mean()), SPREAD * float(finite.std())
        low, high = middle - reach, middle + reach
    # A picture of one value has no spread: any width shows it as one grey.
    scaled = (finite - low) / ((high - low) or 1.0)
    shown: NDArray[np.float32] = np.clip(scaled, 0, 1).astype(np.float32) * np.float32(255)
    return shown


def outline(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of a region with a side neighbour of another label, or at the picture's edge."""
    around = np.pad(labels, 1)
    inner = around[1:-1, 1:-1]
    neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    differs = np.logical_or.reduce([inner != neighbour for neighbour in neighbours])
    edge: NDArray[np.bool_] = differs & (labels > 0)
    return edge
