"""`wsseg-infer`: scans to ratios.csv."""

from pathlib import Path
from typing import Annotated

import typer

from wsseg.cli.console import guarded, start_logging
from wsseg.cli.table_options import IgnoreOption, SheetOption


def infer(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Files, folders or archives: DICOM, volumes (NIfTI, ...), pictures."),
    ],
    model: Annotated[
        Path, typer.Option(envvar="WSSEG_MODEL", help="Model folder that wsseg-export wrote.")
    ],
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
    known_ratios: Annotated[
        Path | None,
        typer.Option(
            help="Table of ratios on file: recover masks of these sizes, beside the report. "
            "Changes no measured ratio, but passes TensorRT over."
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
    device: Annotated[
        str,
        typer.Option(envvar="WSSEG_DEVICE", help="auto, cpu or cuda (an error where it fails)."),
    ] = "auto",
    engine: Annotated[
        str,
        typer.Option(
            help="auto (the fastest that agreed with PyTorch), onnxruntime, openvino, tensorrt, "
            "tensorrt-rtx, onnxruntime-tensorrt, onnxruntime-tensorrt-rtx or torch."
        ),
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto (that of the fastest engine), fp32, fp16, bf16 or int8.")
    ] = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Slices the network sees at once.")] = 8,
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads of the network; 0: all cores it may use.")
    ] = 0,
    skip: Annotated[
        bool,
        typer.Option(
            "--skip/--no-skip",
            help="Leave out slices that cannot show tissue: of one value, or CT with only air.",
        ),
    ] = True,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse scans that are not like the training images (other modality, unit or "
            "range of values); without it they are measured and flagged.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a report that is already there.")
    ] = False,
    json_log: Annotated[
        bool, typer.Option("--json-log", help="Log one JSON object a line to stderr.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log details.")] = False,
) -> None:
    """Measure area ratios on folders of scans.

    Writes REPORT with one row per slice and ratio, a .series table with one row per series and a
    .failures table with every file that gave no result, and why. One bad scan never costs another
    its result.
    """
    start_logging(as_json=json_log, verbose=verbose)
    kept = "no table is written; label maps and overlays that were finished stay"
    with guarded(interrupted=kept):
        from wsseg.cli.inferring import run_inference

        code = run_inference(
            inputs,
            model=model,
            report=report,
            masks=masks,
            overlays=overlays,
            known_ratios=known_ratios,
            sheet=sheet,
            ignore_columns=tuple(ignore_columns or ()),
            engine=engine,
            device=device,
            precision=precision,
            batch=batch,
            threads=threads,
            skip=skip,
            strict=strict,
            pixel_mm=pixel_mm,
            overwrite=overwrite,
            quiet=json_log,
        )
    raise typer.Exit(code)
