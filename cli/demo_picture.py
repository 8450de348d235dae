"""The demo's picture: held-out slices with the true and the measured regions."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.cli.demo_data import CLASSES
from wsseg.imaging.display import label_colours

OPACITY = 150
SHOWN = (2, 8, 14)  # of the held-out slices


def draw(
    pixels: NDArray[np.float32], truth: NDArray[np.uint8], found: NDArray[np.uint8], path: Path
) -> None:
    """Write rows of scan, truth and result. All three (slice, row, column), one grid."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.2 * len(SHOWN)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(SHOWN), 3)
    for row, index in zip(axes, SHOWN, strict=True):
        for axis, labels in zip(row, (None, truth, found), strict=True):
            axis.imshow(pixels[index], cmap="gray")
            if labels is not None:
                opacity = OPACITY * (labels[index] > 0)
                axis.imshow(np.dstack((label_colours(labels[index]), opacity.astype(np.uint8))))
            axis.set_axis_off()
    for axis, title in zip(axes[0], ("scan", "truth", "wsseg"), strict=True):
        axis.set_title(title)
    names = ", ".join(name.replace("_", " ") for name in CLASSES)
    figure.suptitle(f"MNI152 template, held-out slices: {names} (orange, sky blue)", fontsize=10)
    figure.savefig(path, dpi=80)
