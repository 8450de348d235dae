"""One ONNX engine of a model folder: made from the predictor, judged, written."""

import hashlib
from pathlib import Path

import torch

from wsseg.export.graph import DeployGraph, Precision
from wsseg.export.half_range import LARGEST, largest_value
from wsseg.export.onnx_file import save_onnx, to_onnx
from wsseg.export.parity import Candidate, EngineRejectedError, Standard, judge
from wsseg.serve.choose import open_engine
from wsseg.serve.engine import Engine
from wsseg.serve.engine_options import Device, EngineOptions
from wsseg.serve.manifest import EngineFile, Manifest
from wsseg.train.predictor import Predictor

FILES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}


def planned_engine(precision: Precision) -> EngineFile:
    """The manifest's entry of an ONNX file that is still to be made."""
    return EngineFile(
        file=FILES[precision],
        runtime="onnxruntime",
        precision=precision,
        sha256="",
        builder=f"torch {torch.__version__}",
    )


def make_onnx_engine(
    manifest: Manifest, entry: EngineFile, predictor: Predictor, standard: Standard, folder: Path
) -> EngineFile:
    """Write a planned engine into the folder and return its entry with checksum and parity.

    The file is opened as serving opens it. Raises EngineRejectedError where it disagrees with
    PyTorch, or where its numbers do not fit into half precision; no file is left then.
    """
    precision: Precision = "fp16" if entry.precision == "fp16" else "fp32"
    if precision == "fp16":
        _check_half_range(DeployGraph(predictor, manifest.thresholds, "fp32"), standard)
    graph = DeployGraph(predictor, manifest.thresholds, precision)
    model = to_onnx(graph, channels=manifest.channels, description=describe(manifest))
    file = folder / entry.file
    save_onnx(model, file)
    made = entry.model_copy(update={"sha256": hashlib.sha256(file.read_bytes()).hexdigest()})
    engine = _open(folder, manifest.model_copy(update={"engines": (made,)}))
    candidate = Candidate(
        engine, engine.name, entry.precision, lambda pixels: engine.with_probability(pixels)[1]
    )
    try:
        return made.model_copy(update={"parity": judge(candidate, standard)})
    except EngineRejectedError:
        file.unlink()
        raise


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


def _open(folder: Path, manifest: Manifest) -> Engine:
    """The folder's only engine, on the device whose arithmetic it is published for.

    fp16 is judged on the GPU where there is one; all else on the CPU: a GPU's fp32 may be rounded
    to TF32.
    """
    precision = manifest.engines[0].precision
    device: Device = "auto" if precision == "fp16" else "cpu"
    asked = EngineOptions(device=device, precision=precision, engine="onnxruntime")
    return open_engine(folder, manifest, asked)
