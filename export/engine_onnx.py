"""One ONNX engine of a model folder: made from the predictor, judged, written."""

import hashlib
from pathlib import Path
from typing import Literal

import onnx
import torch

from wsseg.export.difference import Standard
from wsseg.export.graph import DeployGraph, Precision
from wsseg.export.half_range import LARGEST, largest_value
from wsseg.export.onnx_file import save_onnx, to_onnx
from wsseg.export.parity import EngineRejectedError, judge_served
from wsseg.serve.choose import open_engine
from wsseg.serve.engine import Engine
from wsseg.serve.engine_options import Device, EngineOptions
from wsseg.serve.manifest import EngineFile, Manifest, Parity
from wsseg.train.predictor import Predictor

OnnxPrecision = Literal["fp32", "fp16", "int8"]

FILES: dict[OnnxPrecision, str] = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
}


def planned_engine(precision: OnnxPrecision) -> EngineFile:
    """The manifest's entry of an ONNX file that is still to be made."""
    return EngineFile(
        file=FILES[precision],
        runtime="onnxruntime",
        precision=precision,
        sha256="",
        builder=_builder(precision),
    )


def make_onnx_engine(
    manifest: Manifest, entry: EngineFile, predictor: Predictor, standard: Standard, folder: Path
) -> EngineFile:
    """Write a planned fp32 or fp16 engine and return its entry with checksum and parity.

    Raises EngineRejectedError where it disagrees with PyTorch, or where its numbers do not fit
    into half precision; no file is left then.
    """
    precision: Precision = "fp16" if entry.precision == "fp16" else "fp32"
    if precision == "fp16":
        _check_half_range(DeployGraph(predictor, manifest.thresholds, "fp32"), standard)
    model = traced(manifest, predictor, precision)
    file = folder / entry.file
    save_onnx(model, file)
    made = entry.model_copy(update={"sha256": hashlib.sha256(file.read_bytes()).hexdigest()})
    try:
        return made.model_copy(update={"parity": judged(manifest, made, standard, folder)})
    except EngineRejectedError:
        file.unlink()
        raise


def traced(manifest: Manifest, predictor: Predictor, precision: Precision) -> onnx.ModelProto:
    """The model of the manifest as ONNX, see `to_onnx`."""
    graph = DeployGraph(predictor, manifest.thresholds, precision)
    return to_onnx(graph, channels=manifest.channels, description=describe(manifest))


def judged(manifest: Manifest, entry: EngineFile, standard: Standard, folder: Path) -> Parity:
    """The figures of an engine file, opened as serving opens it.

    Raises EngineRejectedError where it disagrees with PyTorch.
    """
    engine = _open(folder, manifest.model_copy(update={"engines": (entry,)}))
    return judge_served(engine, entry.precision, standard)


def describe(manifest: Manifest) -> str:
    """What an ONNX file says of itself (JSON): the manifest without engines and date.

    The same run therefore gives the same file, byte for byte.
    """
    return manifest.model_dump_json(exclude={"engines", "created"})


def _check_half_range(graph: DeployGraph, standard: Standard) -> None:
    slices = [r.pixels[0] for r in standard.references if len(r.pixels) == 1]
    largest = largest_value(graph, slices)
    if not largest <= LARGEST:
        raise EngineRejectedError(
            f"values of {largest:.3g} inside the network leave no room in half precision "
            f"(at most {LARGEST:.0f})"
        )


def _builder(precision: OnnxPrecision) -> str:
    import onnxruntime

    quantiser = f", onnxruntime {onnxruntime.__version__}" if precision == "int8" else ""
    return f"torch {torch.__version__}{quantiser}"


def _open(folder: Path, manifest: Manifest) -> Engine:
    """The folder's only engine, on the device whose arithmetic it is published for.

    fp16 is judged on the GPU where there is one; all else on the CPU: a GPU's fp32 may be rounded
    to TF32, and int8 is for CPUs.
    """
    precision = manifest.engines[0].precision
    device: Device = "auto" if precision == "fp16" else "cpu"
    asked = EngineOptions(device=device, precision=precision, engine="onnxruntime")
    return open_engine(folder, manifest, asked)
