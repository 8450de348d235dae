"""Run an export and say what was written."""

from pathlib import Path
from typing import Any

import typer

from wsseg.cli.exporting_triton import TritonRequest, publish_to_triton, triton_request
from wsseg.cli.settings import settings
from wsseg.export.options import ExportOptions
from wsseg.export.publish import export_run
from wsseg.export.tensorrt_toolkit import TensorRTMissingError
from wsseg.imaging.errors import SomeFailedError, WssegError
from wsseg.serve.manifest import EngineFile, OutputStride, Parity, Profile
from wsseg.serve.model_folder import load_model


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
    profile = parse_profile(flags.pop("batch"), flags.pop("image_size"))
    options = settings(ExportOptions, None, flags | {"profile": profile})
    if options.gpu_arch and not options.trt:
        raise WssegError("--gpu-arch is for TensorRT engines: add --trt")
    if options.calibration and "int8" not in options.precisions:
        raise WssegError("--calibration is for int8 engines: add --precision int8")
    name = options.name or out.resolve().name
    triton = triton_request(repository, triton_flags or {}, name=name, export=options)
    try:
        export_run(run, out, options)
    except (TensorRTMissingError, SomeFailedError):
        _finish(out, triton)  # the ONNX files stand
        raise
    _finish(out, triton)


def _finish(out: Path, triton: TritonRequest | None) -> None:
    manifest, folder = load_model(out)
    if manifest.output_stride:
        typer.echo(cost(manifest.output_stride))
    for engine in manifest.engines:
        typer.echo(describe(engine))
    typer.echo(f"wrote {folder}")
    if triton:
        publish_to_triton(out, triton)


def parse_profile(batch: str, image_size: str) -> Profile:
    """Read `least,best,most` of batch and side into TensorRT shapes."""
    batches, sides = _three(batch, "--batch"), _three(image_size, "--image-size")
    low, best, high = ((n, side, side) for n, side in zip(batches, sides, strict=True))
    return Profile(minimum=low, optimum=best, maximum=high)


def describe(engine: EngineFile) -> str:
    """One line on an engine file: what it runs on and how it agreed with PyTorch."""
    place = f" for {engine.gpu}" if engine.gpu else ""
    proof = "not run here: needs that GPU" if engine.parity is None else _proof(engine.parity)
    kept = f"; in float: {', '.join(engine.float_layers)}" if engine.float_layers else ""
    return f"{engine.file}: {engine.runtime} {engine.precision}{place}; {proof}{kept}"


def cost(changed: OutputStride) -> str:
    """One line on an output stride that the network was not trained at."""
    return (
        f"output stride {changed.stride} in place of {changed.trained_at}: on {changed.slices} "
        f"slices of the run, mean IoU {changed.mask_iou:.4f} with the masks of the network as "
        f"trained, ratios {changed.ratio_difference:.1e} apart on average"
    )


def _proof(parity: Parity) -> str:
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
