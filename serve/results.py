"""Results of slices and scans: areas, label maps, and the files that have none."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import Scan, ScanRef
from wsseg.serve.engines.base import Prediction
from wsseg.serve.recover import Recovered


@dataclass(frozen=True)
class Areas:
    """Areas on the slices of a scan.

    pixel: (slice, class) pixels of each class's mask. border: (slice, class) whether the mask
    touches the edge of the image. foreground: (slice,) pixels that belong to any class.
    """

    pixel: NDArray[np.int64]
    border: NDArray[np.bool_]
    foreground: NDArray[np.int64]


@dataclass(frozen=True)
class MeasuredScan:
    """A scan with all of its slices measured.

    labels: (slice, row, column) labels 1..k, or 0; where classes overlap the later one wins, while
    `areas` come from each class's own mask. None where no label maps were asked for. recovered:
    masks of recorded ratios; None where no ratio is recorded for any slice. skipped: indices of the
    slices that cannot show tissue, whose areas are 0 without having been computed. outside: indices
    of the slices whose values lie outside the range that the model was trained on.
    """

    scan: Scan
    areas: Areas
    labels: NDArray[np.uint8] | None
    recovered: Recovered | None = None
    skipped: frozenset[int] = frozenset()
    outside: frozenset[int] = frozenset()

    def nbytes(self) -> int:
        """Bytes of the pixels and of the label maps."""
        maps = (self.labels, self.recovered.labels if self.recovered else None)
        return self.scan.pixels.nbytes + sum(each.nbytes for each in maps if each is not None)


@dataclass(frozen=True)
class SliceResult:
    """The result of one slice, small enough to be kept for slices that equal it.

    pixel, border: (class,) as in `Areas`. foreground: pixels. labels: packed label map, see `pack`.
    """

    pixel: NDArray[np.int64]
    border: NDArray[np.bool_]
    foreground: int
    labels: NDArray[np.uint8] | None

    def store(self, measured: MeasuredScan, index: int) -> None:
        """Write the result into slice `index` of a scan."""
        measured.areas.pixel[index] = self.pixel
        measured.areas.border[index] = self.border
        measured.areas.foreground[index] = self.foreground
        if measured.labels is not None and self.labels is not None:
            measured.labels[index] = unpack(self.labels, measured.labels.shape[1:])


def slice_results(prediction: Prediction, *, keep_labels: bool) -> list[SliceResult | None]:
    """The result of each slice of a batch; None where the network's numbers are not finite."""
    masks = prediction.masks
    edges = (masks[..., 0, :], masks[..., -1, :], masks[..., :, 0], masks[..., :, -1])
    border = np.logical_or.reduce([edge.any(-1) for edge in edges])
    finite = np.logical_and.reduce(np.isfinite(prediction.soft_areas), axis=-1)
    results: list[SliceResult | None] = []
    for index in range(len(masks)):
        if not finite[index]:
            results.append(None)
            continue
        packed = None
        if keep_labels:
            labels = masks[index, 0].copy()
            for label, mask in enumerate(masks[index, 1:], start=2):
                labels[mask > 0] = label
            packed = pack(labels, masks.shape[1])
        foreground = int(np.count_nonzero(np.bitwise_or.reduce(masks[index], axis=0)))
        pixel = prediction.pixel_areas[index].copy()
        results.append(SliceResult(pixel, border[index], foreground, packed))
    return results


def pack(labels: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
    """A label map (row, column) with labels up to `classes`, in as few bits as they need."""
    planes = [np.packbits(labels >> bit & 1) for bit in range(classes.bit_length())]
    return np.stack(planes)


def unpack(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The label map (row, column) that `pack` packed."""
    size = int(np.prod(shape))
    flat = np.zeros(size, np.uint8)
    for bit, plane in enumerate(packed):
        flat |= np.unpackbits(plane, count=size) << bit
    return flat.reshape(shape)


def failed_files(
    ref: ScanRef, reason: str, message: str, earlier: tuple[Failure, ...] = ()
) -> tuple[Failure, ...]:
    """One Failure for every file of a scan; `earlier` are files that have failed before."""
    sources = {failure.source for failure in earlier}
    rest = (file.source for file in ref.files if file.source not in sources)
    return (*earlier, *(Failure(source, reason, message) for source in rest))
