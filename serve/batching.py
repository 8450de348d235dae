"""Batches of equal-sized slices across scans, and each scan put together again, in order."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import Failure
from wsseg.imaging.scan import Scan, ScanRef
from wsseg.serve.channels import channel_flags, to_channels
from wsseg.serve.cut import Known, Recovered, recover
from wsseg.serve.engine import Engine, EngineError, Prediction
from wsseg.serve.segmented import Areas, Segmented

# 16 million pixels of float32 are 64 MiB a channel: enough to fill any processor.
MOST_PIXELS = 1 << 24

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """slices: in one batch, at most. scans, nbytes: that may wait for a batch to fill.

    Batches are formed by these numbers alone, never by the clock: the same scans in the same order
    make the same batches.
    """

    slices: int = 8
    scans: int = 64
    nbytes: int = 1 << 29


@dataclass
class _Job:
    found: Segmented
    known: Known
    left: int
    failures: tuple[Failure, ...] = ()

    def nbytes(self) -> int:
        """Bytes that decide about batches. Recovered maps, a quarter more at most, are left out:
        slices that shared another batch could differ in the last bit of what is measured."""
        return replace(self.found, recovered=None).nbytes()

    def fail(self, reason: str, message: str) -> None:
        scan = self.found.scan
        failed = failed_files(scan.ref, reason, message, known=scan.failures)
        self.failures = self.failures or failed


Place = tuple[_Job, int]
Shape = tuple[int, ...]


@dataclass
class Segmenter:
    """Runs an engine over scans; `on_slices` hears how many slices each batch finished.

    known: the ratios on file of a scan's slices. They change nothing that is measured; only a
    batch with such a slice asks the engine for its probability.
    """

    engine: Engine
    classes: int
    channels: int
    limits: Limits
    keep_labels: bool
    on_slices: Callable[[int], None] = lambda _: None
    known: Callable[[Scan], Known] = lambda _: {}
    _groups: dict[Shape, list[Place]] = field(default_factory=dict, init=False)
    _jobs: deque[_Job | Failure] = field(default_factory=deque, init=False)

    def __call__(self, scans: Iterable[Scan | Failure]) -> Iterator[Segmented | Failure]:
        """Scans measured, in their order; what failed before or here stays a Failure in its place.

        A batch that the engine cannot compute is halved until only the slices at fault are left:
        they cost their own scan its result and no other: a Failure for each of its files.
        """
        for item in scans:
            self._add(item)
            while self._waiting_too_long():
                self._flush(self._oldest())
                yield from self._finished()
            yield from self._finished()
        for shape in list(self._groups):
            self._flush(shape)
        yield from self._finished()

    def _add(self, item: Scan | Failure) -> None:
        if isinstance(item, Failure):
            self._jobs.append(item)
            return
        job = self._job(item)
        self._jobs.append(job)
        shape = job.found.scan.pixels.shape[1:]
        rows, columns = shape[:2]
        size = max(1, min(self.limits.slices, MOST_PIXELS // (rows * columns)))
        for index in range(job.left):
            group = self._groups.setdefault(shape, [])
            group.append((job, index))
            if len(group) == size:
                self._flush(shape)

    def _job(self, scan: Scan) -> _Job:
        count, *grid = scan.pixels.shape[:3]
        per_class = (count, self.classes)
        areas = Areas(
            pixel=np.zeros(per_class, np.int64),
            border=np.zeros(per_class, np.bool_),
            foreground=np.zeros(count, np.int64),
        )
        labels = np.zeros((count, *grid), np.uint8) if self.keep_labels else None
        known = self.known(scan)
        recovered = Recovered(np.zeros((count, *grid), np.uint8)) if known else None
        adapted = channel_flags(scan, self.channels)
        if adapted:
            scan = replace(scan, flags=(*scan.flags, *adapted))
        return _Job(Segmented(scan, areas, labels, recovered), known, count)

    def _waiting_too_long(self) -> bool:
        """Whether the oldest unfinished scan holds back more than the limits allow."""
        if not self._groups:
            return False
        held = sum(job.nbytes() for job in self._jobs if isinstance(job, _Job))
        return len(self._jobs) > self.limits.scans or held > self.limits.nbytes

    def _oldest(self) -> Shape:
        job = next(job for job in self._jobs if isinstance(job, _Job) and job.left)
        return job.found.scan.pixels.shape[1:]

    def _flush(self, shape: Shape) -> None:
        places = self._groups.pop(shape, [])
        self._run([place for place in places if not place[0].failures])
        for job, _ in places:
            job.left -= 1
        self.on_slices(len(places))

    def _run(self, places: list[Place]) -> None:
        if not places:
            return
        slices = [to_channels(job.found.scan.pixels[index], self.channels) for job, index in places]
        probability = None
        try:
            if any(index in job.known for job, index in places):
                prediction, probability = self.engine.with_probability(np.stack(slices))
            else:
                prediction = self.engine(np.stack(slices))
        except (EngineError, MemoryError) as error:
            self._run_apart(places, error)
            return
        _store(places, prediction)
        if probability is not None:
            _recover(places, probability)

    def _run_apart(self, places: list[Place], error: Exception) -> None:
        reason = str(error) or "out of memory"
        if len(places) == 1:
            job, index = places[0]
            job.fail("engine", f"slice {index} could not be computed: {reason}")
            return
        logger.warning(
            "a batch of %d slices failed (%s): trying it in halves",
            len(places),
            reason,
            extra={"event": "batch_failed", "slices": len(places)},
        )
        middle = len(places) // 2
        self._run(places[:middle])
        self._run([place for place in places[middle:] if not place[0].failures])

    def _finished(self) -> Iterator[Segmented | Failure]:
        while self._jobs:
            job = self._jobs[0]
            if isinstance(job, _Job) and job.left:
                return
            self._jobs.popleft()
            if isinstance(job, Failure):
                yield job
            elif job.failures:
                yield from job.failures
            else:
                yield job.found


def failed_files(
    ref: ScanRef, reason: str, message: str, known: tuple[Failure, ...] = ()
) -> tuple[Failure, ...]:
    """Every file of a scan without a result, each once; `known` are those that failed before."""
    told = {failure.source for failure in known}
    rest = (file.source for file in ref.files if file.source not in told)
    return (*known, *(Failure(source, reason, message) for source in rest))


def _store(places: list[Place], prediction: Prediction) -> None:
    """Put each slice's part of a prediction where it belongs."""
    masks = prediction.masks
    edges = (masks[..., 0, :], masks[..., -1, :], masks[..., :, 0], masks[..., :, -1])
    border = np.logical_or.reduce([edge.any(-1) for edge in edges])
    foreground = masks.any(1).sum((1, 2), dtype=np.int64)
    numbers = np.arange(1, masks.shape[1] + 1, dtype=np.uint8)[:, None, None]
    for place, (job, index) in enumerate(places):
        if not np.isfinite(prediction.soft_areas[place]).all():
            job.fail("not_finite", f"slice {index}: the network's answer is not a number")
            continue
        job.found.areas.pixel[index] = prediction.pixel_areas[place]
        job.found.areas.border[index] = border[place]
        job.found.areas.foreground[index] = foreground[place]
        if job.found.labels is not None:
            job.found.labels[index] = (masks[place] * numbers).max(0)


def _recover(places: list[Place], probability: NDArray[np.float32]) -> None:
    """Cut what is on file for each slice out of its probability (n, k, row, column)."""
    for place, (job, index) in enumerate(places):
        recovered = job.found.recovered
        if recovered and index in job.known and not job.failures:
            labels, masks = recover(probability[place], job.known[index])
            recovered.labels[index], recovered.masks[index] = labels, masks
