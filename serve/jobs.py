"""Scans that are being measured, and the slices that they wait for."""

from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import Failure
from wsseg.serve.measure import MeasuredScan, SliceResult, failed_files
from wsseg.serve.recover import Known, recover

# Of the objects that make one result, without its label map; rounded up.
RESULT_BYTES = 1024


@dataclass
class Job:
    """A scan being measured.

    known: recorded ratios of its slices. left: slices without a result. grouped: those of them that
    wait for a batch.
    """

    measured: MeasuredScan
    known: Known
    left: int
    grouped: int = 0
    failures: tuple[Failure, ...] = ()

    def nbytes(self) -> int:
        """Bytes that decide about batches.

        Recovered label maps, a quarter more at most, are left out: slices in another batch could
        differ in the last bit of what is measured.
        """
        return replace(self.measured, recovered=None).nbytes()

    def fail(self, reason: str, message: str) -> None:
        """Give the scan up; only the first reason is reported."""
        scan = self.measured.scan
        self.failures = self.failures or failed_files(scan.ref, reason, message, scan.failures)

    def recover(self, index: int, probability: NDArray[np.float32]) -> None:
        """Recover the masks of one slice from its probability (k, row, column)."""
        recovered = self.measured.recovered
        if recovered and not self.failures:
            labels, masks = recover(probability, self.known[index])
            recovered.labels[index], recovered.masks[index] = labels, masks


Position = tuple[Job, int]
"""A scan and the index of one of its slices."""


@dataclass
class UniqueSlice:
    """A slice to compute, and all positions, in one scan or several, that wait for its result.

    sent: whether the engine was asked already. result: stays None if the slice fails.
    """

    digest: bytes
    positions: list[Position] = field(default_factory=list)
    sent: bool = False
    result: SliceResult | None = None

    @property
    def wanted(self) -> bool:
        """Whether a scan that has not failed waits for the result."""
        return any(not job.failures for job, _ in self.positions)

    def fail(self, reason: str, message: str) -> None:
        """Give up every scan that has this slice."""
        for job, index in self.positions:
            job.fail(reason, f"slice {index}: {message}")


class ResultCache:
    """The latest slices by their digests, with the results that they have or will have.

    It holds up to `nbytes`, counted by sizes alone: the same slices in the same order are
    remembered in the same way, however fast the engine is.
    """

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes
        self._slices: OrderedDict[bytes, tuple[UniqueSlice, int]] = OrderedDict()

    def find(self, digest: bytes) -> UniqueSlice | None:
        """The slice with this digest, which is then the last one to be dropped."""
        if digest not in self._slices:
            return None
        self._slices.move_to_end(digest)
        return self._slices[digest][0]

    def add(self, one: UniqueSlice, label_bytes: int) -> None:
        """Remember a slice, whose packed label map has so many bytes; the oldest are dropped."""
        size = RESULT_BYTES + label_bytes
        self._slices[one.digest] = (one, size)
        self._left -= size
        while self._left < 0:
            _, (_, freed) = self._slices.popitem(last=False)
            self._left += freed

    def drop(self, one: UniqueSlice) -> None:
        """Let the next slice that equals this one be computed."""
        entry = self._slices.get(one.digest)
        if entry and entry[0] is one:
            self._left += self._slices.pop(one.digest)[1]
