"""`wsseg-infer`: scans to ratios.csv."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import wsseg
from wsseg.cli.console import (
    CodeOption,
    IgnoreOption,
    JsonLogOption,
    SheetOption,
    guarded,
    progress_bar,
    say,
    start_logging,
)
from wsseg.cli.measuring import (
    BatchOption,
    CoverageOption,
    DeviceOption,
    EngineOption,
    EngineSecondsOption,
    IsolateOption,
    MaxScanOption,
    MemoryOption,
    ModelOption,
    PrecisionOption,
    ReadersOption,
    ReadSecondsOption,
    SegTypeOption,
    StrictOption,
    ThreadsOption,
    TrustOption,
)
from wsseg.imaging.limits import DEFAULT_LIMITS, MIB

if TYPE_CHECKING:
    from wsseg.serve.infer import Summary


def infer(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Files, folders or archives: DICOM, volumes (NIfTI, ...), pictures. Or one "
            "DICOMweb server: dicomweb:https://HOST/PATH."
        ),
    ],
    model: ModelOption,
    report: Annotated[Path, typer.Option(help="Table to write: .csv, .jsonl or .parquet.")] = Path(
        "ratios.csv"
    ),
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder for label maps: NIfTI on the scan's own grid, PNG for pictures."),
    ] = None,
    overlays: Annotated[
        Path | None, typer.Option(help="Folder for PNG pictures with the regions drawn in.")
    ] = None,
    sr: Annotated[
        Path | None,
        typer.Option(help="Folder for DICOM structured reports, one for each scan of DICOM files."),
    ] = None,
    seg: Annotated[
        Path | None,
        typer.Option(help="Folder for DICOM segmentations, a SEG file for each series."),
    ] = None,
    seg_type: SegTypeOption = "binary",
    seg_sparse: Annotated[
        bool,
        typer.Option(
            "--seg-sparse",
            help="Leave empty slices out of the SEG. Several programs then misplace the others.",
        ),
    ] = False,
    probability: Annotated[
        Path | None,
        typer.Option(
            help="Folder for probability maps: NIfTI on the scan's own grid, TIFF for pictures. "
            "Rules TensorRT out."
        ),
    ] = None,
    probability_type: Annotated[
        str, typer.Option(help="float32, or uint8 (a quarter of the size, in steps of 1/255).")
    ] = "float32",
    known_ratios: Annotated[
        Path | None,
        typer.Option(
            help="Table of ratios on file: recover masks of these sizes, beside the report. "
            "Changes no measured ratio, but rules TensorRT out."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Table of ratios on file: compare the report with them when it is written, as "
            "wsseg agree does, beside the report.",
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            help="What tables, files and the log call a scan: its path, or a hash of it under "
            "--salt, for folders that are called like patients."
        ),
    ] = "path",
    identify: Annotated[
        Path | None,
        typer.Option(
            help="Key table to write: a hashed key of the patient and the study date of each scan."
        ),
    ] = None,
    salt: Annotated[
        Path | None,
        typer.Option(
            help="File with the secret of keys and hashed sources; made if it is missing."
        ),
    ] = None,
    real_identifiers: Annotated[
        bool,
        typer.Option(
            "--real-identifiers", help="Write PatientID and the path into the key table too."
        ),
    ] = False,
    previous: Annotated[
        list[Path] | None,
        typer.Option(help="Report of an earlier run to compare patients with. Repeat for several."),
    ] = None,
    keys: Annotated[
        list[Path] | None,
        typer.Option(help="Key table of these reports. Repeat for several."),
    ] = None,
    repeatability: Annotated[
        str | None,
        typer.Option(
            metavar="COEFFICIENT",
            help="Difference of two measurements without a change that 95 % do not exceed: a "
            "fraction, or agreement.csv of wsseg agree.",
        ),
    ] = None,
    sheet: SheetOption = None,
    ignore_columns: IgnoreOption = None,
    pixel_mm: Annotated[
        str | None,
        typer.Option(
            metavar="MM",
            help="Pixel size of pictures that do not know theirs: one length in mm, or ROW,COLUMN. "
            "DICOM, NIfTI and TIFFs with a size keep their own.",
        ),
    ] = None,
    code: CodeOption = None,
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    batch: BatchOption = 8,
    threads: ThreadsOption = 0,
    isolate: IsolateOption = True,
    engine_seconds: EngineSecondsOption = 300.0,
    readers: ReadersOption = 2,
    memory_mb: MemoryOption = 768,
    max_scan_mb: MaxScanOption = DEFAULT_LIMITS.scan_bytes // MIB,
    max_inflated_mb: Annotated[
        int, typer.Option(min=1, help="MiB that one compressed file or archive may unpack to.")
    ] = DEFAULT_LIMITS.inflated_bytes // MIB,
    max_frames: Annotated[
        int, typer.Option(min=1, help="Slices that one file may have.")
    ] = DEFAULT_LIMITS.frames,
    max_entries: Annotated[
        int, typer.Option(min=1, help="Files that one archive may hold.")
    ] = DEFAULT_LIMITS.entries,
    read_seconds: ReadSecondsOption = DEFAULT_LIMITS.seconds,
    skip: Annotated[
        bool,
        typer.Option(
            "--skip/--no-skip",
            help="Leave out slices that cannot show tissue: of one value, or CT with only air.",
        ),
    ] = True,
    strict: StrictOption = False,
    coverage: CoverageOption = None,
    query: Annotated[
        str | None,
        typer.Option(
            metavar="ATTRIBUTES",
            help="Which series of a server to measure, such as "
            "'StudyDate=20260101-20260131&Modality=CT'.",
        ),
    ] = None,
    series_mb: Annotated[
        int, typer.Option(min=1, help="MiB that a series of a server has at most.")
    ] = 4096,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="SERVER",
            help="Store what --seg and --sr write on a DICOMweb server too: "
            "dicomweb:https://HOST/PATH.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a report that is already there.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a run of this report that did not end: only scans that it did not "
            "finish, or that changed, are measured. Without such a run, begin one.",
        ),
    ] = False,
    trust: TrustOption = None,
    event_log: Annotated[
        Path | None,
        typer.Option(
            envvar="WSSEG_EVENT_LOG",
            help="File to which the begin and the end of the run are appended, for audits: model, "
            "counts and exit code, and no names.",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Measure with the workers of a Ray cluster: its address (host:port, or auto on "
            "one of its machines), or local for workers on this machine.",
        ),
    ] = None,
    cluster_cpus: Annotated[
        int,
        typer.Option(
            min=0, help="CPUs of each worker of --cluster; 0: 4, or fewer if no machine has 4."
        ),
    ] = 0,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Measure the I-th of N parts of the inputs, I from 1; wsseg merge joins the "
            "reports. Each part needs a --report of its own.",
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Measure the folders again whenever files in them have come or changed, until "
            "interrupted. A series is measured when it is complete.",
        ),
    ] = False,
    settle: Annotated[
        float,
        typer.Option(
            min=0,
            help="With --follow: seconds without a change after which a file is complete.",
        ),
    ] = 10.0,
    poll: Annotated[
        bool,
        typer.Option(
            "--poll",
            help="With --follow: list the folders again and again, because the system does not "
            "report all changes. Network shares are listed anyway.",
        ),
    ] = False,
    json_log: JsonLogOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log details.")] = False,
) -> None:
    """Measure area ratios on folders of scans.

    Writes REPORT with one row per slice and ratio, a .series table with one row per series and a
    .failures table with every file that gave no result, and why. One bad scan never costs another
    its result.
    """
    start_logging(as_json=json_log, verbose=verbose)
    kept = (
        "no table is written yet; scans that were finished are kept, and the same command with "
        "--resume goes on with the others"
    )
    if follow:
        kept = (
            "the tables are those of the last round; scans that were finished are kept, and the "
            "same command goes on with the others"
        )
    with guarded(interrupted=kept):
        exit_code = run_inference(
            inputs,
            model=model,
            report=report,
            masks=masks,
            overlays=overlays,
            sr=sr,
            seg=seg,
            seg_type=seg_type,
            seg_sparse=seg_sparse,
            probability=probability,
            probability_type=probability_type,
            known_ratios=known_ratios,
            reference=reference,
            source=source,
            identify=identify,
            salt=salt,
            real_identifiers=real_identifiers,
            previous=tuple(previous or ()),
            keys=tuple(keys or ()),
            repeatability=repeatability,
            sheet=sheet,
            ignore_columns=tuple(ignore_columns or ()),
            engine={
                "engine": engine,
                "device": device,
                "precision": precision,
                "threads": threads,
                "trust": tuple(trust or ()),
            },
            batch=batch,
            isolate=isolate,
            engine_seconds=engine_seconds,
            readers=readers,
            memory_mb=memory_mb,
            max_scan_mb=max_scan_mb,
            max_inflated_mb=max_inflated_mb,
            max_frames=max_frames,
            max_entries=max_entries,
            read_seconds=read_seconds,
            skip=skip,
            strict=strict,
            coverage=coverage,
            pixel_mm=pixel_mm,
            codes=code or None,
            query=query,
            series_mb=series_mb,
            store=store,
            overwrite=overwrite,
            resume=resume,
            cluster=cluster,
            cluster_cpus=cluster_cpus,
            shard=shard,
            follow=follow,
            settle=settle,
            poll=poll,
            quiet=json_log,
            event_log=event_log,
        )
    raise typer.Exit(exit_code)


def run_inference(
    inputs: list[Path],
    *,
    model: Path,
    report: Path,
    engine: dict[str, Any],
    quiet: bool = False,
    event_log: Path | None = None,
    isolate: bool = True,
    **given: Any,
) -> int:
    """Measure `inputs`; print a closing line unless `quiet`; return the exit code.

    engine: options of `wsseg.load_model`. event_log: see `recorded`. isolate, given: options of
    `Model.measure_to`.
    """
    from wsseg.serve.engines.process import prepared

    with ExitStack() as stack:
        if isolate:  # first: it starts while the rest is imported
            stack.enter_context(prepared())
        from rich.progress import TaskProgressColumn

        from wsseg.serve.event_log import recorded

        facts = stack.enter_context(recorded(event_log))
        rate_column = "{task.fields[rate]:.1f} slices/s"
        progress = stack.enter_context(
            progress_bar(TaskProgressColumn(), rate_column, shown=not quiet)
        )
        task = progress.add_task("measuring", total=None, rate=0.0)

        def show(done: int, known: int, rate: float) -> None:
            progress.update(task, completed=done, total=known, rate=rate)

        def end(summary: "Summary") -> None:
            facts.values = summary.facts
            if not quiet:
                say(closing_line(summary))

        opened = wsseg.load_model(model, **engine)
        summary = opened.measure_to(
            report, inputs, on_progress=show, on_round=end, isolate=isolate, **given
        )
        end(summary)
    return summary.exit_code


def closing_line(summary: "Summary") -> str:
    """Say what was measured, what failed and where the tables are."""
    rate = summary.slices / summary.seconds if summary.seconds else 0.0
    recovered = (
        "" if summary.recovered is None else f"{_counted(summary.recovered, 'mask')} recovered, "
    )
    read = f"{_counted(summary.scans, 'scan')}, {_counted(summary.slices, 'slice')}"
    read += f" ({_counted(summary.resumed, 'scan')} of an earlier run)" if summary.resumed else ""
    warning = f"; WARNING: {summary.warning}" if summary.warning else ""
    why = f" ({summary.tables[2]} says why)" if summary.failed or summary.skipped else ""
    unlike = (
        f"; WARNING: {_counted(summary.unlike, 'scan')} unlike the training images "
        "(flags in the tables say how, --strict refuses them)"
        if summary.unlike
        else ""
    )
    compared = f"; {summary.compared.words}" if summary.compared else ""
    compared += f"; {summary.changes.words}" if summary.changes else ""
    nothing = "" if summary.scans or summary.failed else "; no image was found"
    return (
        f"{read} in {summary.seconds:.1f} s "
        f"({rate:.1f} slices/s, {summary.engine}); {recovered}"
        f"{_counted(summary.failed, 'file')} failed, {summary.skipped} skipped{why}{nothing}; "
        f"wrote {summary.report}{unlike}{warning}{compared}"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
