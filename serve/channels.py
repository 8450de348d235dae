"""Grey or colour slices as the channels that a network takes."""

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import luminance
from wsseg.imaging.scan import Scan

LUMINANCE = "LUMINANCE"
GREY_AS_RGB = "GREY_AS_RGB"


def channel_flags(scan: Scan, channels: int) -> tuple[str, ...]:
    """What `to_channels` does to a scan, as a flag of the report; nothing where it fits."""
    rgb = scan.pixels.ndim == 4
    if rgb and channels == 1:
        return (LUMINANCE,)
    return (GREY_AS_RGB,) if not rgb and channels == 3 else ()


def to_channels(pixels: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """One slice, (row, column) or (row, column, 3), as the (channel, row, column) of a network.

    RGB becomes its luminance for a grey network; grey is repeated for an RGB network.
    """
    if pixels.ndim == 3:
        return luminance(pixels)[None] if channels == 1 else np.moveaxis(pixels, -1, 0)
    return np.broadcast_to(pixels, (channels, *pixels.shape))
