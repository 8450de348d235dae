"""Scans in, ratios out: the run as a whole, its options, its counts and its exit code."""

import logging
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

import wsseg
from wsseg.imaging.definitions import Frozen
from wsseg.imaging.discovery import find
from wsseg.imaging.errors import AllFailedError, Failure, NothingToDoError, WssegError
from wsseg.imaging.files import held
from wsseg.imaging.scan import ScanRef
from wsseg.imaging.tables import TableOptions
from wsseg.serve.batching import Limits
from wsseg.serve.empty_slices import skip_empty, skip_none
from wsseg.serve.engines.base import Device, Engine, EngineName, EngineOptions, Precision
from wsseg.serve.engines.select import open_engine
from wsseg.serve.known_ratios import KnownRow, KnownSlices, read_known
from wsseg.serve.likeness import compare_with
from wsseg.serve.manifest import Manifest, load_model
from wsseg.serve.measure import recovered_rows, series_rows, slice_rows
from wsseg.serve.pipeline import Counts, OnProgress, Outcome, Pictures, Pipeline, PixelSize
from wsseg.serve.prefetch import Room
from wsseg.serve.report import Report, open_report, recovered_paths, report_paths, require_free
from wsseg.serve.tables import Provenance

# What a run is asked for, and whether its outputs have a place.

logger = logging.getLogger(__name__)

BATCH = 8
"""Slices that the network sees at once, where nothing else is asked for."""


class InferOptions(Frozen):
    """All of a run but its inputs.

    masks, overlays: folders for label maps and for pictures with the regions drawn in.
    known_ratios: table of ratios on file, to recover masks by, see `read_known`; sheet,
    ignore_columns: how it is read, see `TableOptions`. batch: slices the network sees at once.
    threads: of the engine on a CPU, 0 for the cores that the process may use. readers, read_ahead:
    threads that read, and scans they read ahead. memory_mb: pixels held at once, in MiB, besides
    the engine's own; a larger scan is still read, with no other beside it. skip: leave out slices
    that cannot show tissue, see `skip.skip_empty`. strict: scans that are not like the training
    images fail, see `likeness.compare_with`; else they are flagged. overwrite: an earlier report
    gives way. pixel_mm: of pictures that do not know theirs, (row, column) as they are shown.
    """

    model: Path
    report: Path = Path("ratios.csv")
    masks: Path | None = None
    overlays: Path | None = None
    known_ratios: Path | None = None
    sheet: str | None = None
    ignore_columns: tuple[str, ...] = ()
    engine: EngineName = "auto"
    device: Device = "auto"
    precision: Precision = "auto"
    threads: NonNegativeInt = 0
    batch: PositiveInt = BATCH
    readers: PositiveInt = 2
    read_ahead: PositiveInt = 8
    memory_mb: PositiveInt = 768
    skip: bool = True
    strict: bool = False
    overwrite: bool = False
    pixel_mm: PixelSize | None = None

    @property
    def recovered(self) -> Path | None:
        """Folder for recovered masks, None where no ratios are on file."""
        return recovered_paths(self.report)[1] if self.known_ratios else None

    @property
    def wanted_engine(self) -> EngineOptions:
        """What must compute."""
        return EngineOptions(
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            engine=self.engine,
            probability=self.known_ratios is not None,
            rebuild=True,
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders that label maps and pictures are written to."""
        return tuple(filter(None, (self.masks, self.overlays, self.recovered)))


def check_apart(inputs: Sequence[Path], options: InferOptions) -> None:
    """WssegError for outputs that would replace an input, or be measured by the next run."""
    for folder in options.folders:
        place = "the report, beside which it lies" if folder == options.recovered else "it"
        for source in inputs:
            if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
                raise WssegError(
                    f"output folder {folder} lies inside the input folder {source}, where its "
                    f"pictures would be taken for scans: choose another place for {place}"
                )
            if source.is_file() and source.resolve().parent == folder.resolve():
                raise WssegError(
                    f"output folder {folder} holds the input {source}, which its label map would "
                    f"replace: choose another place for {place}"
                )
    _check_tables(inputs, options)
    others = [folder.resolve() for folder in (options.masks, options.overlays) if folder]
    if options.recovered and options.recovered.resolve() in others:
        raise WssegError(f"recovered masks go to {options.recovered}: choose another for the rest")
    if len(set(others)) < len(others):
        raise WssegError(f"label maps and overlays both go to {options.masks}: choose two folders")


def _check_tables(inputs: Sequence[Path], options: InferOptions) -> None:
    """WssegError for a table of the report that would replace an input or the ratios on file."""
    read = [*inputs, *filter(None, [options.known_ratios])]
    for table in (*report_paths(options.report), recovered_paths(options.report)[0]):
        for source in read:
            if source.resolve() == table.resolve():
                raise WssegError(
                    f"{table} of the report would replace the input {source}: choose another "
                    "--report"
                )


def make_folders(options: InferOptions) -> None:
    """Make the folders that are written to; WssegError for one that cannot be made.

    What is already there stays, and the log tells: its pictures may be of scans that the new
    tables do not have.
    """
    for folder in options.folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                logger.warning(
                    "%s is not empty: pictures of other runs stay in it beside those of this one",
                    folder,
                )
        except OSError as error:
            raise WssegError(f"folder {folder} cannot be made: {error.strerror}") from error


SOME_FAILED = 8
MIB = 1 << 20


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
    inputs: Sequence[Path],
    options: InferOptions,
    *,
    engine: Callable[[], Engine] | None = None,
    on_progress: OnProgress | None = None,
) -> Summary:
    """Measure every scan under `inputs` with a model folder and write the report.

    Rows come in the order in which `find` meets the scans, whatever the batch size and the
    read-ahead. A scan that cannot be read, computed or written is a row of the failures table and
    costs no other scan anything. engine: gives that of the model, after the outputs were checked;
    without it, the one that the options ask for is opened. `on_progress` hears (slices done, slices
    met so far, slices a second).

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
        used, manifest = _write_all(refs, options, counts, engine)
    seconds = time.monotonic() - started
    found = (counts.scans, counts.slices, counts.failed, counts.skipped)
    recovered = counts.recovered if options.known_ratios else None
    warning = _warning(manifest)
    summary = Summary(*found, seconds, used.name, tables, recovered, warning, counts.unlike)
    logger.info("measured scans: %d, slices: %d", *found[:2], extra=_end(summary))
    return summary


def measure(
    inputs: Sequence[Path], options: InferOptions, manifest: Manifest, engine: Engine
) -> Generator[Outcome, None, None]:
    """Measure every scan under `inputs`, in the order of `infer`, and keep its label maps.

    Nothing is written; of the options, those of outputs do not count.
    """
    with tempfile.TemporaryDirectory(prefix="wsseg-", ignore_cleanup_errors=True) as scratch:
        pipeline = replace(_pipeline(engine, manifest, options, None), keep_labels=True)
        refs = find(inputs, scratch=Path(scratch))
        with closing(pipeline(refs, Counts(lambda *_: None))) as outcomes:
            yield from outcomes


def _warning(manifest: Manifest) -> str:
    dependence = manifest.training.dependence
    return dependence.warning if dependence else ""


def _write_all(
    refs: Iterable[ScanRef | Failure],
    options: InferOptions,
    counts: Counts,
    opened: Callable[[], Engine] | None,
) -> tuple[Engine, Manifest]:
    """Write the report of all scans; returns the engine that measured them and its model."""
    manifest, folder = load_model(options.model)
    engine = opened() if opened else open_engine(folder, manifest, options.wanted_engine)
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
    return Provenance(manifest.name, sha256, engine.name, engine.precision, wsseg.__version__)


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
