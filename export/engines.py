"""All engines of a model folder that agree with PyTorch, and why others are left out."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from wsseg.export.difference import Standard
from wsseg.export.graph import (
    EXAMPLE,
    LARGEST,
    METADATA,
    DeployGraph,
    Precision,
    largest_value,
    open_axes,
    save_onnx,
    to_onnx,
)
from wsseg.export.parity import EngineRejectedError, judge_served, require_evidence
from wsseg.export.quantise import (
    Found,
    Layer,
    Method,
    measure_ranges,
    most_sensitive_first,
    network_part,
    quantised,
    search,
)
from wsseg.export.tensorrt import TensorRTJob, make_tensorrt_engine
from wsseg.imaging.errors import AllFailedError, WssegError
from wsseg.serve.engines.base import Device, Engine, EngineOptions
from wsseg.serve.engines.hardware import judged_with
from wsseg.serve.engines.openvino import no_bfloat, no_openvino, open_openvino
from wsseg.serve.engines.select import open_engine
from wsseg.serve.engines.tensorrt import EngineBuildError
from wsseg.serve.engines.torch import open_torch
from wsseg.serve.manifest import EngineFile, Manifest, Parity, PrecisionName
from wsseg.train.networks import Predictor

# One ONNX engine of a model folder: made from the predictor, judged, written.

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


# The int8 engine of a model folder: calibrated, judged, layer by layer put back, written.

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """Raw slices (c, H, W) that stand for all that the engine will see, and how ranges are set."""

    slices: Sequence[NDArray[np.float32]]
    method: Method


def make_int8_engine(
    manifest: Manifest,
    entry: EngineFile,
    predictor: Predictor,
    standard: Standard,
    calibration: Calibration,
    folder: Path,
) -> EngineFile:
    """Write the planned int8 engine into the folder and return its entry.

    The network computes in 8 bits, all that goes before and after it in float32; `float_layers`
    names what had to stay float32. Raises EngineRejectedError, with the layers that hurt most,
    where none agrees with PyTorch or nothing is there to judge it by; no file is left then.
    """
    require_evidence(entry.precision, standard)
    file = folder / entry.file
    model = _float_model(manifest, predictor, folder)
    part, inputs = network_part(model), _network_inputs(predictor, calibration)
    ranges = measure_ranges(part, inputs, calibration.method)

    def attempt(kept: Sequence[Layer]) -> Parity:
        save_onnx(_described(quantised(model, part, ranges, kept), model), file)
        return judged(manifest, _hashed(entry, file), standard, folder)

    try:
        found = search(attempt, lambda: most_sensitive_first(part, ranges, inputs))
    except EngineRejectedError:
        file.unlink()
        raise
    return _judged_entry(entry, file, found)


def _float_model(manifest: Manifest, predictor: Predictor, folder: Path) -> onnx.ModelProto:
    """The fp32 graph. Tracing takes as long as all the rest: what was published is read back."""
    exact = folder / FILES["fp32"]
    return onnx.load(exact) if exact.is_file() else traced(manifest, predictor, "fp32")


def _network_inputs(predictor: Predictor, calibration: Calibration) -> list[NDArray[np.float32]]:
    """What the network itself sees of each slice: after window, resizing and normalising."""
    with torch.inference_mode():
        return [predictor.front(torch.from_numpy(raw[None])).numpy() for raw in calibration.slices]


def _judged_entry(entry: EngineFile, file: Path, found: Found) -> EngineFile:
    return _hashed(entry, file).model_copy(
        update={
            "parity": found.parity,
            "float_layers": tuple(layer.name for layer in found.in_float),
            "instructions": judged_with(),
        }
    )


def _described(made: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """The quantised model with the float model's own description, and nothing of the quantiser."""
    texts = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(made, {METADATA: texts[METADATA]})
    onnx.checker.check_model(made, full_check=True)
    return made


def _hashed(entry: EngineFile, file: Path) -> EngineFile:
    return entry.model_copy(update={"sha256": hashlib.sha256(file.read_bytes()).hexdigest()})


# OpenVINO over the ONNX files of a model folder: judged like every other engine.

# fp16 files are for GPUs: a CPU computes them in fp32, after rounding.
PRECISIONS: dict[PrecisionName, tuple[PrecisionName, ...]] = {
    "fp32": ("fp32", "bf16"),
    "int8": ("int8",),
}
"""In what a file of one precision is computed."""


def planned_openvino(files: Sequence[EngineFile]) -> tuple[EngineFile, ...]:
    """The entries that OpenVINO, if it is installed, can have over ONNX files that were made."""
    if no_openvino():
        return ()
    import openvino

    return tuple(
        entry.model_copy(
            update={
                "runtime": "openvino",
                "precision": precision,
                "builder": f"openvino {openvino.__version__}",
                "parity": None,
                "relative_time": None,
            }
        )
        for entry in files
        for precision in PRECISIONS.get(entry.precision, ())
        if precision != "bf16" or no_bfloat() is None
    )


def judge_openvino(
    entry: EngineFile, manifest: Manifest, standard: Standard, folder: Path
) -> EngineFile:
    """The entry with its parity figures; EngineRejectedError where it disagrees with PyTorch."""
    engine = open_openvino(folder, manifest, entry, 0)
    return entry.model_copy(update={"parity": judge_served(engine, entry.precision, standard)})


# The graph as a PyTorch program: slower than any other engine, and there to compare them with.

FILE: Final = "model.pt2"


def make_torch_engine(
    manifest: Manifest, predictor: Predictor, standard: Standard, folder: Path, description: str
) -> EngineFile:
    """Write the fp32 program into the folder; return its entry with checksum and parity.

    description: JSON, kept in the file. EngineRejectedError where the file, read back, disagrees
    with the network that it was made from.
    """
    graph = DeployGraph(predictor, manifest.thresholds, "fp32").eval()
    example = torch.zeros(EXAMPLE[0], manifest.channels, *EXAMPLE[1:])
    program = torch.export.export(graph, (example,), dynamic_shapes=open_axes())
    _forget_sources(program)
    file = folder / FILE
    torch.export.save(program, file, extra_files={METADATA: description})
    entry = EngineFile(
        file=FILE,
        runtime="torch",
        precision="fp32",
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        builder=f"torch {torch.__version__}",
    )
    engine = open_torch(folder, manifest, entry, 0, device="cpu")
    return entry.model_copy(update={"parity": judge_served(engine, entry.precision, standard)})


def _forget_sources(program: torch.export.ExportedProgram) -> None:
    """Drop where each node comes from: folders of this machine, and lines of source."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


@dataclass(frozen=True)
class Job:
    """What the engines of one export share. calibration: None where int8 is not asked for."""

    plan: Manifest
    predictor: Predictor
    standard: Standard
    calibration: Calibration | None
    folder: Path


def onnx_engines(job: Job) -> tuple[tuple[EngineFile, ...], WssegError | None]:
    """The ONNX engines that agree with PyTorch, and why int8, if asked for, is not among them.

    fp32 must agree; fp16, which nobody had to ask for, may be left out with a warning.
    """
    engines: list[EngineFile] = []
    rejected: WssegError | None = None
    for entry in sorted(job.plan.engines, key=lambda entry: list(FILES.values()).index(entry.file)):
        try:
            engines.append(_made(job, entry))
        except EngineRejectedError as error:
            if entry.precision == "fp32":
                raise AllFailedError(f"nothing was exported: {error}") from error
            logger.warning("%s is left out: %s", entry.file, error)
            rejected = error if entry.precision == "int8" else rejected
    if not engines:
        raise AllFailedError("nothing was exported: no engine agrees with PyTorch, ask for fp32")
    if any(engine.parity and engine.parity.masks_empty for engine in engines):
        logger.warning(
            "all masks empty: the network finds nothing in the slices that the run kept, so the "
            "gate could judge probabilities alone; train longer, or try a lower --threshold"
        )
    return tuple(engines), rejected


def _made(job: Job, entry: EngineFile) -> EngineFile:
    if entry.precision == "int8" and job.calibration:
        return make_int8_engine(
            job.plan, entry, job.predictor, job.standard, job.calibration, job.folder
        )
    return make_onnx_engine(job.plan, entry, job.predictor, job.standard, job.folder)


def openvino_engines(job: Job, files: Sequence[EngineFile]) -> tuple[EngineFile, ...]:
    """OpenVINO's engines over the ONNX files, those that agree with PyTorch."""
    engines: list[EngineFile] = []
    for entry in planned_openvino(files):
        try:
            engines.append(judge_openvino(entry, job.plan, job.standard, job.folder))
        except EngineRejectedError as error:
            logger.warning(
                "%s in OpenVINO in %s is left out: %s", entry.file, entry.precision, error
            )
    return tuple(engines)


def torch_engines(job: Job) -> tuple[EngineFile, ...]:
    """The PyTorch program, which is no other network than the one it is compared with."""
    try:
        made = make_torch_engine(
            job.plan, job.predictor, job.standard, job.folder, describe(job.plan)
        )
    except EngineRejectedError as error:
        raise AllFailedError(f"nothing was exported: {error}") from error
    return (made,)


def tensorrt_engines(
    job: TensorRTJob, source: EngineFile
) -> tuple[tuple[EngineFile, ...], WssegError | None]:
    """The TensorRT engines that could be built, and what the first other one failed of."""
    engines: list[EngineFile] = []
    problem: WssegError | None = None
    for architecture in job.toolkit.architectures:
        try:
            engines.append(make_tensorrt_engine(job, architecture, source))
        except (EngineBuildError, EngineRejectedError) as error:
            logger.warning("the TensorRT engine for %s is left out: %s", architecture, error)
            problem = problem or error
    return tuple(engines), problem
