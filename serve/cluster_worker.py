"""What a worker of a cluster does: it holds the model, and measures scans that the run sends it."""

import hashlib
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

import wsseg
from wsseg.imaging.dicom.codes import merged
from wsseg.imaging.errors import Failure, WssegError, missing_packages
from wsseg.imaging.scan import Scan, ScanRef, SliceId
from wsseg.serve.assembly import outputs_of, pipeline_of, provenance_of
from wsseg.serve.engines.base import Engine, Prediction
from wsseg.serve.engines.child import Fallback
from wsseg.serve.intervals import intervals_of
from wsseg.serve.journal import Journal
from wsseg.serve.known_ratios import KnownSlices
from wsseg.serve.manifest import Manifest, load_model
from wsseg.serve.measure import failed_files
from wsseg.serve.options import InferOptions
from wsseg.serve.pipeline import Counts, Outcome
from wsseg.serve.recover import Known
from wsseg.serve.scan_rows import ScanRows

OpenEngine = Callable[[], Engine]


@dataclass(frozen=True)
class About:
    """Where a worker runs, and what it measures with.

    manifest: digest of the manifest that it read. name, precision, file, gives_probability: those
    of its engine.
    """

    node: str
    version: str
    manifest: str
    name: str
    precision: str
    file: str
    gives_probability: bool


@dataclass(frozen=True)
class Work:
    """What all workers of a run have in common.

    settings: of the run, for the keys of its journal. scratch: folder into which archives are
    unpacked. known: recorded ratios, of which a worker uses those of its scans. places: files and
    folders that each worker has to see.
    """

    settings: Mapping[str, str]
    scratch: Path
    known: KnownSlices | None
    places: tuple[Path, ...]


@dataclass(frozen=True)
class Measured:
    """What came of some scans: an outcome without arrays for each scan or failure, in order.

    slices: how many were measured. asked: the slices of each scan whose recorded ratios were asked
    for.
    """

    outcomes: list[Outcome]
    slices: int
    asked: list[tuple[SliceId, ...]]


class InTurn:
    """An engine for several threads, which it serves one after another."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = Lock()
        self.name, self.precision, self.file = engine.name, engine.precision, engine.file
        self.gives_probability = engine.gives_probability

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        """As `Engine`."""
        with self._lock:
            return self._engine(pixels)

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """As `Engine.with_probability`."""
        with self._lock:
            return self._engine.with_probability(pixels)


class Worker:
    """Holds a model, and measures scans with it; an actor of Ray.

    Errors that a user can correct are returned as text, because Ray would wrap them.
    """

    def open(self, options: InferOptions, engine: OpenEngine | None) -> About | str:
        """Open the model and the engine. engine: opens another one than the options ask for."""
        try:
            with missing_packages():
                manifest, folder = load_model(options.model, options.trust)
                self._manifest = manifest.model_copy(
                    update={"codes": merged(manifest.codes, options.codes)}
                )
                wanted = options.wanted_engine
                isolation = options.isolation
                opened = engine() if engine else isolation.open(folder, self._manifest, wanted)
        except WssegError as error:
            return str(error)
        self._options = options
        self._engine = InTurn(opened)
        self._fallback = Fallback(folder, self._manifest, wanted, opened, isolation)
        return About(
            node=socket.gethostname(),
            version=wsseg.__version__,
            manifest=manifest_digest(self._manifest),
            name=opened.name,
            precision=opened.precision,
            file=opened.file,
            gives_probability=opened.gives_probability,
        )

    def begin(self, work: Work) -> list[Path]:
        """Take part in a run; returns the places that cannot be seen from here."""
        options, manifest = self._options, self._manifest
        self._provenance = provenance_of(manifest, self._engine)
        self._intervals = intervals_of(manifest, options.coverage)
        self._known, self._scratch = work.known, work.scratch
        outputs = outputs_of(options, manifest, self._provenance, self._intervals)
        journal = Journal(options.report, work.settings, self._provenance, work.scratch)
        self._pipeline = replace(
            pipeline_of(self._engine, manifest, options, outputs=outputs),
            journal=journal,
            fallback=self._fallback,
        )
        return [place for place in work.places if not place.exists()]

    def measure(self, refs: Sequence[ScanRef]) -> Measured:
        """Measure scans; several threads may call this."""
        asked: list[tuple[SliceId, ...]] = []

        def known(scan: Scan) -> Known:
            asked.append(tuple(scan.slices))
            return self._known.assign(scan.slices) if self._known else {}

        done = Measured([], 0, asked)
        counts = Counts(lambda *_: None)
        pipeline = replace(self._pipeline, known=known if self._known else lambda _: {})
        items = [item for ref in refs for item in self._checked(ref)]
        with closing(pipeline(items, counts)) as outcomes:
            done.outcomes.extend(map(self._without_arrays, outcomes))
        return replace(done, slices=counts.slices)

    def _checked(self, ref: ScanRef) -> tuple[ScanRef | Failure, ...]:
        """The scan, or failures if it was unpacked where this worker does not see it."""
        unpacked = ref.files[0].path.is_relative_to(self._scratch)
        if not unpacked or self._scratch.exists():
            return (ref,)
        return failed_files(
            ref,
            "not_shared",
            "its archive was unpacked into a folder that the workers do not see: set TMPDIR to a "
            "folder that all machines share, or unpack the archive",
        )

    def _without_arrays(self, outcome: Outcome) -> Outcome:
        measured = outcome.measured
        if measured is None:
            return outcome
        rows = ScanRows.of(
            measured,
            self._manifest,
            self._provenance,
            intervals=self._intervals,
            skipped=outcome.failures,
        )
        return replace(outcome, measured=None, recorded=rows, key=measured.key)


def manifest_digest(manifest: Manifest) -> str:
    """Digest of what `model.json` says, with the codes of the run."""
    return hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()
