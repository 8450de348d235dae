"""One stream from the scans that were found to scans that are measured and written."""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field

from wsseg.imaging.errors import Failure, ReadError
from wsseg.imaging.files import noting
from wsseg.imaging.limits import DEFAULT_LIMITS, ReadLimits
from wsseg.imaging.reading import read
from wsseg.imaging.scan import Scan, ScanRef
from wsseg.imaging.stopping import reading_threads
from wsseg.serve.batching import Fallback, Limits, Segmenter
from wsseg.serve.empty_slices import Skip, skip_none
from wsseg.serve.engines.base import Engine
from wsseg.serve.inspection import Compare, InspectedScan, compare_none, inspect
from wsseg.serve.journal import FileState, Journal, file_state
from wsseg.serve.manifest import Manifest
from wsseg.serve.measure import MeasuredScan, failed_files
from wsseg.serve.outputs import Output, write_outputs
from wsseg.serve.recover import Known
from wsseg.serve.scan_rows import ScanRows, is_unlike

PIXEL_MM_GIVEN = "PIXEL_MM_GIVEN"
UNLIKE = "unlike_training"

A = TypeVar("A")
B = TypeVar("B")
OnProgress = Callable[[int, int, float], None]

logger = logging.getLogger(__name__)


def _as_pair(value: Any) -> Any:
    """One length for both directions, or ROW,COLUMN, from the text of an option."""
    if not isinstance(value, str):
        return value
    try:
        lengths = [float(part) for part in value.split(",")]
    except ValueError:
        lengths = []
    if len(lengths) not in (1, 2):
        raise ValueError(f"{value} is no pixel size: write one length in mm, or ROW,COLUMN")
    return (lengths[0], lengths[-1])


Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PixelSize = Annotated[tuple[Length, Length], BeforeValidator(_as_pair)]
"""(row, column) distance of neighbouring pixels in mm."""


@dataclass(frozen=True)
class PrefetchLimits:
    """Limits of `prefetch`: threads, results, and bytes from which on no further work is started.

    One item is always worked on, however large it is. Memory therefore stays below `nbytes` plus
    one result for each thread.
    """

    threads: int = 4
    results: int = 32
    nbytes: int = 1 << 30


def prefetch(
    work: Callable[[A], B],
    items: Iterable[A],
    limits: PrefetchLimits,
    weigh: Callable[[A | B], int],
) -> Generator[B, None, None]:
    """map(work, items), in order, with `work` running in threads ahead of the consumer.

    `weigh` gives the bytes of a result, and an estimate for an item that has no result yet. `items`
    is consumed in the consumer's thread. What `work` raises is raised in the item's turn. Closing
    the generator cancels what has not begun, and stops what waits for a decoder.
    """
    source = iter(items)
    pending: deque[tuple[A, Future[B]]] = deque()
    ready: list[B] = []  # emptied as it is handed over: a result must not live on in this frame

    def has_room() -> bool:
        weights = (
            weigh(future.result() if future.done() and not future.exception() else item)
            for item, future in pending
        )
        return not pending or (len(pending) < limits.results and sum(weights) < limits.nbytes)

    with reading_threads(limits.threads) as pool:

        def fill() -> None:
            while has_room():
                for item in source:
                    pending.append((item, pool.submit(work, item)))
                    break
                else:
                    return

        fill()
        while pending:
            ready.append(pending.popleft()[1].result())
            fill()
            yield ready.pop()


@dataclass(frozen=True)
class Outcome:
    """The outcome of one scan or file: measured, failed, or both if only a part of it failed.

    recorded: the rows of a scan that an earlier run measured, or a worker of this run. written:
    files of the scan as they were when they were written. key: of the rows of a worker, for the
    journal; None for an earlier run.
    """

    measured: MeasuredScan | None
    failures: tuple[Failure, ...]
    recorded: ScanRows | None = None
    written: tuple[FileState, ...] = ()
    key: str | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing failed, so that nothing would come of measuring the scan again."""
        return all(failure.status == "skipped" for failure in self.failures)


@dataclass
class Counts:
    """Progress of a run; `tell` receives (slices done, slices met so far, slices per second).

    failed, skipped: files. recovered: masks. unlike: scans that were measured although they are
    unlike the training images. resumed: scans of an earlier run, which are counted as the others.
    """

    tell: OnProgress
    scans: int = 0
    slices: int = 0
    failed: int = 0
    skipped: int = 0
    recovered: int = 0
    unlike: int = 0
    resumed: int = 0
    _done: int = 0
    _met: int = 0
    _began: float | None = None

    def meet(
        self, scans: Iterable[InspectedScan | Failure | ScanRows]
    ) -> Iterator[InspectedScan | Failure | ScanRows]:
        """Pass scans on and count their slices as work to do."""
        for item in scans:
            if isinstance(item, InspectedScan):
                self.expect(len(item.scan.slices))
            yield item

    def expect(self, slices: int) -> None:
        """Count slices as work to do."""
        self._began = self._began or time.monotonic()
        self._met += slices

    def done(self, slices: int) -> None:
        """Count slices that the engine has finished, and report the progress."""
        self._done += slices
        spent = time.monotonic() - (self._began or time.monotonic())
        self.tell(self._done, self._met, self._done / spent if spent > 0 else 0.0)

    def end(self, outcome: Outcome) -> None:
        """Count a scan or file that is finished, and log it without naming it."""
        for failure in outcome.failures:
            self.failed += failure.status == "failed"
            self.skipped += failure.status == "skipped"
            logger.debug(
                "a file was %s: %s",
                failure.status,
                failure.reason,
                extra={"event": f"file_{failure.status}", "reason": failure.reason},
            )
        if measured := outcome.measured:
            self.scans += 1
            self.unlike += is_unlike(measured)
            self.slices += len(measured.scan.slices)
            if measured.recovered:
                self.recovered += sum(map(len, measured.recovered.masks.values()))
            event = {"event": "scan_measured", "scan": self.scans}
            logger.debug("scan %d is measured", self.scans, extra=event)
        if rows := outcome.recorded:
            self.scans += 1
            self.resumed += outcome.key is None
            self.unlike += rows.unlike
            self.slices += len(rows.ids)
            self.recovered += len(rows.lines)


@dataclass(frozen=True)
class Pipeline:
    """Reads ahead in threads, computes in the engine's threads and writes outputs in threads; the
    caller's thread forms batches, stores results and takes the outcomes.

    Memory is bounded by `reading`, `limits` and `writing` together, whatever the number of scans.
    outputs: what is written for each scan, in this order. known: gives the recorded ratios of a
    scan's slices, from which masks are recovered. skip: the rule by which slices are skipped.
    compare: compares a scan with the training images. strict: a scan unlike them fails and is not
    computed. pixel_mm: (row, column) pixel size of pictures that do not state one. read: what
    reading a scan may take. keep_labels: label maps are kept for the caller even if none are drawn.
    journal: has the scans that an earlier run measured. recall: is told the slices of each of them,
    in its turn. fallback: see `batching.Fallback`.
    """

    engine: Engine
    manifest: Manifest
    limits: Limits
    reading: PrefetchLimits
    writing: PrefetchLimits
    outputs: tuple[Output, ...] = ()
    known: Callable[[Scan], Known] = lambda _: {}
    skip: Skip = skip_none
    compare: Compare = compare_none
    strict: bool = False
    pixel_mm: tuple[float, float] | None = None
    read: ReadLimits = DEFAULT_LIMITS
    keep_labels: bool = False
    journal: Journal | None = None
    recall: Callable[[ScanRows], object] = lambda _: None
    fallback: Fallback = lambda _: None

    def __call__(
        self, refs: Iterable[ScanRef | Failure | ScanRows], counts: Counts
    ) -> Generator[Outcome, None, None]:
        """The outcome of each scan, in the order in which they were found.

        refs: scans, files that are none, and the rows of scans that need not be read again.
        """
        segment = Segmenter(
            engine=self.engine,
            classes=len(self.manifest.classes),
            channels=self.manifest.channels,
            limits=self.limits,
            keep_labels=self.keep_labels or any(each.needs_labels for each in self.outputs),
            on_slices=counts.done,
            known=self.known,
            keep_probability=next(filter(None, (o.needs_probability for o in self.outputs)), None),
            keep_masks=any(each.needs_masks for each in self.outputs),
            with_parts=bool(self.manifest.training.parts),
            fallback=self.fallback,
        )
        # Closed here, not by the garbage collector: an interrupted run must not go on.
        with (
            closing(prefetch(self._read, refs, self.reading, _nbytes)) as scans,
            closing(segment(counts.meet(self._recalled(_one_by_one(scans))))) as segmented,
            closing(
                prefetch(self._write, segmented, self.writing, _nbytes)
                if self.outputs
                else (self._write(item) for item in segmented)
            ) as outcomes,
        ):
            for outcome in each_failure_once(outcomes):
                counts.end(outcome)
                yield outcome

    def _recalled(
        self, items: Iterable[InspectedScan | Failure | ScanRows]
    ) -> Iterator[InspectedScan | Failure | ScanRows]:
        """Pass items on just before the network's turn, in which ratios are assigned to slices."""
        for item in items:
            if isinstance(item, ScanRows):
                self.recall(item)
            yield item

    def _write(self, item: MeasuredScan | Failure | ScanRows) -> Outcome:
        """The outcome of a scan or file, with its outputs written."""
        if isinstance(item, ScanRows):
            return Outcome(None, item.skipped, item)
        if isinstance(item, Failure):
            return Outcome(None, (item,))
        with noting() as written:
            failures = (*item.scan.failures, *write_outputs(self.outputs, item))
        try:
            states = tuple(map(file_state, written))
        except OSError:  # somebody has taken a file away: without its key the scan is not kept
            return Outcome(replace(item, key=""), failures)
        return Outcome(item, failures, written=states)

    def _read(
        self, ref: ScanRef | Failure | ScanRows
    ) -> InspectedScan | ScanRows | tuple[Failure, ...]:
        """The scan, read and inspected, or one Failure for each of its files; or the rows that an
        earlier run measured."""
        if isinstance(ref, Failure):
            return (ref,)
        if isinstance(ref, ScanRows):
            return ref
        key = ""
        if self.journal:
            # Before it is read: what changes meanwhile must not be taken for what was measured.
            key = self.journal.key(ref)
            if rows := self.journal.find(key, ref):
                return rows
        earlier: tuple[Failure, ...] = ()
        try:
            scan = read(ref, self.read)
            ref, earlier = scan.ref, scan.failures
            for prepare in dict.fromkeys(each.prepare for each in self.outputs):
                prepare(scan)  # once, where outputs share it
            if self.pixel_mm and ref.kind == "picture" and scan.geometry.pixel_mm is None:
                geometry = replace(scan.geometry, pixel_mm=self.pixel_mm)
                scan = replace(scan, geometry=geometry, flags=(*scan.flags, PIXEL_MM_GIVEN))
            likeness = self.compare(scan)
            if self.strict and likeness.flags:
                differences = "; ".join(f"{flag}: {text}" for flag, text in likeness.flags.items())
                message = (
                    "unlike the training images of the model, and refused by --strict "
                    f"({differences}): convert it, use another model, or leave --strict out"
                )
                return failed_files(ref, UNLIKE, message, earlier)
            return replace(inspect(scan, self.skip, likeness), key=key)
        except ReadError as error:  # also from the slices of a long scan, which are read on demand
            return failed_files(ref, error.reason, str(error), earlier)
        except MemoryError:  # of the steps after reading
            message = f"{ref.files[0].source} needs more memory than there is: crop or split it"
            return failed_files(ref, "out_of_memory", message, earlier)


def each_failure_once(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Outcomes without the repeated failures of a file of many scans."""
    reported: set[Failure] = set()
    for outcome in outcomes:
        if outcome.measured or outcome.recorded:
            yield outcome
        elif not reported.issuperset(outcome.failures):
            reported.update(outcome.failures)
            yield outcome


def _one_by_one(
    items: Iterable[InspectedScan | ScanRows | tuple[Failure, ...]],
) -> Iterator[InspectedScan | Failure | ScanRows]:
    for item in items:
        if isinstance(item, tuple):
            yield from item
        else:
            yield item


def _nbytes(
    item: ScanRef
    | InspectedScan
    | MeasuredScan
    | Outcome
    | Failure
    | ScanRows
    | tuple[Failure, ...],
) -> int:
    """Bytes of pixels that an item holds, or will hold once it is read."""
    match item:
        case ScanRef():
            return item.decoded_bytes
        case InspectedScan():
            return item.scan.pixels.nbytes
        case MeasuredScan():
            return item.nbytes()
        case Outcome(measured=MeasuredScan() as measured):
            return measured.nbytes()
        case _:
            return 0
