"""Scans in, ratios out: the run as a whole, its options, its counts and its exit code."""

import logging
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from wsseg.imaging.definitions import Frozen
from wsseg.imaging.errors import AllFailedError, Failure, NothingToDoError, WssegError
from wsseg.imaging.find import find
from wsseg.imaging.scan import ScanRef
from wsseg.serve.batching import Limits
from wsseg.serve.engine import Engine
from wsseg.serve.manifest import Manifest
from wsseg.serve.measure import series_rows, slice_rows
from wsseg.serve.model_folder import load_model
from wsseg.serve.onnx_engine import Device, EngineOptions, Precision, open_onnx
from wsseg.serve.pipeline import Counts, OnProgress, Outcome, Pictures, Pipeline
from wsseg.serve.read_ahead import Room
from wsseg.serve.report import Report, open_report, report_paths
from wsseg.serve.rows import Provenance

SOME_FAILED = 8
MIB = 1 << 20

logger = logging.getLogger(__name__)


class InferOptions(Frozen):
    """All of a run but its inputs.

    masks, overlays: folders for label maps and for pictures with the regions drawn in. batch:
    slices the network sees at once. threads: of the engine on a CPU, 0 leaves it to the runtime.
    readers, read_ahead: threads that read, and scans they read ahead. memory_mb: pixels held at
    once, in MiB, besides the engine's own; a larger scan is still read, with no other beside it.
    """

    model: Path
    report: Path = Path("ratios.csv")
    masks: Path | None = None
    overlays: Path | None = None
    device: Device = "auto"
    precision: Precision = "auto"
    threads: NonNegativeInt = 0
    batch: PositiveInt = 8
    readers: PositiveInt = 2
    read_ahead: PositiveInt = 32
    memory_mb: PositiveInt = 2048


@dataclass(frozen=True)
class Summary:
    """What a run did. scans, slices: measured. failed, skipped: rows of the failures table."""

    scans: int
    slices: int
    failed: int
    skipped: int
    seconds: float
    engine: str
    tables: tuple[Path, Path, Path]

    @property
    def report(self) -> Path:
        """The table of slices; the others lie beside it."""
        return self.tables[0]

    @property
    def exit_code(self) -> int:
        """0 all done, 3 no image was found, 4 all failed, 8 some failed."""
        if self.failed:
            return SOME_FAILED if self.scans else AllFailedError.exit_code
        return 0 if self.scans else NothingToDoError.exit_code


def infer(
    inputs: Sequence[Path], options: InferOptions, *, on_progress: OnProgress | None = None
) -> Summary:
    """Measure every scan under `inputs` with a model folder and write the report.

    Rows come in the order in which `find` meets the scans, whatever the batch size and the
    read-ahead. A scan that cannot be read, computed or written is a row of the failures table and
    costs no other scan anything. `on_progress` hears (slices done, slices met so far, slices a
    second).

    Raises WssegError, before any scan is read, for inputs, options and models that cannot be used,
    and AllFailedError if the report cannot be written.
    """
    started = time.monotonic()
    tables = report_paths(options.report)
    _check_apart(inputs, options)
    counts = Counts(on_progress or (lambda *_: None))
    # What cannot be cleared away is no reason to lose what was measured.
    with tempfile.TemporaryDirectory(prefix="wsseg-", ignore_cleanup_errors=True) as scratch:
        refs = find(inputs, scratch=Path(scratch))
        engine = _measure(refs, options, counts)
    seconds = time.monotonic() - started
    found = (counts.scans, counts.slices, counts.failed, counts.skipped)
    summary = Summary(*found, seconds, engine.name, tables)
    logger.info("measured %d scans, %d slices", *found[:2], extra=_end(summary))
    return summary


def _measure(refs: Iterable[ScanRef | Failure], options: InferOptions, counts: Counts) -> Engine:
    """Write the report of all scans; returns the engine that measured them."""
    manifest, folder = load_model(options.model)
    asked = EngineOptions(options.device, options.precision, options.threads)
    engine = open_onnx(folder, manifest, asked)
    _make_folders(options)
    logger.info("measuring with %s in %s", engine.name, engine.precision, extra=_start(engine))
    pipeline = _pipeline(engine, manifest, options)
    provenance = _provenance(manifest, engine)
    with open_report(options.report) as report, closing(pipeline(refs, counts)) as outcomes:
        for outcome in outcomes:
            _write(outcome, report, manifest, provenance)
    return engine


def _check_apart(inputs: Sequence[Path], options: InferOptions) -> None:
    """Pictures written among the inputs would be measured, in this run or in the next."""
    for folder in (options.masks, options.overlays):
        for source in inputs:
            if folder and source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
                raise WssegError(
                    f"output folder {folder} lies inside the input folder {source}, where its "
                    "pictures would be taken for scans: choose another place for it"
                )


def _make_folders(options: InferOptions) -> None:
    for folder in (options.masks, options.overlays):
        try:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WssegError(f"folder {folder} cannot be made: {error.strerror}") from error


def _pipeline(engine: Engine, manifest: Manifest, options: InferOptions) -> Pipeline:
    share = options.memory_mb * MIB // 4
    return Pipeline(
        engine=engine,
        manifest=manifest,
        limits=Limits(slices=options.batch, nbytes=share),
        reading=Room(options.readers, options.read_ahead, 2 * share),
        writing=Room(options.readers, options.read_ahead, share),
        pictures=Pictures(options.masks, options.overlays, manifest.window),
    )


def _provenance(manifest: Manifest, engine: Engine) -> Provenance:
    sha256 = next(e.sha256 for e in manifest.engines if e.file == engine.file)
    return Provenance(manifest.name, sha256, engine.name, engine.precision, version("wsseg"))


def _write(outcome: Outcome, report: Report, manifest: Manifest, provenance: Provenance) -> None:
    if outcome.found:
        report.slices(slice_rows(outcome.found, manifest, provenance))
        report.series(series_rows(outcome.found, manifest, provenance))
    for failure in outcome.failures:
        report.fail(failure)


def _start(engine: Engine) -> dict[str, object]:
    return {"event": "run_started", "engine": engine.name, "precision": engine.precision}


def _end(summary: Summary) -> dict[str, object]:
    return {
        "event": "run_ended",
        "scans": summary.scans,
        "slices": summary.slices,
        "failed": summary.failed,
        "skipped": summary.skipped,
        "seconds": round(summary.seconds, 3),
        "exit_code": summary.exit_code,
    }
