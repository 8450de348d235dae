"""`wsseg-train`: cases.csv to a run folder."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import wsseg
from wsseg.cli.console import (
    CodeOption,
    IgnoreOption,
    JsonLogOption,
    RatioOption,
    SheetOption,
    guarded,
    progress_bar,
    start_logging,
)

if TYPE_CHECKING:
    from wsseg.train.progress import StepReport


def train(
    cases: Annotated[Path, typer.Argument(help="Table of images, ratios and marks (CSV, XLSX).")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    config: Annotated[
        Path | None, typer.Option(help="TOML file with any setting; flags win over it.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Loss terms: wsseg (all that is known, as targets), paper (the literal recipe), "
            "full (needs masks), or another of docs/method.md. [default: wsseg]"
        ),
    ] = None,
    mark_average: Annotated[
        str | None,
        typer.Option(
            help="Divide the mark term by all pixels (image, the paper's reading) or by the marked "
            "ones (mark, about 100 times stronger). [default: image]"
        ),
    ] = None,
    ratio: RatioOption = None,
    code: CodeOption = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="resnet50, resnet101, mobilenet_v3_large or mobilenet_v2. [default: resnet50]"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Starting weights: none, imagenet or coco (both downloaded by torchvision), or a "
            "local .safetensors file. [default: none]"
        ),
    ] = None,
    distill: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of a trained network that teaches this one too, of any kind and size. "
            "Its cases need no ratio or mark then. [default: none]"
        ),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(
            help="Modality of training images whose files name none (pictures, NIfTI), as DICOM "
            "codes it: CT, MR, US. Scans of another are flagged by wsseg-infer. [default: unknown]"
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the square the network sees. [default: 256]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="[default: 60]")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images a step, over all processes. [default: 8]")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="[default: 3e-4]")] = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="How the best epoch is chosen: mask (validation IoU), weak (marks and ratios "
            "only), last, or auto (mask where masks are given). [default: auto]"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="[default: 0]")] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    devices: Annotated[int | None, typer.Option(help="Processes or GPUs. [default: 1]")] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto (bf16 where the hardware has it), fp32 or bf16.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Cross-validation: train so many times, each time without one fold of the groups, "
            "in OUT/fold-1 and so on; OUT/predictions.csv has every case as found by the run that "
            "did not learn from it. [default: one run]",
        ),
    ] = None,
    calibrate: Annotated[
        float | None,
        typer.Option(
            help="Share of the training groups (patients) to keep aside, such as 0.15: the export "
            "computes intervals of the ratios from them. [default: 0]"
        ),
    ] = None,
    sheet: SheetOption = None,
    ignore_columns: IgnoreOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on where the run in --out stopped, with the settings that it began with.",
        ),
    ] = False,
    json_log: JsonLogOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log details.")] = False,
) -> None:
    """Train a segmenter from area ratios, weak marks and whatever else is known.

    CASES has a row per image with the columns image, ratio (0 to 1), marks (label image: 0 not
    marked, 1 the first class, 255 marked as background), and others: docs/cases.md. The whole
    table is checked before the first step; `wsseg cases check` tells what it can teach.

    The run folder gets weights.safetensors, run.json, metrics.csv, curves.png, examples.png,
    splits.csv (which rows judge), predictions.csv (what becomes of them) and TensorBoard events;
    `wsseg-export` takes it from there.
    """
    given: dict[str, Any] = {
        "preset": preset,
        "mark_average": mark_average,
        "network": network,
        "weights": weights,
        "distill": distill,
        "modality": modality,
        "size": size,
        "epochs": epochs,
        "batch": batch,
        "learning_rate": learning_rate,
        "select": select,
        "seed": seed,
        "accelerator": accelerator,
        "devices": devices,
        "precision": precision,
        "ratios": ratio or None,
        "codes": code or None,
        "folds": folds,
        "calibrate": calibrate,
        "sheet": sheet,
        "ignore_columns": ignore_columns or None,
    }
    start_logging(as_json=json_log, verbose=verbose)
    kept = f"finished epochs are kept in {out}; the same command with --resume goes on from them"
    with guarded(interrupted=kept):
        run_training(cases, out, config=config, resume=resume, **given)


def run_training(
    cases: Path, out: Path, *, config: Path | None = None, resume: bool = False, **given: Any
) -> None:
    """Train with settings from a file and those given; show the steps on a terminal."""
    from wsseg.runs import training_settings
    from wsseg.train.launch import is_first_process
    from wsseg.train.run_folder import settings_of

    if not is_first_process():  # of torchrun; the first one logs the same
        logging.getLogger("wsseg").setLevel(logging.ERROR)
    chosen = training_settings(config, given, begun=settings_of(out) if resume else None)
    with progress_bar("steps", shown=is_first_process()) as progress:
        task = progress.add_task("training", total=None)

        def show(report: "StepReport") -> None:
            progress.update(task, total=report.steps, completed=report.step)

        if chosen.folds is None:
            wsseg.fit(cases, out, config=chosen, resume=resume, on_step=show)
        else:
            folds = chosen.folds
            wsseg.cross_validate(
                cases, out, folds=folds, config=chosen, resume=resume, on_step=show
            )
