"""What the engine answered for a slice, small enough to be kept for slices equal to it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsseg.serve.engine import Prediction
from wsseg.serve.segmented import Segmented


@dataclass(frozen=True)
class Answer:
    """pixel, border: (class,) as in `Areas`. foreground: pixels. labels: packed, see `pack`."""

    pixel: NDArray[np.int64]
    border: NDArray[np.bool_]
    foreground: int
    labels: NDArray[np.uint8] | None

    def store(self, found: Segmented, index: int) -> None:
        """Put the answer where slice `index` of a scan keeps it."""
        found.areas.pixel[index] = self.pixel
        found.areas.border[index] = self.border
        found.areas.foreground[index] = self.foreground
        if found.labels is not None and self.labels is not None:
            found.labels[index] = unpack(self.labels, found.labels.shape[1:])


def answers_of(prediction: Prediction, *, keep_labels: bool) -> list[Answer | None]:
    """The answer for each slice of a batch; None where the network's numbers are not finite."""
    masks = prediction.masks
    edges = (masks[..., 0, :], masks[..., -1, :], masks[..., :, 0], masks[..., :, -1])
    border = np.logical_or.reduce([edge.any(-1) for edge in edges])
    finite = np.logical_and.reduce(np.isfinite(prediction.soft_areas), axis=-1)
    return [
        Answer(
            pixel=prediction.pixel_areas[place].copy(),
            border=border[place],
            foreground=int(np.count_nonzero(np.bitwise_or.reduce(masks[place], axis=0))),
            labels=pack(_labels(masks[place]), len(masks[place])) if keep_labels else None,
        )
        if finite[place]
        else None
        for place in range(len(masks))
    ]


def _labels(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class numbers (row, column) of masks (class, row, column); the later class is drawn."""
    labels: NDArray[np.uint8] = masks[0].copy()
    for number, mask in enumerate(masks[1:], start=2):
        labels[mask > 0] = number
    return labels


def pack(labels: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
    """A label map (row, column) of class numbers up to `classes` in as few bits as they need."""
    planes = [np.packbits(labels >> bit & 1) for bit in range(classes.bit_length())]
    return np.stack(planes)


def unpack(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The label map (row, column) that was packed."""
    size = int(np.prod(shape))
    flat = np.zeros(size, np.uint8)
    for bit, plane in enumerate(packed):
        flat |= np.unpackbits(plane, count=size) << bit
    return flat.reshape(shape)
