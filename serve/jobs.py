"""Scans that are being measured, and the slices that the engine has yet to see."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import ScanRef
from wsseg.serve.answers import Answer
from wsseg.serve.cut import Known, Recovered, recover
from wsseg.serve.look import Looked
from wsseg.serve.segmented import Areas, Segmented


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
