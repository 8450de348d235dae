"""Scans in, ratios out: the run as a whole, its options, its counts and its exit code."""

import logging
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from wsseg.imaging.errors import AllFailedError, Failure, NothingToDoError, WssegError
from wsseg.imaging.find import find
from wsseg.imaging.locks import held
from wsseg.imaging.scan import ScanRef
from wsseg.imaging.table import TableOptions
from wsseg.serve.batching import Limits
from wsseg.serve.choose import open_engine
from wsseg.serve.engine import Engine
from wsseg.serve.infer_options import InferOptions, check_apart, make_folders
from wsseg.serve.known_slices import KnownSlices
from wsseg.serve.known_table import KnownRow, read_known
from wsseg.serve.likeness import compare_with
from wsseg.serve.manifest import Manifest
from wsseg.serve.measure import series_rows, slice_rows
from wsseg.serve.model_folder import load_model
from wsseg.serve.pipeline import Counts, OnProgress, Outcome, Pictures, Pipeline
from wsseg.serve.read_ahead import Room
from wsseg.serve.recovered_rows import recovered_rows
from wsseg.serve.report import Report, open_report, report_paths, require_free
from wsseg.serve.rows import Provenance
from wsseg.serve.skip import skip_empty, skip_none

SOME_FAILED = 8
MIB = 1 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What a run did. scans, slices: measured. failed, skipped: rows of the failures table.

    recovered: rows of the table of recovered masks; None where no ratios were on file. warning:
    what must be known of the model; "" for nothing. unlike: scans that were measured though they
    are unlike the training images.
    """

    scans: int
    slices: int
    failed: int
    skipped: int
    seconds: float
    engine: str
    tables: tuple[Path, Path, Path]
    recovered: int | None = None
    warning: str = ""
    unlike: int = 0

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
    check_apart(inputs, options)
    _require_free(options)
    counts = Counts(on_progress or (lambda *_: None))
    # What cannot be cleared away is no reason to lose what was measured.
    with tempfile.TemporaryDirectory(prefix="wsseg-", ignore_cleanup_errors=True) as scratch:
        refs = find(inputs, scratch=Path(scratch))
        engine, manifest = _measure(refs, options, counts)
    seconds = time.monotonic() - started
    found = (counts.scans, counts.slices, counts.failed, counts.skipped)
    recovered = counts.recovered if options.known_ratios else None
    warning = _warning(manifest)
    summary = Summary(*found, seconds, engine.name, tables, recovered, warning, counts.unlike)
    logger.info("measured scans: %d, slices: %d", *found[:2], extra=_end(summary))
    return summary


def _warning(manifest: Manifest) -> str:
    dependence = manifest.training.dependence
    return dependence.warning if dependence else ""


def _measure(
    refs: Iterable[ScanRef | Failure], options: InferOptions, counts: Counts
) -> tuple[Engine, Manifest]:
    """Write the report of all scans; returns the engine that measured them and its model."""
    manifest, folder = load_model(options.model)
    engine = open_engine(folder, manifest, options.wanted_engine)
    known = None
    if options.known_ratios:
        rows = _known_rows(options, options.known_ratios, engine, manifest)
        refs = list(refs)
        known = KnownSlices(options.known_ratios.name, rows, refs)
    pipeline = _pipeline(engine, manifest, options, known)
    provenance = _provenance(manifest, engine)
    with _alone(options):
        make_folders(options)
        logger.info("measuring with %s in %s", engine.name, engine.precision, extra=_start(engine))
        with (
            open_report(options.report, recovered=known is not None) as report,
            closing(_outcomes(pipeline(refs, counts), known, counts)) as outcomes,
        ):
            for outcome in outcomes:
                _write(outcome, report, manifest, provenance)
    return engine, manifest


@contextmanager
def _alone(options: InferOptions) -> Iterator[None]:
    """Hold all outputs; WssegError where another run writes to one, or has just done so."""
    with ExitStack() as stack:
        for output in (options.report, *options.folders):
            stack.enter_context(
                held(output, f"another run is writing {output}: wait for it, or name another place")
            )
        _require_free(options)
        yield


def _require_free(options: InferOptions) -> None:
    recovered = options.known_ratios is not None
    require_free(options.report, recovered=recovered, overwrite=options.overwrite)


def _known_rows(
    options: InferOptions, table: Path, engine: Engine, manifest: Manifest
) -> tuple[KnownRow, ...]:
    """The table of known ratios, if the model can recover masks by it."""
    if not engine.gives_probability:
        raise WssegError(
            f"model {manifest.name} was exported without its probability, which masks are "
            "recovered from: run wsseg-export again"
        )
    return read_known(table, manifest, TableOptions(options.sheet, options.ignore_columns))


def _outcomes(
    outcomes: Generator[Outcome, None, None], known: KnownSlices | None, counts: Counts
) -> Generator[Outcome, None, None]:
    """The outcomes of all scans, and at last the rows of known ratios that fitted none."""
    with closing(outcomes):
        for outcome in outcomes:
            if known and outcome.found and outcome.found.recovered:
                known.recovered(outcome.found.recovered.masks)
            yield outcome
    if known:
        left = Outcome(None, known.failures())
        counts.end(left)
        yield left


def _pipeline(
    engine: Engine, manifest: Manifest, options: InferOptions, known: KnownSlices | None
) -> Pipeline:
    share = options.memory_mb * MIB // 4
    return Pipeline(
        engine=engine,
        manifest=manifest,
        limits=Limits(slices=options.batch, nbytes=share),
        reading=Room(options.readers, options.read_ahead, 2 * share),
        writing=Room(options.readers, options.read_ahead, share),
        pictures=Pictures(options.masks, options.overlays, manifest.window, options.recovered),
        known=known or (lambda _: {}),
        skip=skip_empty(manifest.window) if options.skip else skip_none,
        compare=compare_with(manifest),
        strict=options.strict,
        pixel_mm=options.pixel_mm,
    )


def _provenance(manifest: Manifest, engine: Engine) -> Provenance:
    sha256 = next(e.sha256 for e in manifest.engines if e.file == engine.file)
    return Provenance(manifest.name, sha256, engine.name, engine.precision, version("wsseg"))


def _write(outcome: Outcome, report: Report, manifest: Manifest, provenance: Provenance) -> None:
    if outcome.found:
        report.slices(slice_rows(outcome.found, manifest, provenance))
        report.series(series_rows(outcome.found, manifest, provenance))
        if report.recovered:
            report.recovered(recovered_rows(outcome.found, manifest, provenance))
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
        "warning": summary.warning,
        "unlike": summary.unlike,
    }
