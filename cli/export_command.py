"""`wsseg-export`: a run folder to a model folder."""

from pathlib import Path
from typing import Annotated

import typer

from wsseg.cli.console import guarded, start_logging


def export(
    run: Annotated[Path, typer.Argument(help="Run folder that wsseg-train wrote.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    trt: Annotated[
        bool, typer.Option("--trt", help="Build TensorRT engines beside the ONNX files.")
    ] = False,
    gpu_arch: Annotated[
        list[str] | None,
        typer.Option(
            help="GPU architecture to build ahead of time for; repeat for several. "
            "[default: sm_86, sm_89, sm_120]"
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="ONNX precisions: fp32, fp16, int8 (for CPUs; needs --calibration); repeat for "
            "several. [default: fp32 and fp16]"
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="cases.csv, or a folder of DICOM, NIfTI or pictures (no labels needed), that "
            "int8 sets its ranges by."
        ),
    ] = None,
    calibration_images: Annotated[
        int | None, typer.Option(help="Slices to calibrate int8 on, at most. [default: 128]")
    ] = None,
    calibration_method: Annotated[
        str | None,
        typer.Option(help="How int8 sets its ranges: percentile, entropy. [default: percentile]"),
    ] = None,
    torch: Annotated[
        bool, typer.Option(help="Also write the graph as a PyTorch program, for comparison.")
    ] = False,
    batch: Annotated[str, typer.Option(help="TensorRT batch sizes: least,best,most.")] = "1,8,32",
    image_size: Annotated[
        str, typer.Option(help="TensorRT slice sides in pixels: least,best,most.")
    ] = "64,512,1024",
    threshold: Annotated[
        list[float] | None,
        typer.Option(
            help="Probability from which a pixel belongs to a class; one per class. "
            "[default: what training fitted]"
        ),
    ] = None,
    output_stride: Annotated[
        int | None,
        typer.Option(
            help="16 computes every other row and column of a ResNet's deep features only, and "
            "prints how masks and ratios change. [default: as trained]"
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that is already there.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Name of the model in reports. [default: the folder's]")
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(help="Model repository of Triton Inference Server to add the model to."),
    ] = None,
    triton_version: Annotated[
        int | None, typer.Option(help="Its version there. [default: the next]")
    ] = None,
    triton_engine: Annotated[
        str | None,
        typer.Option(help="File of the model folder that Triton serves. [default: model.onnx]"),
    ] = None,
    triton_device: Annotated[
        str | None, typer.Option(help="auto (a GPU if Triton has one), cpu or gpu. [default: auto]")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log details.")] = False,
) -> None:
    """Export a trained network as self-contained files.

    The exported graph takes raw pixels of any size and returns masks and areas on the original
    grid. Every engine that can run on this machine is compared with PyTorch on real slices of the
    run; one that disagrees is not published. A failed export leaves an existing model as it was.
    """
    start_logging(verbose=verbose)
    with guarded():
        from wsseg.cli.exporting import run_export

        flags = {
            "trt": trt,
            "gpu_arch": tuple(gpu_arch) if gpu_arch else None,
            "precisions": tuple(precision) if precision else None,
            "torch": torch,
            "thresholds": tuple(threshold) if threshold else None,
            "calibration": calibration,
            "calibration_images": calibration_images,
            "calibration_method": calibration_method,
            "batch": batch,
            "image_size": image_size,
            "output_stride": output_stride,
            "name": name,
            "overwrite": overwrite,
        }
        triton_flags = {
            "version": triton_version,
            "engine": triton_engine,
            "device": triton_device,
        }
        run_export(run, out, flags, repository=triton, triton_flags=triton_flags)
