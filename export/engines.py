"""The engines of a model folder that agree with PyTorch, and why others are left out."""

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

from wsseg.export.difference import ReferenceOutputs
from wsseg.export.graph import (
    EXAMPLE,
    LARGEST_FP16,
    METADATA,
    DeployGraph,
    Precision,
    largest_magnitude,
    open_axes,
    save_onnx,
    to_onnx,
)
from wsseg.export.parity import EngineRejectedError, judge_served, require_evidence
from wsseg.export.quantise import (
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

OnnxPrecision = Literal["fp32", "fp16", "int8"]

FILES: dict[OnnxPrecision, str] = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
}
PROGRAM: Final = "model.pt2"
"""The PyTorch program: slower than any other engine, and there for comparison."""
OPENVINO_PRECISIONS: dict[PrecisionName, tuple[PrecisionName, ...]] = {
    "fp32": ("fp32", "bf16"),
    "int8": ("int8",),
}
"""The precisions in which OpenVINO computes a file. fp16 files are for GPUs: a CPU computes them in
fp32, after rounding."""

logger = logging.getLogger(__name__)


def planned_engine(precision: OnnxPrecision) -> EngineFile:
    """Return the manifest entry of an ONNX file that is still to be made."""
    import onnxruntime

    quantiser = f", onnxruntime {onnxruntime.__version__}" if precision == "int8" else ""
    return EngineFile(
        file=FILES[precision],
        runtime="onnxruntime",
        precision=precision,
        sha256="",
        builder=f"torch {torch.__version__}{quantiser}",
    )


def make_onnx_engine(
    manifest: Manifest,
    entry: EngineFile,
    predictor: Predictor,
    standard: ReferenceOutputs,
    folder: Path,
) -> EngineFile:
    """Write a planned fp32 or fp16 engine and return its entry with checksum and parity.

    Raises EngineRejectedError where it disagrees with PyTorch, or where its numbers do not fit
    into half precision; no file is left then.
    """
    precision: Precision = "fp16" if entry.precision == "fp16" else "fp32"
    if precision == "fp16":
        slices = [r.pixels[0] for r in standard.references if len(r.pixels) == 1]
        exact = DeployGraph(predictor, manifest.thresholds, "fp32")
        if not (largest := largest_magnitude(exact, slices)) <= LARGEST_FP16:
            raise EngineRejectedError(
                f"values of {largest:.3g} inside the network leave no room in half precision "
                f"(at most {LARGEST_FP16:.0f})"
            )
    model = traced(manifest, predictor, precision)
    file = folder / entry.file
    save_onnx(model, file)
    made = _hashed(entry, file)
    try:
        return made.model_copy(update={"parity": judged(manifest, made, standard, folder)})
    except EngineRejectedError:
        file.unlink()
        raise


def traced(manifest: Manifest, predictor: Predictor, precision: Precision) -> onnx.ModelProto:
    """Return the model of the manifest as ONNX, see `to_onnx`."""
    graph = DeployGraph(predictor, manifest.thresholds, precision)
    return to_onnx(graph, channels=manifest.channels, description=describe(manifest))


def judged(
    manifest: Manifest, entry: EngineFile, standard: ReferenceOutputs, folder: Path
) -> Parity:
    """Return the figures of an engine file, opened as serving opens it.

    Raises EngineRejectedError where it disagrees with PyTorch.
    """
    engine = _open(folder, manifest.model_copy(update={"engines": (entry,)}))
    return judge_served(engine, entry.precision, standard)


def describe(manifest: Manifest) -> str:
    """Return the description in an ONNX file (JSON): the manifest without engines and date.

    The same run therefore gives the same file, byte for byte.
    """
    return manifest.model_dump_json(exclude={"engines", "created"})


def _open(folder: Path, manifest: Manifest) -> Engine:
    """Open the folder's only engine on the device whose arithmetic it is published for.

    fp16 is judged on the GPU where there is one, everything else on the CPU: a GPU may round fp32
    to TF32, and int8 is for CPUs.
    """
    precision = manifest.engines[0].precision
    device: Device = "auto" if precision == "fp16" else "cpu"
    asked = EngineOptions(device=device, precision=precision, engine="onnxruntime")
    return open_engine(folder, manifest, asked)


@dataclass(frozen=True)
class Calibration:
    """Representative raw slices (c, H, W), and the method by which ranges are set."""

    slices: Sequence[NDArray[np.float32]]
    method: Method


def make_int8_engine(
    manifest: Manifest,
    entry: EngineFile,
    predictor: Predictor,
    standard: ReferenceOutputs,
    calibration: Calibration,
    folder: Path,
) -> EngineFile:
    """Write the planned int8 engine into the folder and return its entry.

    The network computes in 8 bits, everything before and after it in float32; `float_layers` names
    the layers that had to stay float32. Raises EngineRejectedError, naming the most sensitive
    layers, where no engine agrees with PyTorch or no sample shows a class; no file is left then.
    """
    require_evidence(entry.precision, standard)
    file = folder / entry.file
    exact = folder / FILES["fp32"]
    # Tracing takes as long as all the rest, so a published fp32 file is read back.
    model = onnx.load(exact) if exact.is_file() else traced(manifest, predictor, "fp32")
    with torch.inference_mode():
        inputs = [
            predictor.front(torch.from_numpy(raw[None])).numpy() for raw in calibration.slices
        ]
    part = network_part(model)
    ranges = measure_ranges(part, inputs, calibration.method)

    def attempt(in_float: Sequence[Layer]) -> Parity:
        save_onnx(_described(quantised(model, part, ranges, in_float), model), file)
        return judged(manifest, _hashed(entry, file), standard, folder)

    try:
        passed = search(attempt, lambda: most_sensitive_first(part, ranges, inputs))
    except EngineRejectedError:
        file.unlink()
        raise
    return _hashed(entry, file).model_copy(
        update={
            "parity": passed.parity,
            "float_layers": tuple(layer.name for layer in passed.in_float),
            "instructions": judged_with(),
        }
    )


def _described(made: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the quantised model with the description of the float model alone."""
    texts = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(made, {METADATA: texts[METADATA]})
    onnx.checker.check_model(made, full_check=True)
    return made


def _hashed(entry: EngineFile, file: Path) -> EngineFile:
    return entry.model_copy(update={"sha256": hashlib.sha256(file.read_bytes()).hexdigest()})


def planned_openvino(files: Sequence[EngineFile]) -> tuple[EngineFile, ...]:
    """Return the entries that OpenVINO, if installed, can have over the given ONNX files."""
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
        for precision in OPENVINO_PRECISIONS.get(entry.precision, ())
        if precision != "bf16" or no_bfloat() is None
    )


def judge_openvino(
    entry: EngineFile, manifest: Manifest, standard: ReferenceOutputs, folder: Path
) -> EngineFile:
    """Return the entry with its parity; raise EngineRejectedError where it disagrees."""
    engine = open_openvino(folder, manifest, entry, 0)
    return entry.model_copy(update={"parity": judge_served(engine, entry.precision, standard)})


def make_torch_engine(
    manifest: Manifest,
    predictor: Predictor,
    standard: ReferenceOutputs,
    folder: Path,
    description: str,
) -> EngineFile:
    """Write the fp32 program into the folder; return its entry with checksum and parity.

    description: JSON, kept in the file. EngineRejectedError where the file, read back, disagrees
    with the network that it was made from.
    """
    graph = DeployGraph(predictor, manifest.thresholds, "fp32").eval()
    example = torch.zeros(EXAMPLE[0], manifest.channels, *EXAMPLE[1:])
    program = torch.export.export(graph, (example,), dynamic_shapes=open_axes())
    _forget_sources(program)
    file = folder / PROGRAM
    torch.export.save(program, file, extra_files={METADATA: description})
    entry = EngineFile(
        file=PROGRAM,
        runtime="torch",
        precision="fp32",
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        builder=f"torch {torch.__version__}",
    )
    engine = open_torch(folder, manifest, entry, 0, device="cpu")
    return entry.model_copy(update={"parity": judge_served(engine, entry.precision, standard)})


def _forget_sources(program: torch.export.ExportedProgram) -> None:
    """Remove each node's origin: folders of this machine and lines of source."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


@dataclass(frozen=True)
class Job:
    """What the engines of one export share. calibration: None unless int8 is asked for."""

    plan: Manifest
    predictor: Predictor
    standard: ReferenceOutputs
    calibration: Calibration | None
    folder: Path


def onnx_engines(job: Job) -> tuple[tuple[EngineFile, ...], WssegError | None]:
    """Return the ONNX engines that agree with PyTorch, and the error of a rejected int8 engine.

    Raises AllFailedError where fp32 disagrees. A rejected fp16 engine, which is made by default, is
    left out with a warning.
    """
    engines: list[EngineFile] = []
    rejected: WssegError | None = None
    for entry in sorted(job.plan.engines, key=lambda entry: list(FILES.values()).index(entry.file)):
        try:
            if entry.precision == "int8" and job.calibration:
                made = make_int8_engine(
                    job.plan, entry, job.predictor, job.standard, job.calibration, job.folder
                )
            else:
                made = make_onnx_engine(job.plan, entry, job.predictor, job.standard, job.folder)
            engines.append(made)
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


def openvino_engines(job: Job, files: Sequence[EngineFile]) -> tuple[EngineFile, ...]:
    """Return the entries of OpenVINO over the ONNX files, where it agrees with PyTorch."""
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
    """Return the entry of the PyTorch program; raise AllFailedError where it disagrees."""
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
    """Return the TensorRT engines that could be built, and the first error otherwise."""
    engines: list[EngineFile] = []
    problem: WssegError | None = None
    for architecture in job.toolkit.architectures:
        try:
            engines.append(make_tensorrt_engine(job, architecture, source))
        except (EngineBuildError, EngineRejectedError) as error:
            logger.warning("the TensorRT engine for %s is left out: %s", architecture, error)
            problem = problem or error
    return tuple(engines), problem
