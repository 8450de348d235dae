"""Batches of slices of equal size across scans; each scan is completed in its order."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import luminance
from wsseg.imaging.errors import Failure, ReadError, WssegError
from wsseg.imaging.probability_maps import ProbabilityType, stored_probability
from wsseg.imaging.scan import Scan
from wsseg.serve.engines.base import (
    Concurrent,
    Engine,
    EngineError,
    EngineLostError,
    OutOfMemoryError,
    Prediction,
    unexpected_error,
)
from wsseg.serve.inspection import InspectedScan
from wsseg.serve.intervals import SoftAreas
from wsseg.serve.jobs import Job, ResultCache, UniqueSlice
from wsseg.serve.measure import Areas, MeasuredScan, slice_results
from wsseg.serve.recover import Known, Recovered
from wsseg.serve.scan_rows import ScanRows

LUMINANCE = "LUMINANCE"
GREY_AS_RGB = "GREY_AS_RGB"
# 16 million pixels of float32 are 64 MiB a channel: enough to occupy any processor.
MOST_PIXELS = 1 << 24

Shape = tuple[int, ...]
Computed = tuple[Prediction, NDArray[np.float32] | None]
"""A prediction, and the probability (n, k, H, W) that it was thresholded from where requested."""

Fallback = Callable[[str], Engine | None]
"""Gives the engine that computes slices again for which the other one has no finite answer or no
memory, or None. It is told why it is needed."""

ADVICE = (
    "try it with another --engine or --precision, or a smaller --batch; --verbose logs what the "
    "engine printed"
)

logger = logging.getLogger(__name__)


def to_channels(pixels: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """One slice, (row, column) or (row, column, 3), as (channel, row, column) for a network.

    RGB becomes its luminance for a grey network; grey is repeated for an RGB network.
    """
    if pixels.ndim == 3:
        return luminance(pixels)[None] if channels == 1 else np.moveaxis(pixels, -1, 0)
    return np.broadcast_to(pixels, (channels, *pixels.shape))


@dataclass(frozen=True)
class Limits:
    """Limits of batching and of its memory.

    slices: most slices of one batch. scans, nbytes: most scans, and bytes of their pixels, that may
    wait for a batch to fill. remembered: bytes of the results that are kept for slices equal to
    earlier ones.

    Batches are formed by these numbers alone, never by the clock: the same scans in the same order
    form the same batches.
    """

    slices: int = 8
    scans: int = 64
    nbytes: int = 1 << 29
    remembered: int = 1 << 25


@dataclass(frozen=True)
class InFlightBatch:
    """Slices that the engine computes, their pixels (n, c, H, W), and what it will return."""

    slices: list[UniqueSlice]
    pixels: NDArray[np.float32]
    computed: Future[Computed]


@dataclass
class Segmenter:
    """Runs an engine over scans; `on_slices` is called with the number of slices just finished.

    A skipped slice is not computed: its areas stay 0. Slices with equal pixels are computed once,
    as far back as `Limits.remembered` reaches. While the engine computes, in threads of its own,
    the next batch is formed and the results of the one before are stored.

    known: gives the recorded ratios of a scan's slices. They change no measurement: only a batch
    with such a slice requests the engine's probability; a slice that is in no batch is computed
    alone. keep_masks: whether each class's own mask is kept. keep_probability: the type in which
    its probability is kept; None if it is not. with_parts: whether the connected parts of each mask
    are counted. fallback: see `Fallback`.
    """

    engine: Engine
    classes: int
    channels: int
    limits: Limits
    keep_labels: bool
    on_slices: Callable[[int], None] = lambda _: None
    known: Callable[[Scan], Known] = lambda _: {}
    keep_masks: bool = False
    keep_probability: ProbabilityType | None = None
    with_parts: bool = False
    fallback: Fallback = lambda _: None
    _most: dict[Shape, int] = field(default_factory=dict, init=False)
    _groups: dict[Shape, list[UniqueSlice]] = field(default_factory=dict, init=False)
    _jobs: deque[Job | Failure | ScanRows] = field(default_factory=deque, init=False)
    _in_flight: deque[InFlightBatch] = field(default_factory=deque, init=False)

    def __post_init__(self) -> None:
        self._cache = ResultCache(self.limits.remembered)
        engine = self.engine
        self._at_once = max(1, engine.in_flight) if isinstance(engine, Concurrent) else 1
        self._threads = ThreadPoolExecutor(self._at_once, thread_name_prefix="wsseg-engine")

    def __call__(
        self, scans: Iterable[InspectedScan | Failure | ScanRows]
    ) -> Generator[MeasuredScan | Failure | ScanRows, None, None]:
        """Measure scans in their order; a Failure from before or from here keeps its place, and so
        do the rows of a scan that an earlier run measured.

        A batch that the engine cannot compute is halved until only the faulty slices are left. They
        cost their own scan its result, a Failure for each of its files, and no other scan. Nor does
        a scan at which the engine's process ends or hangs.
        """
        try:
            for item in scans:
                self._add(item)
                yield from self._finished()
                while self._holds_too_much():
                    oldest = next(j for j in self._jobs if isinstance(j, Job) and j.left)
                    if oldest.grouped:
                        self._send(oldest.measured.scan.pixels.shape[1:])
                    else:
                        self._collect()
                    yield from self._finished()
            for shape in list(self._groups):
                self._send(shape)
            while self._in_flight:
                self._collect()
                yield from self._finished()
            yield from self._finished()
        finally:
            self._threads.shutdown(cancel_futures=True)

    def _holds_too_much(self) -> bool:
        """Whether unfinished scans exceed the limits although a batch could be sent or awaited."""
        if not self._groups and not self._in_flight:
            return False
        held = sum(job.nbytes() for job in self._jobs if isinstance(job, Job))
        return len(self._jobs) > self.limits.scans or held > self.limits.nbytes

    def _finished(self) -> Generator[MeasuredScan | Failure | ScanRows, None, None]:
        """The scans at the front of the queue that wait for no slice."""
        while self._jobs:
            job = self._jobs[0]
            if isinstance(job, Job) and job.left:
                return
            self._jobs.popleft()
            if not isinstance(job, Job):
                yield job
            elif job.failures:
                yield from job.failures
            else:
                yield job.measured

    def _add(self, item: InspectedScan | Failure | ScanRows) -> None:
        """Queue a scan: each of its slices has a result already, waits for one, or needs none."""
        if not isinstance(item, InspectedScan):
            self._jobs.append(item)
            return
        job = self._new_job(item)
        self._jobs.append(job)
        finished = len(item.empty)
        for index, digest in enumerate(item.digests):
            if index in item.empty:
                if index in job.known:
                    self._recover_alone(job, index)
                continue
            earlier = self._cache.find(digest)
            if earlier is None:
                self._group(UniqueSlice(digest, [(job, index)]))
                continue
            if earlier.sent and index in job.known:
                self._recover_alone(job, index)
            if earlier.result:
                earlier.result.store(job.measured, index)
                finished += 1
            else:
                earlier.positions.append((job, index))
                job.grouped += not earlier.sent
        job.left -= finished
        if finished:
            self.on_slices(finished)

    def _new_job(self, item: InspectedScan) -> Job:
        """A scan with nothing measured yet, flagged if its channels are not the network's."""
        scan, known = item.scan, self.known(item.scan)
        is_rgb = scan.pixels.ndim == 4
        if is_rgb != (self.channels == 3):
            scan = replace(scan, flags=(*scan.flags, LUMINANCE if is_rgb else GREY_AS_RGB))
        grid = scan.pixels.shape[:3]
        areas = Areas(
            pixel=np.zeros((grid[0], self.classes), np.int64),
            border=np.zeros((grid[0], self.classes), np.bool_),
            foreground=np.zeros(grid[0], np.int64),
            parts=np.zeros((grid[0], self.classes), np.int64),
            soft=SoftAreas.unknown(grid[0], self.classes),
        )
        labels = np.zeros(grid, np.uint8) if self.keep_labels else None
        recovered = Recovered(np.zeros(grid, np.uint8)) if known else None
        packed = (grid[0], self.classes, -(-grid[1] * grid[2] // 8))
        measured = MeasuredScan(
            scan,
            areas,
            labels,
            recovered,
            item.empty,
            item.outside,
            packed=np.zeros(packed, np.uint8) if self.keep_masks else None,
            probability=np.zeros((grid[0], self.classes, *grid[1:]), self.keep_probability)
            if self.keep_probability
            else None,
            key=item.key,
        )
        return Job(measured, known, left=grid[0])

    def _group(self, one: UniqueSlice) -> None:
        """Let a new slice wait with others of its shape; a full batch is sent."""
        job, _ = one.positions[0]
        shape = job.measured.scan.pixels.shape[1:]
        pixels = shape[0] * shape[1]
        planes = self.classes.bit_length() * self.keep_labels + self.classes * self.keep_masks
        if self.keep_probability:
            planes += self.classes * 8 * np.dtype(self.keep_probability).itemsize
        self._cache.add(one, planes * pixels // 8)
        group = self._groups.setdefault(shape, [])
        group.append(one)
        job.grouped += 1
        most = min(self._most.get(shape[:2], self.limits.slices), MOST_PIXELS // pixels)
        if len(group) >= max(1, most):
            self._send(shape)

    def _send(self, shape: Shape) -> None:
        """Give the engine the slices of one shape; afterwards at most one batch waits for it."""
        batch: list[UniqueSlice] = []
        pixels: list[NDArray[np.float32]] = []
        for one in self._groups.pop(shape):
            for job, _ in one.positions:
                job.grouped -= 1
            if one.wanted:
                try:
                    pixels.append(self._read(*one.positions[0]))
                    batch.append(one)
                    continue
                except ReadError as error:
                    one.fail(error.reason, f"could not be read again: {error}")
            self._release(one)
        if batch:
            stacked = np.stack(pixels)
            del pixels  # it may hold as much memory as the batch
            self._in_flight.append(InFlightBatch(batch, stacked, self._compute(batch, stacked)))
        while len(self._in_flight) > self._at_once:
            self._collect()

    def _read(self, job: Job, index: int) -> NDArray[np.float32]:
        return to_channels(job.measured.scan.pixels[index], self.channels)

    def _compute(
        self,
        slices: list[UniqueSlice],
        pixels: NDArray[np.float32],
        engine: Engine | None = None,
    ) -> Future[Computed]:
        """Start the engine, with its probability if a ratio is recorded for one of the slices."""
        known = any(index in job.known for one in slices for job, index in one.positions)
        for one in slices:
            one.sent = True
        asked = engine or self.engine
        return self._threads.submit(_run, asked, pixels, bool(known or self.keep_probability))

    def _collect(self) -> None:
        """Store the results of the oldest batch."""
        batch = self._in_flight.popleft()
        self._store(batch.slices, batch.pixels, batch.computed)
        for one in batch.slices:
            self._release(one)

    def _store(
        self, slices: list[UniqueSlice], pixels: NDArray[np.float32], computed: Future[Computed]
    ) -> None:
        """Store what the engine computed; if it failed, compute the batch again in parts."""
        try:
            prediction, probability = computed.result()
        except EngineLostError as error:
            self._retry_by_scan(slices, pixels, error)
        except EngineError as error:
            self._retry_in_halves(slices, pixels, error)
        else:
            self._keep(slices, pixels, prediction, probability)

    def _retry_by_scan(
        self, slices: list[UniqueSlice], pixels: NDArray[np.float32], error: EngineLostError
    ) -> None:
        """Compute each scan of a batch alone; one at which the engine is lost again has failed."""
        logger.warning(
            "the engine was lost at a batch of %d slices (%s): computing each of its scans alone",
            len(slices),
            error,
            extra={"event": error.reason, "slices": len(slices)},
        )
        while left := [each for each in slices if each.wanted and each.result is None]:
            job = next(job for job, _ in left[0].positions if not job.failures)
            own = [
                index
                for index, each in enumerate(slices)
                if each in left and any(other is job for other, _ in each.positions)
            ]
            part = [slices[index] for index in own]
            computed = self._compute(part, pixels[own])
            lost = computed.exception()
            if isinstance(lost, EngineLostError):
                job.fail(lost.reason, f"{lost}, also with this scan alone: {ADVICE}")
            else:
                self._store(part, pixels[own], computed)

    def _retry_in_halves(
        self, slices: list[UniqueSlice], pixels: NDArray[np.float32], error: EngineError
    ) -> None:
        """Compute both halves of a batch; a slice that fails alone costs its scans their result."""
        out_of_memory = isinstance(error, OutOfMemoryError)
        if out_of_memory:  # nor will the next batch of this shape find more
            self._most[pixels.shape[2:]] = max(1, len(slices) // 2)
        if len(slices) == 1:
            if not (out_of_memory and self._recompute(slices, pixels, str(error))):
                slices[0].fail(error.reason, f"could not be computed: {error}")
            return
        logger.warning(
            "a batch of %d slices failed (%s): trying it in halves",
            len(slices),
            error,
            extra={"event": "batch_failed", "slices": len(slices)},
        )
        middle = len(slices) // 2
        for half in (range(middle), range(middle, len(slices))):
            wanted = [index for index in half if slices[index].wanted]
            if wanted:
                part = [slices[index] for index in wanted]
                self._store(part, pixels[wanted], self._compute(part, pixels[wanted]))

    def _recompute(self, slices: list[UniqueSlice], pixels: NDArray[np.float32], why: str) -> bool:
        """Compute slices by the fallback engine; False if there is none or it fails too."""
        engine = self.fallback(why)
        if engine is None:
            return False
        try:
            prediction, probability = self._compute(slices, pixels, engine).result()
        except EngineError as error:
            logger.warning("the fp32 engine failed too: %s", error)
            return False
        self._keep(slices, pixels, prediction, probability, recomputed=True)
        return True

    def _keep(
        self,
        slices: list[UniqueSlice],
        pixels: NDArray[np.float32],
        prediction: Prediction,
        probability: NDArray[np.float32] | None,
        *,
        recomputed: bool = False,
    ) -> None:
        """Keep the results of slices; where they are not finite, compute them again in fp32."""
        results = slice_results(
            prediction,
            keep_labels=self.keep_labels,
            keep_masks=self.keep_masks,
            with_parts=self.with_parts,
        )
        lost: list[int] = []
        for row, (one, result) in enumerate(zip(slices, results, strict=True)):
            if result is None:
                lost.append(row)
                continue
            if self.keep_probability and probability is not None:
                kept = stored_probability(probability[row], self.keep_probability)
                result = replace(result, probability=kept)
            one.result = result = replace(result, recomputed=recomputed)
            for job, index in one.positions:
                result.store(job.measured, index)
                if probability is not None and index in job.known:
                    job.recover(index, probability[row])
        again = [slices[row] for row in lost]
        if again and not recomputed:
            self._recompute(again, pixels[lost], "its output is not finite")
        for one in again:
            if one.result is None:
                one.fail("not_finite", "has no result: the network's output is not finite")

    def _release(self, one: UniqueSlice) -> None:
        """Await nothing more for a slice; one that failed is not remembered."""
        if one.result is None:
            self._cache.drop(one)
        for job, _ in one.positions:
            job.left -= 1
        self.on_slices(len(one.positions))
        one.positions.clear()

    def _recover_alone(self, job: Job, index: int) -> None:
        """Recover the masks of a slice that is in no batch, from a probability of its own."""
        try:
            pixels = np.stack([self._read(job, index)])
            _, probability = self._threads.submit(_run, self.engine, pixels, True).result()
            if probability is not None:
                job.recover(index, probability[0])
        except EngineError as error:
            job.fail(error.reason, f"slice {index} could not be computed: {error}")
        except ReadError as error:
            job.fail(error.reason, f"slice {index} could not be read again: {error}")


def _run(engine: Engine, pixels: NDArray[np.float32], probability: bool) -> Computed:
    """What the engine computes. Raises EngineError, and WssegError if the run cannot go on."""
    try:
        return engine.with_probability(pixels) if probability else (engine(pixels), None)
    except (EngineError, WssegError):
        raise
    except Exception as error:
        logger.debug("the engine raised", exc_info=True)
        raise unexpected_error(error) from error
