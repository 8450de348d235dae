"""Batches of equal-sized slices across scans, and each scan put together again, in order."""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import luminance
from wsseg.imaging.errors import Failure, ReadError
from wsseg.imaging.scan import Scan
from wsseg.serve.empty_slices import Looked
from wsseg.serve.engines.base import Engine, EngineError, Prediction, calls_at_once
from wsseg.serve.recover import Known
from wsseg.serve.results import Job, Place, Segmented, Slot, answers_of, new_job

# Grey or colour slices as the channels that a network takes.

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


# The engine at work in threads of its own, while the rest goes on.

Answered = tuple[Prediction, NDArray[np.float32] | None]
"""A prediction, and the probability it was cut from where that was asked for."""


@dataclass(frozen=True)
class Call:
    """A batch (n, c, H, W) that the engine was given, with a slot for each of its slices."""

    slots: list[Slot]
    pixels: NDArray[np.float32]
    answer: Future[Answered]

    def part(self, start: int, stop: int) -> tuple[list[Slot], NDArray[np.float32]]:
        """Some of the batch: slots that a scan still waits for, and their pixels."""
        chosen = [place for place in range(start, stop) if self.slots[place].wanted]
        return [self.slots[place] for place in chosen], self.pixels[chosen]


class Calls:
    """Calls of an engine, in the order in which they are made, as many at once as it takes."""

    def __init__(self, engine: Engine, channels: int) -> None:
        self._engine = engine
        self._channels = channels
        self.at_once = calls_at_once(engine)
        self._threads = ThreadPoolExecutor(self.at_once, thread_name_prefix="wsseg-engine")

    def make(self, slots: list[Slot]) -> Call:
        """Ask for the answers of slots; one call begins when an earlier one ends."""
        return self.again(slots, self._stacked([slot.places[0] for slot in slots]))

    def again(self, slots: list[Slot], pixels: NDArray[np.float32]) -> Call:
        """The same, for slots whose pixels are stacked already."""
        known = any(slot.known for slot in slots)
        for slot in slots:
            slot.sent = True
        return Call(slots, pixels, self._threads.submit(self._run, pixels, known=known))

    def probability(self, place: Place) -> NDArray[np.float32]:
        """The probability (k, H, W) of one slice, waited for; raises what the engine raises."""
        answer = self._threads.submit(self._run, self._stacked([place]), known=True).result()
        if answer[1] is None:
            raise AssertionError("the engine was asked for its probability")
        probability: NDArray[np.float32] = answer[1][0]
        return probability

    def close(self) -> None:
        """Begin no further call, and wait for those that were begun."""
        self._threads.shutdown(cancel_futures=True)

    def _run(self, pixels: NDArray[np.float32], *, known: bool) -> Answered:
        return self._engine.with_probability(pixels) if known else (self._engine(pixels), None)

    def _stacked(self, places: list[Place]) -> NDArray[np.float32]:
        return np.stack(
            [to_channels(job.found.scan.pixels[index], self._channels) for job, index in places]
        )


# Slices that were met a while ago, to be told from new ones.

# Of the objects that make one answer, without its label map; rounded up.
ANSWER_BYTES = 1024


class Recent:
    """The slices that were last met, by their digests, with what is or will be answered for them.

    Kept up to `nbytes`, counted by sizes alone: the same slices in the same order are remembered
    in the same way, however fast the engine is.
    """

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes
        self._slots: OrderedDict[bytes, tuple[Slot, int]] = OrderedDict()

    def find(self, digest: bytes) -> Slot | None:
        """The slice with this digest, and from now on the last one to be forgotten."""
        if digest not in self._slots:
            return None
        self._slots.move_to_end(digest)
        return self._slots[digest][0]

    def add(self, slot: Slot, label_bytes: int) -> None:
        """Remember a slice, whose packed label map has so many bytes; the oldest make room."""
        size = ANSWER_BYTES + label_bytes
        self._slots[slot.digest] = (slot, size)
        self._left -= size
        while self._left < 0:
            _, (_, freed) = self._slots.popitem(last=False)
            self._left += freed

    def forget(self, slot: Slot) -> None:
        """Let the next slice that equals this one be computed."""
        known = self._slots.get(slot.digest)
        if known and known[0] is slot:
            self._left += self._slots.pop(slot.digest)[1]


# 16 million pixels of float32 are 64 MiB a channel: enough to fill any processor.
MOST_PIXELS = 1 << 24

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """slices: in one batch, at most. scans, nbytes: that may wait for a batch to fill. remembered:
    bytes of answers that are kept for slices equal to earlier ones.

    Batches are formed by these numbers alone, never by the clock: the same scans in the same order
    make the same batches.
    """

    slices: int = 8
    scans: int = 64
    nbytes: int = 1 << 29
    remembered: int = 1 << 25


Shape = tuple[int, ...]


@dataclass
class Segmenter:
    """Runs an engine over scans; `on_slices` hears how many slices were finished.

    An empty slice is not run: its areas stay 0. Slices with equal pixels are run once, as far
    back as `Limits.remembered` reaches. While the engine computes, in threads of its own, the next
    batch is put together and the answers of the one before are stored.

    known: the ratios on file of a scan's slices. They change nothing that is measured: only a
    batch with such a slice asks the engine for its probability; a slice in no batch is asked alone.
    """

    engine: Engine
    classes: int
    channels: int
    limits: Limits
    keep_labels: bool
    on_slices: Callable[[int], None] = lambda _: None
    known: Callable[[Scan], Known] = lambda _: {}
    _groups: dict[Shape, list[Slot]] = field(default_factory=dict, init=False)
    _jobs: deque[Job | Failure] = field(default_factory=deque, init=False)
    _sent: deque[Call] = field(default_factory=deque, init=False)
    _recent: Recent = field(init=False)
    _calls: Calls = field(init=False)

    def __post_init__(self) -> None:
        self._recent = Recent(self.limits.remembered)
        self._calls = Calls(self.engine, self.channels)

    def __call__(
        self, scans: Iterable[Looked | Failure]
    ) -> Generator[Segmented | Failure, None, None]:
        """Scans measured, in their order; what failed before or here stays a Failure in its place.

        A batch that the engine cannot compute is halved until only the slices at fault are left:
        they cost their own scan its result and no other: a Failure for each of its files.
        """
        try:
            for item in scans:
                self._add(item)
                yield from self._finished()
                while self._waiting_too_long():
                    self._hurry()
                    yield from self._finished()
            for shape in list(self._groups):
                self._send(shape)
            while self._sent:
                self._collect()
                yield from self._finished()
            yield from self._finished()
        finally:
            self._calls.close()

    def _add(self, item: Looked | Failure) -> None:
        if isinstance(item, Failure):
            self._jobs.append(item)
            return
        known = self.known(item.scan)
        job = new_job(self._adapted(item), known, self.classes, keep_labels=self.keep_labels)
        self._jobs.append(job)
        through = len(item.empty)
        for index in range(len(item.digests)):
            if index not in item.empty:
                through += self._place((job, index), item.digests[index])
            elif index in job.known:
                self._recover_alone((job, index))
        job.left -= through
        if through:
            self.on_slices(through)

    def _adapted(self, item: Looked) -> Looked:
        """The scan with a flag where its channels are not the network's."""
        flags = channel_flags(item.scan, self.channels)
        scan = replace(item.scan, flags=(*item.scan.flags, *flags)) if flags else item.scan
        return replace(item, scan=scan)

    def _place(self, place: Place, digest: bytes) -> bool:
        """Find a slice its answer, or a slot to wait in; True where the answer is there."""
        job, index = place
        slot = self._recent.find(digest)
        if slot and slot.sent and index in job.known:
            self._recover_alone(place)
        if slot and slot.answer:
            slot.answer.store(job.found, index)
            return True
        if slot is None:
            self._open(Slot(digest, [place]))
        else:
            slot.places.append(place)
            job.grouped += not slot.sent
        return False

    def _open(self, slot: Slot) -> None:
        """Queue a slice that is new; its batch is sent when it is full."""
        job, _ = slot.places[0]
        shape = job.found.scan.pixels.shape[1:]
        pixels = shape[0] * shape[1]
        bits = self.classes.bit_length() * pixels if self.keep_labels else 0
        self._recent.add(slot, bits // 8)
        group = self._groups.setdefault(shape, [])
        group.append(slot)
        job.grouped += 1
        if len(group) == max(1, min(self.limits.slices, MOST_PIXELS // pixels)):
            self._send(shape)

    def _waiting_too_long(self) -> bool:
        """Whether the oldest unfinished scan holds back more than the limits allow."""
        if not self._groups and not self._sent:
            return False
        held = sum(job.nbytes() for job in self._jobs if isinstance(job, Job))
        return len(self._jobs) > self.limits.scans or held > self.limits.nbytes

    def _hurry(self) -> None:
        """Bring the oldest unfinished scan one step further."""
        job = next(job for job in self._jobs if isinstance(job, Job) and job.left)
        if job.grouped:
            self._send(job.found.scan.pixels.shape[1:])
        else:
            self._collect()

    def _send(self, shape: Shape) -> None:
        """Give the engine what waits of one shape, and take answers so that only one call waits."""
        slots = self._groups.pop(shape)
        for slot in slots:
            for job, _ in slot.places:
                job.grouped -= 1
        wanted = [slot for slot in slots if slot.wanted]
        self._close([slot for slot in slots if not slot.wanted])
        if wanted:
            self._sent.extend(self._made(wanted))
        while len(self._sent) > self._calls.at_once:
            self._collect()

    def _made(self, slots: list[Slot]) -> list[Call]:
        """A call for slots; several, without those whose slices cannot be read any more."""
        try:
            return [self._calls.make(slots)]
        except ReadError as error:
            if len(slots) == 1:
                slots[0].fail(error.reason, f"could not be read again: {error}")
                self._close(slots)
                return []
        middle = len(slots) // 2
        return [*self._made(slots[:middle]), *self._made(slots[middle:])]

    def _collect(self) -> None:
        """Store the answers of the oldest call."""
        call = self._sent.popleft()
        self._settle(call)
        self._close(call.slots)

    def _settle(self, call: Call) -> None:
        try:
            prediction, probability = call.answer.result()
        except (EngineError, MemoryError) as error:
            self._settle_apart(call, _reason(error))
            return
        answers = answers_of(prediction, keep_labels=self.keep_labels)
        for at, (slot, answer) in enumerate(zip(call.slots, answers, strict=True)):
            slot.answer = answer
            if answer is None:
                slot.fail("not_finite", "has no result: the network's answer is not a number")
                continue
            for job, index in slot.places:
                answer.store(job.found, index)
                if probability is not None and index in job.known:
                    job.recover(index, probability[at])

    def _settle_apart(self, call: Call, reason: str) -> None:
        count = len(call.slots)
        if count == 1:
            call.slots[0].fail("engine", f"could not be computed: {reason}")
            return
        logger.warning(
            "a batch of %d slices failed (%s): trying it in halves",
            count,
            reason,
            extra={"event": "batch_failed", "slices": count},
        )
        for start, stop in ((0, count // 2), (count // 2, count)):
            slots, pixels = call.part(start, stop)
            if slots:
                self._settle(self._calls.again(slots, pixels))

    def _close(self, slots: list[Slot]) -> None:
        """Nothing more is awaited for these slots; those that failed are not remembered."""
        for slot in slots:
            if slot.answer is None:
                self._recent.forget(slot)
            for job, _ in slot.places:
                job.left -= 1
            self.on_slices(len(slot.places))
            slot.places.clear()

    def _recover_alone(self, place: Place) -> None:
        """Recover masks of a slice whose areas come from elsewhere."""
        job, index = place
        try:
            job.recover(index, self._calls.probability(place))
        except (EngineError, MemoryError) as error:
            job.fail("engine", f"slice {index} could not be computed: {_reason(error)}")
        except ReadError as error:
            job.fail(error.reason, f"slice {index} could not be read again: {error}")

    def _finished(self) -> Generator[Segmented | Failure, None, None]:
        while self._jobs:
            job = self._jobs[0]
            if isinstance(job, Job) and job.left:
                return
            self._jobs.popleft()
            if isinstance(job, Failure):
                yield job
            elif job.failures:
                yield from job.failures
            else:
                yield job.found


def _reason(error: Exception) -> str:
    return str(error) or "out of memory"
