"""Scans that are being measured, and the slices that the engine has yet to see."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import Scan, ScanRef
from wsseg.serve.empty_slices import Looked
from wsseg.serve.engines.base import Prediction
from wsseg.serve.recover import Known, Recovered, recover

# A scan whose slices are measured: what batching hands on to tables and pictures.


@dataclass(frozen=True)
class Areas:
    """pixel, border: (slice, class); foreground: (slice,) pixels that carry any class.

    pixel counts each mask's pixels, border tells whether the mask touches the picture's edge.
    """

    pixel: NDArray[np.int64]
    border: NDArray[np.bool_]
    foreground: NDArray[np.int64]


@dataclass(frozen=True)
class Segmented:
    """A scan with all of its slices measured.

    labels: (slice, row, column) class number 1..k or 0; where classes overlap the later one wins,
    while `areas` come from each class's own mask. None where nobody asked for them. recovered:
    masks cut to ratios that are on file; None where there is no ratio for any slice. skipped:
    numbers of the slices that cannot show tissue, whose areas are 0 without having been computed.
    outside: numbers of the slices whose values lie outside the range that the model was trained on.
    """

    scan: Scan
    areas: Areas
    labels: NDArray[np.uint8] | None
    recovered: Recovered | None = None
    skipped: frozenset[int] = frozenset()
    outside: frozenset[int] = frozenset()

    def nbytes(self) -> int:
        """Bytes of pixels and label maps that are held."""
        maps = (self.labels, self.recovered.labels if self.recovered else None)
        return self.scan.pixels.nbytes + sum(found.nbytes for found in maps if found is not None)


# What the engine answered for a slice, small enough to be kept for slices equal to it.


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


@dataclass
class Job:
    """A scan being measured. left: slices without an answer; grouped: of these, not yet sent."""

    found: Segmented
    known: Known
    left: int
    grouped: int = 0
    failures: tuple[Failure, ...] = ()

    def nbytes(self) -> int:
        """Bytes that decide about batches. Recovered maps, a quarter more at most, are left out:
        slices that shared another batch could differ in the last bit of what is measured."""
        return replace(self.found, recovered=None).nbytes()

    def fail(self, reason: str, message: str) -> None:
        """Give the scan up, for the first reason that is told."""
        scan = self.found.scan
        failed = failed_files(scan.ref, reason, message, known=scan.failures)
        self.failures = self.failures or failed

    def recover(self, index: int, probability: NDArray[np.float32]) -> None:
        """Cut what is on file for a slice out of its probability (k, row, column)."""
        recovered = self.found.recovered
        if recovered and not self.failures:
            labels, masks = recover(probability, self.known[index])
            recovered.labels[index], recovered.masks[index] = labels, masks


def new_job(item: Looked, known: Known, classes: int, *, keep_labels: bool) -> Job:
    """A scan with nothing measured yet; label maps only where they are kept or recovered."""
    grid = item.scan.pixels.shape[:3]
    per_class = (grid[0], classes)
    areas = Areas(
        pixel=np.zeros(per_class, np.int64),
        border=np.zeros(per_class, np.bool_),
        foreground=np.zeros(grid[0], np.int64),
    )
    labels = np.zeros(grid, np.uint8) if keep_labels else None
    recovered = Recovered(np.zeros(grid, np.uint8)) if known else None
    found = Segmented(item.scan, areas, labels, recovered, item.empty, item.outside)
    return Job(found, known, grid[0])


Place = tuple[Job, int]


@dataclass
class Slot:
    """One slice for the engine, and all places, in one scan or several, where it was met.

    sent: whether the engine was asked already. The answer stays None where it fails.
    """

    digest: bytes
    places: list[Place] = field(default_factory=list)
    sent: bool = False
    answer: Answer | None = None

    @property
    def wanted(self) -> bool:
        """Whether any scan still waits for it."""
        return any(not job.failures for job, _ in self.places)

    @property
    def known(self) -> bool:
        """Whether a ratio is on file for it, in any of its places."""
        return any(index in job.known for job, index in self.places)

    def fail(self, reason: str, message: str) -> None:
        """Give up every scan that holds this slice."""
        for job, index in self.places:
            job.fail(reason, f"slice {index}: {message}")


def failed_files(
    ref: ScanRef, reason: str, message: str, known: tuple[Failure, ...] = ()
) -> tuple[Failure, ...]:
    """Every file of a scan without a result, each once; `known` are those that failed before."""
    told = {failure.source for failure in known}
    rest = (file.source for file in ref.files if file.source not in told)
    return (*known, *(Failure(source, reason, message) for source in rest))
