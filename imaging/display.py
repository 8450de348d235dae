"""How slices and classes look to a person: the grey values and the colours of every picture."""

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import SPAN_SD, Window

# Colours that colour-blind readers tell apart. Source: Okabe and Ito, Color Universal Design, 2008.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
CLASS_COLOURS = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE)
"""Of the classes in their order; an eighth class has the colour of the first again."""
_RGB = np.array([list(bytes.fromhex(colour[1:])) for colour in CLASS_COLOURS], np.uint8)
_PERCENTILES = (1, 99)


def class_colour(class_index: int) -> str:
    """The colour "#RRGGBB" of a class (0-based) in every picture."""
    return CLASS_COLOURS[class_index % len(CLASS_COLOURS)]


def label_colours(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The colours (..., 3), RGB 0..255, of labels (...) from 1 on: label 1 is class 0.

    The background, 0, has none: what is returned for it means nothing.
    """
    colours: NDArray[np.uint8] = _RGB[(labels.astype(np.intp) - 1) % len(_RGB)]
    return colours


def grey_values(pixels: NDArray[np.float32], window: Window | None = None) -> NDArray[np.float32]:
    """Intensities of a slice, of any shape, as 0 (black) to 1 (white).

    window: that of a network, to see what it sees; without one, the 1st to 99th percentile. What
    is not finite counts as 0, and a slice of one value is shown as one grey.
    """
    sound = np.where(np.isfinite(pixels), pixels, np.float32(0))
    if window is None:
        low, high = (float(value) for value in np.percentile(sound, _PERCENTILES))
    elif window.kind == "fixed":
        low, high = window.low, window.high
    else:
        middle, reach = float(sound.mean()), SPAN_SD * float(sound.std())
        low, high = middle - reach, middle + reach
    shown: NDArray[np.float32] = np.clip((sound - low) / ((high - low) or 1.0), 0, 1)
    return shown.astype(np.float32)
