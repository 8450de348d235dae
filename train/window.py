"""How raw intensities become 0..1, chosen from the training images."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Window
from wsseg.imaging.intensity import Ends, range_of, without_odd
from wsseg.imaging.slices import read_slice
from wsseg.train.case import Case

logger = logging.getLogger(__name__)

# Images that are looked at, evenly spread over the table, and pixels of each.
IMAGES = 64
PIXELS = 1 << 16
READERS = 4

BYTE = Window(kind="fixed", low=0.0, high=255.0)
PERCENTILES = (0.5, 99.5)
# Values this low are Hounsfield units of air: a scale without units has no such values.
AIR = -500.0
# Images on one scale have bright ends that are nearly alike; without a unit, such as in MR, the
# gain of the scanner moves them apart. Where it is unclear, each image's own window is the safer.
GAIN = 1.5
# Share of images on either side that may be odd while the others are still the rule.
MANY_ODD = 0.1


def choose_input(
    cases: Sequence[Case], *, window: Window | None = None, channels: int | None = None
) -> tuple[Window, int]:
    """The intensity window and the number of channels (1 or 3) that suit these images.

    window, channels: as the settings say; None leaves the choice to the images. Whole numbers
    within 0..255, which 8-bit pictures hold: 0..255. Otherwise the 0.5 to 99.5 percentile of all
    images together if they share a scale, see `share_scale`; few images far outside the range of
    the others do not count. If they share none, each image's own window. 3 channels only if an
    image has colours. At most IMAGES images are looked at.
    """
    places = np.linspace(0, len(cases) - 1, min(IMAGES, len(cases))).round().astype(int)
    chosen = [cases[place] for place in places]
    with ThreadPoolExecutor(READERS) as pool:
        slices = list(pool.map(_read, chosen))
    seen_channels = 3 if any(pixels.ndim == 3 for pixels in slices) else 1
    seen_window, reason = _choose_window([_thinned(pixels) for pixels in slices])
    used, used_channels = window or seen_window, channels or seen_channels
    logger.info(
        "input: %d channel%s, window %s (%s)",
        used_channels,
        "s" if used_channels > 1 else "",
        f"{used.low:g}..{used.high:g}" if used.kind == "fixed" else "of each image",
        f"{reason}, seen on {len(chosen)} images" if window is None else "as the settings say",
    )
    return used, used_channels


def share_scale(images: Sequence[Ends]) -> bool:
    """Whether images of these ends are on one scale.

    Most lie within 0..255 as 8-bit pictures do, or some hold Hounsfield units of air, or their
    bright ends agree: the 90 % highest is at most GAIN times the 10 % highest.
    """
    usual = range_of(images, odd=MANY_ODD)
    if usual is None:
        return False
    if BYTE.low <= usual.low and GAIN < usual.high <= BYTE.high:
        return True
    return usual.low <= AIR or _agree([image.high for image in images])


def _agree(bright: Sequence[float]) -> bool:
    dimmest, brightest = np.percentile(bright, (10, 90))
    return bool(0 < brightest <= GAIN * dimmest)


def _read(case: Case) -> NDArray[np.float32]:
    return read_slice(case.image, slice_index=case.slice_index, volume=case.volume)


def _thinned(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Evenly spaced values, so that large images cost no more than small ones."""
    values = pixels.ravel()
    return values[:: max(1, len(values) // PIXELS)]


def _choose_window(samples: Sequence[NDArray[np.float32]]) -> tuple[Window, str]:
    # A few images in another unit or bit depth would stretch the window of all.
    values = np.concatenate(without_odd(samples, odd=MANY_ODD))
    if values.min() >= BYTE.low and values.max() <= BYTE.high and np.all(values == values.round()):
        return BYTE, "8-bit values"
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    bright = [float(np.percentile(sample, PERCENTILES[1])) for sample in samples]
    if low < high and (low <= AIR or _agree(bright)):
        return Window(kind="fixed", low=low, high=high), "percentiles of one common scale"
    return Window(kind="image"), "images differ in scale"
