"""`wsseg-export`: a run folder to a model folder."""

from dataclasses import dataclass
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
    start_logging,
)
from wsseg.imaging.errors import SomeFailedError, WssegError

if TYPE_CHECKING:
    from wsseg.export.publish import ExportOptions
    from wsseg.export.triton import TritonOptions
    from wsseg.serve.manifest import EngineFile, OutputStride, Parity, Profile


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
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="cases.csv with recorded ratios that the run did not learn from (masks unneeded): "
            "intervals are computed from them. [default: the cases that wsseg-train --calibrate "
            "kept aside]"
        ),
    ] = None,
    sheet: SheetOption = None,
    ignore_columns: IgnoreOption = None,
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
    code: CodeOption = None,
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
    json_log: JsonLogOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log details.")] = False,
) -> None:
    """Export a trained network as self-contained files.

    The exported graph takes raw pixels of any size and returns masks and areas on the original
    grid. Every engine that can run on this machine is compared with PyTorch on real slices of the
    run; one that disagrees is not published. A failed export leaves an existing model as it was.
    """
    start_logging(as_json=json_log, verbose=verbose)
    with guarded():
        flags = {
            "trt": trt,
            "gpu_arch": tuple(gpu_arch) if gpu_arch else None,
            "precisions": tuple(precision) if precision else None,
            "torch": torch,
            "thresholds": tuple(threshold) if threshold else None,
            "codes": code or None,
            "calibration": calibration,
            "calibration_images": calibration_images,
            "calibration_method": calibration_method,
            "calibrate": calibrate,
            "sheet": sheet,
            "ignore_columns": tuple(ignore_columns) if ignore_columns else None,
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


def run_export(
    run: Path,
    out: Path,
    flags: dict[str, Any],
    *,
    repository: Path | None = None,
    triton_flags: dict[str, Any] | None = None,
) -> None:
    """Export `run` to `out` and print one line per engine file.

    flags: fields of ExportOptions, None where not given; `batch` and `image_size` as text.
    repository: of Triton, to add the model to, None for none; triton_flags: fields of
    TritonOptions.
    """
    from wsseg.export.tensorrt import TensorRTMissingError
    from wsseg.runs import export_settings

    given = flags | {"profile": parse_profile(flags.pop("batch"), flags.pop("image_size"))}
    options = export_settings(given)
    name = options.name or out.resolve().name
    triton = triton_request(repository, triton_flags or {}, name=name, export=options)
    try:
        wsseg.export_model(run, out, **given)
    except (TensorRTMissingError, SomeFailedError):
        _finish(out, triton)  # the ONNX files stand
        raise
    _finish(out, triton)


def _finish(out: Path, triton: "TritonRequest | None") -> None:
    manifest = wsseg.load_model(out).manifest
    if manifest.output_stride:
        typer.echo(cost(manifest.output_stride))
    for engine in manifest.engines:
        typer.echo(describe(engine))
    for ratio in manifest.calibration.ratios if manifest.calibration else ():
        cases = len(ratio.scores)
        typer.echo(f"intervals of {ratio.ratio}: {cases} cases of {ratio.groups} groups")
    typer.echo(f"wrote {out}")
    if triton:
        publish_to_triton(out, triton)


def parse_profile(batch: str, image_size: str) -> "Profile":
    """Read `least,best,most` of batch and side into TensorRT shapes."""
    from wsseg.serve.manifest import Profile

    batches, sides = _three(batch, "--batch"), _three(image_size, "--image-size")
    low, best, high = ((n, side, side) for n, side in zip(batches, sides, strict=True))
    return Profile(minimum=low, optimum=best, maximum=high)


def describe(engine: "EngineFile") -> str:
    """One line on an engine file: what it runs on and how it agreed with PyTorch."""
    place = f" for {engine.gpu}" if engine.gpu else ""
    proof = "not run here: needs that GPU" if engine.parity is None else _proof(engine.parity)
    kept = f"; in float: {', '.join(engine.float_layers)}" if engine.float_layers else ""
    return f"{engine.file}: {engine.runtime} {engine.precision}{place}; {proof}{kept}"


def cost(changed: "OutputStride") -> str:
    """One line on an output stride that the network was not trained at."""
    return (
        f"output stride {changed.stride} in place of {changed.trained_at}: on {changed.slices} "
        f"slices of the run, mean IoU {changed.mask_iou:.4f} with the masks of the network as "
        f"trained, ratios {changed.ratio_difference:.1e} apart on average"
    )


def _proof(parity: "Parity") -> str:
    place = f"{parity.slices} slices on {parity.provider}"
    probability = f"probability within {parity.probability_difference:.1e}"
    if parity.masks_empty:
        return f"{place}: {probability}; all masks empty, so masks and ratios were not judged"
    return (
        f"{place}: masks agree {parity.mask_agreement:.6f}, {probability}, "
        f"mean IoU {parity.mask_iou:.4f}, ratio within {parity.ratio_difference:.1e}, "
        f"on average {parity.ratio_difference_mean:.1e}"
    )


def _three(text: str, option: str) -> tuple[int, int, int]:
    try:
        low, best, high = (int(part) for part in text.split(","))
    except ValueError as error:
        raise WssegError(
            f"{option} {text}: expected three whole numbers, such as 1,8,32"
        ) from error
    if not 0 < low <= best <= high:
        raise WssegError(f"{option} {text}: expected least <= best <= most, all above 0")
    return low, best, high


@dataclass(frozen=True)
class TritonRequest:
    """A model repository to add the exported model to, and how it is to be served."""

    repository: Path
    options: "TritonOptions"


def triton_request(
    repository: Path | None, flags: dict[str, Any], *, name: str, export: "ExportOptions"
) -> TritonRequest | None:
    """The request of the command line, checked before the export; None where there is none.

    flags: fields of TritonOptions, None where not given. name: of the model. export: tells which
    engines there will be, and the largest batch.
    """
    from wsseg.export.triton import TritonOptions, check_request
    from wsseg.settings import settings

    if repository is None:
        if any(value is not None for value in flags.values()):
            raise WssegError(
                "--triton-version, --triton-engine and --triton-device are for a model "
                "repository: add --triton DIR"
            )
        return None
    options = settings(TritonOptions, None, {"max_batch": export.profile.maximum[0]} | flags)
    check_request(repository, name, options)
    _check_engine(options.engine, export)
    return TritonRequest(repository, options)


def _check_engine(file: str, export: "ExportOptions") -> None:
    """Names of TensorRT engines hold the GPU that they are built for: those are not known yet."""
    from wsseg.export.engines import FILES

    planned = [FILES[precision] for precision in dict.fromkeys(export.precisions)]
    if not file or file in planned or (export.trt and file.endswith(".engine")):
        return
    raise WssegError(
        f"--triton-engine {file}: this export makes {', '.join(planned)}"
        f"{' and TensorRT engines (.engine)' if export.trt else ''} for Triton"
    )


def publish_to_triton(model: Path, request: TritonRequest) -> None:
    """Add the model folder to the repository and say so."""
    from wsseg.export.triton import add_version

    version = add_version(model, request.repository, request.options)
    engine = wsseg.load_model(version).manifest.engines[0]
    typer.echo(
        f"wrote {version}: {engine.runtime} {engine.precision}, for tritonserver "
        f"--model-repository={request.repository}"
    )
