"""One stream from scans that were found to scans that are measured and drawn."""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from wsseg.imaging.definitions import Window
from wsseg.imaging.errors import Failure, ReadError, WssegError
from wsseg.imaging.label_maps import write_labels
from wsseg.imaging.reading import read
from wsseg.imaging.scan import Scan, ScanRef
from wsseg.serve.batching import Limits, Segmenter
from wsseg.serve.empty_slices import Looked, Skip, look, skip_none
from wsseg.serve.engines.base import Engine
from wsseg.serve.likeness import UNLIKE_FLAGS, Compare, Likeness, compare_none
from wsseg.serve.manifest import Manifest
from wsseg.serve.overlay import write_overlays
from wsseg.serve.prefetch import Room, ahead
from wsseg.serve.recover import Known
from wsseg.serve.results import Segmented, failed_files

# The pixel size that a user gives for pictures that do not know theirs.

GIVEN = "PIXEL_MM_GIVEN"


def _as_pair(value: Any) -> Any:
    """One length for both directions, or ROW,COLUMN, from the text of an option."""
    if not isinstance(value, str):
        return value
    parts = value.split(",")
    try:
        lengths = [float(part) for part in parts]
    except ValueError:
        lengths = []
    if len(lengths) not in (1, 2):
        raise ValueError(f"{value} is no pixel size: write one length in mm, or ROW,COLUMN")
    return (lengths[0], lengths[-1])


Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PixelSize = Annotated[tuple[Length, Length], BeforeValidator(_as_pair)]
"""(row, column) distance of neighbouring pixels in mm."""


def with_pixel_size(scan: Scan, pixel_mm: tuple[float, float] | None) -> Scan:
    """The scan; a picture without a length of its own takes `pixel_mm`, (row, column), flagged."""
    known = scan.ref.kind != "picture" or scan.geometry.pixel_mm is not None
    if pixel_mm is None or known:
        return scan
    geometry = replace(scan.geometry, pixel_mm=pixel_mm)
    return replace(scan, geometry=geometry, flags=(*scan.flags, GIVEN))


PHI_RISK = "PHI_RISK"
UNLIKE = "unlike_training"

OnProgress = Callable[[int, int, float], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one scan or file: measured, failed, or both where only a part failed."""

    found: Segmented | None
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Pictures:
    """Folders for label maps, overlays and recovered label maps, None for those not wanted."""

    masks: Path | None
    overlays: Path | None
    window: Window
    recovered: Path | None = None

    @property
    def of_labels(self) -> bool:
        """Whether anything is to be drawn of what was measured."""
        return bool(self.masks or self.overlays)

    @property
    def wanted(self) -> bool:
        """Whether anything is to be drawn."""
        return bool(self.of_labels or self.recovered)

    def draw(self, item: Segmented | Failure) -> Outcome:
        """Write what is wanted of one scan; what cannot be written is a failure beside its rows.

        A scan that may show text burned into its pixels gets no overlay.
        """
        if isinstance(item, Failure):
            return Outcome(None, (item,))
        failures = item.scan.failures
        try:
            self._draw(item)
        except Exception as error:  # a library's own errors too: the rows are measured
            source = item.scan.ref.files[0].source
            message = f"measured, but its masks or overlays could not be written: {_why(error)}"
            failures = (*failures, Failure(source, "not_written", message))
        return Outcome(item, failures)

    def _draw(self, item: Segmented) -> None:
        if self.masks and item.labels is not None:
            write_labels(item.scan, item.labels, self.masks)
        if self.recovered and item.recovered:
            write_labels(item.scan, item.recovered.labels, self.recovered)
        if not self.overlays:
            return
        if PHI_RISK in item.scan.flags:
            logger.info(
                "a scan may show burned-in text: no overlay is drawn",
                extra={"event": "overlay_withheld"},
            )
            return
        write_overlays(item, self.window, self.overlays)


@dataclass
class Counts:
    """How far a run is; `tell` hears (slices done, slices met so far, slices a second).

    failed, skipped: files. unlike: scans that were measured though they are unlike the training
    images.
    """

    tell: OnProgress
    scans: int = 0
    slices: int = 0
    failed: int = 0
    skipped: int = 0
    recovered: int = 0
    unlike: int = 0
    _done: int = 0
    _met: int = 0
    _began: float | None = None

    def meet(self, scans: Iterable[Looked | Failure]) -> Iterator[Looked | Failure]:
        """Pass scans on and count their slices as work to do."""
        for item in scans:
            if isinstance(item, Looked):
                self._began = self._began or time.monotonic()
                self._met += len(item.scan.slices)
            yield item

    def done(self, slices: int) -> None:
        """Count slices that the engine is through with, and tell."""
        self._done += slices
        spent = time.monotonic() - (self._began or time.monotonic())
        self.tell(self._done, self._met, self._done / spent if spent > 0 else 0.0)

    def end(self, outcome: Outcome) -> None:
        """Count one scan or file that is through, and log it without saying which it is."""
        for failure in outcome.failures:
            self.failed += failure.status == "failed"
            self.skipped += failure.status == "skipped"
            logger.debug(
                "a file was %s: %s",
                failure.status,
                failure.reason,
                extra={"event": f"file_{failure.status}", "reason": failure.reason},
            )
        if outcome.found:
            self.scans += 1
            self.unlike += bool(
                outcome.found.outside or UNLIKE_FLAGS & set(outcome.found.scan.flags)
            )
            self.slices += len(outcome.found.scan.slices)
            recovered = outcome.found.recovered
            self.recovered += sum(map(len, recovered.masks.values())) if recovered else 0
            event = {"event": "scan_measured", "scan": self.scans}
            logger.debug("scan %d is measured", self.scans, extra=event)


@dataclass(frozen=True)
class Pipeline:
    """Reads ahead in threads, computes in the engine's threads, writes pictures in threads; the
    caller's thread puts batches together, stores answers and takes the outcomes.

    Memory is bounded by `reading`, `limits` and `writing` together, whatever the number of scans.
    known: the ratios on file of a scan's slices, to recover masks by. skip: the rule by which
    slices are not run. compare: how a scan differs from the training images; strict: such a scan
    fails, and is not computed. pixel_mm: of pictures that do not know theirs, (row, column).
    keep_labels: label maps are kept for the caller, also where nothing is drawn of them.
    """

    engine: Engine
    manifest: Manifest
    limits: Limits
    reading: Room
    writing: Room
    pictures: Pictures
    known: Callable[[Scan], Known] = lambda _: {}
    skip: Skip = skip_none
    compare: Compare = compare_none
    strict: bool = False
    pixel_mm: tuple[float, float] | None = None
    keep_labels: bool = False

    def __call__(
        self, refs: Iterable[ScanRef | Failure], counts: Counts
    ) -> Generator[Outcome, None, None]:
        """What became of each scan, in the order in which they were found."""
        segment = Segmenter(
            engine=self.engine,
            classes=len(self.manifest.classes),
            channels=self.manifest.channels,
            limits=self.limits,
            keep_labels=self.keep_labels or self.pictures.of_labels,
            on_slices=counts.done,
            known=self.known,
        )
        # Closed here, not by the garbage collector: an interrupted run must not go on.
        with (
            closing(ahead(self._attempt, refs, self.reading, _nbytes)) as scans,
            closing(segment(counts.meet(_one_by_one(scans)))) as segmented,
            closing(self._drawn(segmented)) as outcomes,
        ):
            for outcome in outcomes:
                counts.end(outcome)
                yield outcome

    def _attempt(self, ref: ScanRef | Failure) -> Looked | tuple[Failure, ...]:
        """The scan, read and looked at, or why it could not be: one Failure for each file."""
        found = attempt_read(ref)
        if not isinstance(found, Scan):
            return found
        found = with_pixel_size(found, self.pixel_mm)
        try:
            likeness = self.compare(found)
            if self.strict and likeness.flags:
                return failed_files(found.ref, UNLIKE, _unlike(likeness), known=found.failures)
            return look(found, self.skip, likeness)
        except ReadError as error:  # slices of a long scan are read when they are asked for
            return failed_files(found.ref, error.reason, str(error), known=found.failures)

    def _drawn(self, segmented: Iterable[Segmented | Failure]) -> Generator[Outcome, None, None]:
        if self.pictures.wanted:
            yield from ahead(self.pictures.draw, segmented, self.writing, _nbytes)
        else:
            yield from map(self.pictures.draw, segmented)


def attempt_read(ref: ScanRef | Failure) -> Scan | tuple[Failure, ...]:
    """The scan, or why it could not be read, as values: one for each of its files."""
    if isinstance(ref, Failure):
        return (ref,)
    try:
        return read(ref)
    except ReadError as error:
        return failed_files(ref, error.reason, str(error))


def _unlike(likeness: Likeness) -> str:
    told = "; ".join(f"{flag}: {words}" for flag, words in likeness.flags.items())
    return (
        f"not like the images that the model was trained on, and refused by --strict ({told}): "
        "convert it to what the model knows, take another model, or leave --strict out"
    )


def _one_by_one(items: Iterable[Looked | tuple[Failure, ...]]) -> Iterator[Looked | Failure]:
    """Scans and failures in turn; what is wrong with a file of many scans is told once."""
    told: set[Failure] = set()
    for item in items:
        if isinstance(item, Looked):
            yield item
        else:
            yield from (failure for failure in item if failure not in told)
            told.update(item)


def _why(error: Exception) -> str:
    """What a user can make of an error; the kind of error where that is all there is."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which the row names already
    kind, text = type(error).__name__, str(error)
    if text and isinstance(error, WssegError):
        return text
    return f"{kind}: {text}" if text else kind


def _nbytes(item: ScanRef | Looked | Segmented | Outcome | Failure | tuple[Failure, ...]) -> int:
    """Bytes of pixels that an item holds, or will hold once it is read."""
    match item:
        case ScanRef():
            return item.decoded_bytes
        case Looked():
            return item.scan.pixels.nbytes
        case Segmented():
            return item.nbytes()
        case Outcome(found=Segmented() as found):
            return _nbytes(found)
        case _:
            return 0
