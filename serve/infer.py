"""A run as a whole: its outputs, its counts and its exit code."""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from wsseg.imaging.dicom.codes import check_classes, merged
from wsseg.imaging.discovery import find
from wsseg.imaging.errors import AllFailedError, Failure, NothingToDoError, WssegError
from wsseg.imaging.files import Version, lock_output, recover
from wsseg.imaging.hashed_names import HashedName
from wsseg.imaging.legend import write_legend
from wsseg.imaging.scan import ScanRef
from wsseg.imaging.scratch import scratch_folder, sweep
from wsseg.imaging.tables import TableOptions
from wsseg.imaging.watched import Watched
from wsseg.serve.agreement.reference import Compared, check_reference, compare_run
from wsseg.serve.assembly import outputs_of, pipeline_of, provenance_of
from wsseg.serve.change import Changes
from wsseg.serve.cluster import Cluster, open_cluster
from wsseg.serve.engines.base import Engine, EngineFacts
from wsseg.serve.engines.child import Fallback, Isolation
from wsseg.serve.follow_up import FollowUp
from wsseg.serve.identity import Identifier, load_salt
from wsseg.serve.intervals import Intervals, intervals_of
from wsseg.serve.journal import Journal, journal_path, require_finished
from wsseg.serve.known_ratios import KnownSlices, read_known
from wsseg.serve.manifest import Manifest, load_model
from wsseg.serve.options import InferOptions, check_apart, check_together
from wsseg.serve.outputs import NO_SPACE
from wsseg.serve.pipeline import (
    Counts,
    OnProgress,
    Outcome,
)
from wsseg.serve.report import (
    Provenance,
    open_report,
    report_paths,
    require_free,
)
from wsseg.serve.run_settings import run_settings
from wsseg.serve.scan_rows import ScanRows
from wsseg.serve.shards import Division, record_shard
from wsseg.serve.sources import Files, Source, open_source, stores

SOME_FAILED = 8

logger = logging.getLogger(__name__)

Measure = Callable[[Iterable[ScanRef | Failure | ScanRows], Counts], Generator[Outcome, None, None]]


@dataclass(frozen=True)
class Summary:
    """The result of a run.

    scans, slices: number of measured ones. failed, skipped: rows of the failures table. recovered:
    rows of the table of recovered masks; None without `known_ratios`. warning: what must be known
    of the model; "" for nothing. unlike: scans that were measured although they are unlike the
    training images. compared: what came of the comparison with `reference`, changes: of that with
    `previous`; None without it. resumed: scans that an earlier run had measured. provenance: what
    measured them.
    """

    scans: int
    slices: int
    failed: int
    skipped: int
    seconds: float
    engine: str
    tables: tuple[Path, Path, Path]
    provenance: Provenance
    recovered: int | None = None
    warning: str = ""
    unlike: int = 0
    compared: Compared | None = None
    changes: Changes | None = None
    resumed: int = 0

    @property
    def report(self) -> Path:
        """The table of slices; the others lie beside it."""
        return self.tables[0]

    @property
    def counts(self) -> dict[str, int]:
        """How many scans, slices and files came to which end, for logs."""
        names = ("scans", "slices", "failed", "skipped", "unlike", "resumed")
        return {name: getattr(self, name) for name in names}

    @property
    def facts(self) -> dict[str, str | int]:
        """What an event log holds of the run: no names but the model's."""
        made = self.provenance
        return {
            "model": made.model,
            "model_sha256": made.model_sha256,
            "engine": made.engine,
            "precision": made.precision,
            **self.counts,
            "exit_code": self.exit_code,
        }

    @property
    def exit_code(self) -> int:
        """0 if everything was measured, 3 if no image was found, 4 if all failed, 8 if some did or
        the comparison with `reference`. A key table or a comparison with `previous` that cannot be
        written is a SomeFailedError, of the same code."""
        if self.failed:
            return SOME_FAILED if self.scans else AllFailedError.exit_code
        if not self.scans:
            return NothingToDoError.exit_code
        return SOME_FAILED if self.compared and self.compared.failed else 0


@dataclass(frozen=True)
class Kept:
    """What is kept between the runs over folders that are followed.

    watched: tells which files are complete. verified: see `Journal`.
    """

    watched: Watched
    verified: dict[str, Version] = field(default_factory=dict)


def infer(
    inputs: Sequence[Path],
    options: InferOptions,
    *,
    engine: Callable[[], Engine] | None = None,
    on_progress: OnProgress | None = None,
    kept: Kept | None = None,
) -> Summary:
    """Measure every scan under `inputs` with a model folder and write the report.

    Rows come in the order in which `find` meets the scans, whatever the batch size and the
    read-ahead. A scan that cannot be read, computed or written is a row of the failures table and
    costs no other scan anything. engine: called for the model's engine once the outputs have been
    checked; without it, the engine that the options ask for is opened, in a process of its own if
    they say so. on_progress: receives (slices done, slices met so far, slices per second). kept:
    only the files that it calls complete are measured, the caller has locked the outputs, and the
    journal stays.

    Raises WssegError, before any scan is read, for inputs, options and models that cannot be used,
    and AllFailedError if the report cannot be written.
    """
    started = time.monotonic()
    tables = report_paths(options.report)
    resumes = options.resume and journal_path(options.report).exists()
    if resumes:  # the run that began was allowed to write here
        options = options.model_copy(update={"overwrite": True})
    inputs = _for_workers(inputs, options)
    check_together(options)
    check_apart(inputs, options)
    recovers = options.known_ratios is not None
    recover(options.report)
    require_free(options.report, recovered=recovers, overwrite=options.overwrite)
    follow_up = FollowUp.of(options)
    salt = _source_salt(options)
    names: dict[str, str] = {}  # what hashed sources stand for
    counts = Counts(on_progress or (lambda *_: None))
    with scratch_folder() as scratch, ExitStack() as stack:
        source = _source(inputs, options, scratch, kept=kept, salt=salt)
        manifest, folder = load_model(options.model, options.trust)
        intervals = intervals_of(manifest, options.coverage)
        check_classes(options.codes, manifest.classes)
        manifest = manifest.model_copy(update={"codes": merged(manifest.codes, options.codes)})
        if options.reference:
            check_reference(
                options.reference,
                options.report,
                manifest.ratios,
                options.agree_options,
                inputs=inputs,
                overwrite=options.overwrite,
            )
        used, options = stack.enter_context(_opened(options, manifest, folder, scratch, engine))
        _check_probability(used, manifest, options)
        known = None
        if options.known_ratios:
            table = TableOptions(options.sheet, options.ignore_columns)
            rows = read_known(options.known_ratios, manifest, table)
            everything = _everything(inputs, options, scratch, salt)
            source = Files(everything)
            known = KnownSlices(options.known_ratios.name, rows, everything, salt=salt)
        division = None
        if options.shard:
            division = Division.of(_everything(inputs, options, scratch, salt), options.shard)
            source = Files(division.mine)
        provenance = provenance_of(manifest, used)
        outputs = outputs_of(options, manifest, provenance, intervals) + stores(options, inputs)
        settings = run_settings(options, manifest, provenance, salt)
        journal = Journal(options.report, settings, provenance, scratch)
        if kept:
            journal.verified = kept.verified
        if isinstance(used, Cluster):
            measure_all: Measure = partial(
                used.measure, journal=journal, known=known, places=inputs
            )
        else:
            again = Fallback(folder, manifest, options.wanted_engine, used, options.isolation)
            pipeline = pipeline_of(used, manifest, options, known=known, outputs=outputs)
            measure_all = replace(pipeline, journal=journal, fallback=again)
        with ExitStack() as locks:
            shared = division is not None
            locks.enter_context(lock_outputs(options, shared=shared, held=kept is not None))
            # Again, because another run may just have written its report.
            require_free(options.report, recovered=recovers, overwrite=options.overwrite)
            if resumes and not journal.path.exists():
                raise WssegError(f"another run has just finished {options.report}")
            if not (resumes or options.overwrite):
                require_finished(options.report)
            _make_folders(options, fresh=not (resumes or division))
            if options.masks:
                named = (manifest.classes, manifest.codes, manifest.name)
                write_legend(options.masks, *named, provenance.model_sha256)
            logger.info(
                "measuring with %s in %s",
                used.name,
                used.precision,
                extra={"event": "run_started", "engine": used.name, "precision": used.precision},
            )
            locks.enter_context(journal.opened(resume=resumes))
            with (
                closing(_naming(source.refs(journal), names)) as refs,
                closing(measure_all(refs, counts)) as outcomes,
            ):
                followed = source.followed(outcomes, journal)
                _write_report(
                    _with_rows(followed, manifest, provenance, intervals, journal),
                    options.report,
                    known=known,
                    counts=counts,
                    identifier=follow_up.identifier,
                )
                record_shard(options.report, division, settings)
            compared = _compared(options, names)
            changes = follow_up.finish(options.report)
    dependence = manifest.training.dependence
    summary = Summary(
        scans=counts.scans,
        slices=counts.slices,
        failed=counts.failed,
        skipped=counts.skipped,
        seconds=time.monotonic() - started,
        engine=used.name,
        tables=tables,
        provenance=provenance,
        recovered=counts.recovered if recovers else None,
        warning=dependence.warning if dependence else "",
        unlike=counts.unlike,
        changes=changes,
        compared=compared,
        resumed=counts.resumed,
    )
    _log_end(summary)
    return summary


def _log_end(summary: Summary) -> None:
    logger.info(
        "measured scans: %d, slices: %d",
        summary.scans,
        summary.slices,
        extra={
            "event": "run_ended",
            **summary.counts,
            "seconds": round(summary.seconds, 3),
            "exit_code": summary.exit_code,
            "warning": summary.warning,
            **({"compared": summary.compared.words} if summary.compared else {}),
        },
    )


def _everything(
    inputs: Sequence[Path], options: InferOptions, scratch: Path, salt: bytes | None
) -> list[ScanRef | Failure]:
    """All that is under the inputs, for what has to know it before the first scan is measured."""
    return list(find(inputs, scratch=scratch, limits=options.limits, salt=salt))


def _source(
    inputs: Sequence[Path],
    options: InferOptions,
    scratch: Path,
    *,
    kept: Kept | None,
    salt: bytes | None,
) -> Source:
    if kept is None:
        return open_source(inputs, options, scratch, salt)
    watched = kept.watched
    return Files(find(inputs, scratch=scratch, limits=options.limits, watched=watched, salt=salt))


def _source_salt(options: InferOptions) -> bytes | None:
    """The salt of hashed sources; None where sources are paths."""
    return load_salt(options.salt) if options.salt and options.source == "hash" else None


def _naming(
    refs: Generator[ScanRef | Failure | ScanRows, None, None], names: dict[str, str]
) -> Generator[ScanRef | Failure | ScanRows, None, None]:
    """The scans; `names` receives what their hashed sources stand for."""
    with closing(refs):
        for item in refs:
            files = item.files if isinstance(item, ScanRef) else ()
            sources = (file.source for file in files)
            names.update((s, s.name) for s in sources if isinstance(s, HashedName))
            yield item


@contextmanager
def lock_outputs(
    options: InferOptions, *, shared: bool = False, held: bool = False
) -> Iterator[None]:
    """Lock the report and the folders of a run; nothing if they are `held` already.

    shared: the folders are locked against runs alone that do not share them. Raises WssegError
    where another run writes one of them.
    """
    with ExitStack() as locks:
        for output in () if held else (options.report, *options.folders):
            busy = f"another run is writing {output}: wait for it, or name another place"
            only_some = shared and output != options.report
            locks.enter_context(lock_output(output, busy, shared=only_some))
        yield


def measure(
    inputs: Sequence[Path], options: InferOptions, manifest: Manifest, engine: Engine
) -> Generator[Outcome, None, None]:
    """Measure every scan under `inputs`, in the order of `infer`, and keep its label maps.

    Nothing is written; options of outputs have no effect.
    """
    here = Isolation(isolate=False)
    fallback = Fallback(options.model, manifest, options.wanted_engine, engine, here)
    with scratch_folder() as scratch:
        pipeline = replace(
            pipeline_of(engine, manifest, options), keep_labels=True, fallback=fallback
        )
        salt = _source_salt(options)
        refs = find(inputs, scratch=scratch, limits=options.limits, salt=salt)
        with closing(pipeline(refs, Counts(lambda *_: None))) as outcomes:
            yield from outcomes


def _for_workers(inputs: Sequence[Path], options: InferOptions) -> Sequence[Path]:
    """The inputs; absolute for the workers of a cluster, which have other working directories."""
    return [path.absolute() for path in inputs] if options.cluster else inputs


def _compared(options: InferOptions, names: dict[str, str]) -> Compared | None:
    """What comes of the comparison with the table of `reference`, if there is one."""
    if options.reference is None:
        return None
    return compare_run(options.reference, options.report, options.agree_options, names)


def _check_probability(used: EngineFacts, manifest: Manifest, options: InferOptions) -> None:
    """Raise WssegError where the options need a probability that the engine does not give."""
    if options.needs_probability and not used.gives_probability:
        raise WssegError(
            f"model {manifest.name} was exported without its probability, which --probability "
            "and --known-ratios take: run wsseg-export again"
        )


@contextmanager
def _opened(
    options: InferOptions,
    manifest: Manifest,
    folder: Path,
    scratch: Path,
    engine: Callable[[], Engine] | None,
) -> Iterator[tuple[Engine | Cluster, InferOptions]]:
    """What measures, the engine or workers of a cluster that have opened it, and with what."""
    if options.cluster:
        with open_cluster(options, manifest, scratch, engine) as cluster:
            yield cluster, cluster.options
    else:
        wanted = options.wanted_engine
        used = engine() if engine else options.isolation.open(folder, manifest, wanted)
        yield used, options


def _make_folders(options: InferOptions, *, fresh: bool) -> None:
    """Create the output folders; WssegError for one that cannot be created.

    Existing pictures stay; if the folders should be `fresh`, with a warning: they may show scans
    that the new tables do not have.
    """
    for folder in options.folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
            if fresh and any(folder.iterdir()):
                logger.warning(
                    "%s is not empty: pictures of other runs stay in it beside those of this one",
                    folder,
                )
        except OSError as error:
            raise WssegError(f"folder {folder} cannot be made: {error.strerror}") from error


def _with_rows(
    outcomes: Iterable[Outcome],
    manifest: Manifest,
    provenance: Provenance,
    intervals: Intervals | None,
    journal: Journal,
) -> Iterator[tuple[Outcome, ScanRows | None]]:
    """Each outcome with the rows of its scan, which the journal has from then on.

    A scan of which anything failed is not added: the reason may be gone when the run goes on.
    """
    for outcome in outcomes:
        rows, measured = outcome.recorded, outcome.measured
        if measured:
            rows = ScanRows.of(
                measured, manifest, provenance, intervals=intervals, skipped=outcome.failures
            )
            journal.keep(outcome.written)
            if outcome.complete:
                journal.add(measured.key, rows, outcome.written)
        journal.incomplete |= any(failure.reason == NO_SPACE for failure in outcome.failures)
        yield outcome, rows
    journal.sync()  # before the tables name these files


def _write_report(
    outcomes: Iterable[tuple[Outcome, ScanRows | None]],
    path: Path,
    *,
    known: KnownSlices | None,
    counts: Counts,
    identifier: Identifier | None = None,
) -> None:
    """Write the rows of all scans, then the rows of known ratios that no mask was recovered for."""
    with open_report(path, recovered=known is not None) as report:
        for outcome, rows in outcomes:
            if rows:
                report.slices(rows.slices)
                report.series(rows.series)
                if identifier:
                    identifier.add(rows.ref, rows.origin)
                if report.recovered:
                    report.recovered(rows.recovered)
                if known:
                    known.recovered(rows.lines)
            for failure in outcome.failures:
                report.fail(failure)
        if known:
            left = Outcome(None, known.failures())
            counts.end(left)
            for failure in left.failures:
                report.fail(failure)
