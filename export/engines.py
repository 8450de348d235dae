"""The engines of a model folder that agree with PyTorch, and why others are not published."""

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
from wsseg.export.parity import (
    EngineRejectedError,
    ReferenceOutputs,
    judge_served,
    require_evidence,
)
from wsseg.export.quantise import (
    Layer,
    Method,
    measure_ranges,
    most_sensitive_first,
    network_part,
    quantised,
    search,
)
from wsseg.imaging.errors import AllFailedError, WssegError
from wsseg.serve.engines.base import Device, EngineOptions
from wsseg.serve.engines.hardware import judged_with
from wsseg.serve.engines.openvino import no_bfloat, no_openvino, open_openvino
from wsseg.serve.engines.select import open_engine
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


@dataclass(frozen=True)
class Calibration:
    """Representative raw slices (c, H, W), and the method by which ranges are set."""

    slices: Sequence[NDArray[np.float32]]
    method: Method


@dataclass(frozen=True)
class Job:
    """What all engines of one export are made of and compared with.

    calibration: None unless int8 is asked for. folder: the model folder that is being written.
    """

    plan: Manifest
    predictor: Predictor
    standard: ReferenceOutputs
    folder: Path
    calibration: Calibration | None = None


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


def make_onnx_engine(job: Job, entry: EngineFile) -> EngineFile:
    """Write a planned fp32 or fp16 engine and return its entry with checksum and parity.

    Raises EngineRejectedError where it disagrees with PyTorch, or where its numbers do not fit
    into half precision; no file is left then.
    """
    precision: Precision = "fp16" if entry.precision == "fp16" else "fp32"
    if precision == "fp16":
        slices = [r.pixels[0] for r in job.standard.references if len(r.pixels) == 1]
        exact = DeployGraph(job.predictor, job.plan.thresholds, "fp32")
        if not (largest := largest_magnitude(exact, slices)) <= LARGEST_FP16:
            raise EngineRejectedError(
                f"values of {largest:.3g} inside the network leave no room in half precision "
                f"(at most {LARGEST_FP16:.0f})"
            )
    file = job.folder / entry.file
    save_onnx(traced(job, precision), file)
    entry = _hashed(entry, file)
    try:
        return entry.model_copy(update={"parity": judged(job, entry)})
    except EngineRejectedError:
        file.unlink()
        raise


def traced(job: Job, precision: Precision) -> onnx.ModelProto:
    """Return the model of the plan as ONNX, see `to_onnx`."""
    graph = DeployGraph(job.predictor, job.plan.thresholds, precision)
    return to_onnx(graph, channels=job.plan.channels, description=describe(job.plan))


def judged(job: Job, entry: EngineFile) -> Parity:
    """Return the figures of an ONNX file, opened as serving opens it.

    Raises EngineRejectedError where it disagrees with PyTorch.
    """
    # fp16 is compared on the GPU where there is one, everything else on the CPU: a GPU may round
    # fp32 to TF32, and int8 is for CPUs.
    device: Device = "auto" if entry.precision == "fp16" else "cpu"
    options = EngineOptions(device=device, precision=entry.precision, engine="onnxruntime")
    alone = job.plan.model_copy(update={"engines": (entry,)})
    return judge_served(open_engine(job.folder, alone, options), entry.precision, job.standard)


def describe(manifest: Manifest) -> str:
    """Return the description in an ONNX file (JSON): the manifest without engines and date.

    The same run therefore gives the same file, byte for byte. The calibration is made later.
    """
    return manifest.model_dump_json(exclude={"engines", "created", "calibration"})


def make_int8_engine(job: Job, entry: EngineFile, calibration: Calibration) -> EngineFile:
    """Write the planned int8 engine into the folder and return its entry.

    The network computes in 8 bits, everything before and after it in float32; `float_layers` names
    the layers that had to stay float32. Raises EngineRejectedError, naming the most sensitive
    layers, where no engine agrees with PyTorch or no sample shows a class; no file is left then.
    """
    require_evidence(entry.precision, job.standard)
    file = job.folder / entry.file
    exact = job.folder / FILES["fp32"]
    # Tracing takes as long as all the rest, so a published fp32 file is read back.
    model = onnx.load(exact) if exact.is_file() else traced(job, "fp32")
    description = {prop.key: prop.value for prop in model.metadata_props}[METADATA]
    with torch.inference_mode():
        inputs = [
            job.predictor.front(torch.from_numpy(raw[None])).numpy() for raw in calibration.slices
        ]
    part = network_part(model)
    ranges = measure_ranges(part, inputs, calibration.method)

    def attempt(in_float: Sequence[Layer]) -> Parity:
        made = quantised(model, part, ranges, in_float)
        # The quantiser adds notes of its own to the description.
        onnx.helper.set_model_props(made, {METADATA: description})
        onnx.checker.check_model(made, full_check=True)
        save_onnx(made, file)
        return judged(job, _hashed(entry, file))

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


def onnx_engines(job: Job) -> tuple[tuple[EngineFile, ...], WssegError | None]:
    """Return the ONNX engines that agree with PyTorch, and the error of a rejected int8 engine.

    Raises AllFailedError where fp32 disagrees. A rejected fp16 engine, which is made by default, is
    skipped with a warning.
    """
    engines: list[EngineFile] = []
    rejected: WssegError | None = None
    for entry in sorted(job.plan.engines, key=lambda entry: list(FILES.values()).index(entry.file)):
        try:
            if entry.precision == "int8" and job.calibration:
                engines.append(make_int8_engine(job, entry, job.calibration))
            else:
                engines.append(make_onnx_engine(job, entry))
        except EngineRejectedError as error:
            if entry.precision == "fp32":
                raise AllFailedError(f"nothing was exported: {error}") from error
            logger.warning("%s is not published: %s", entry.file, error)
            rejected = error if entry.precision == "int8" else rejected
    if not engines:
        raise AllFailedError("nothing was exported: no engine agrees with PyTorch, ask for fp32")
    if any(engine.parity and engine.parity.masks_empty for engine in engines):
        logger.warning(
            "all masks empty: the network finds nothing in the run's sample slices, so only "
            "probabilities could be compared; train longer, or try a lower --threshold"
        )
    return tuple(engines), rejected


def openvino_engines(job: Job, files: Sequence[EngineFile]) -> tuple[EngineFile, ...]:
    """Return the entries of OpenVINO over the ONNX files, where it agrees with PyTorch."""
    engines: list[EngineFile] = []
    for entry in planned_openvino(files):
        try:
            engine = open_openvino(job.folder, job.plan, entry, 0)
            parity = judge_served(engine, entry.precision, job.standard)
            engines.append(entry.model_copy(update={"parity": parity}))
        except EngineRejectedError as error:
            logger.warning(
                "%s in OpenVINO in %s is not published: %s", entry.file, entry.precision, error
            )
    return tuple(engines)


def make_torch_engine(job: Job) -> EngineFile:
    """Write the fp32 program into the folder; return its entry with checksum and parity.

    Raises AllFailedError where the file, read back, disagrees with the network.
    """
    graph = DeployGraph(job.predictor, job.plan.thresholds, "fp32").eval()
    example = torch.zeros(EXAMPLE[0], job.plan.channels, *EXAMPLE[1:])
    program = torch.export.export(graph, (example,), dynamic_shapes=open_axes())
    # The origin of a node shows folders of this machine and lines of source.
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    file = job.folder / PROGRAM
    torch.export.save(program, file, extra_files={METADATA: describe(job.plan)})
    planned = EngineFile(
        file=PROGRAM,
        runtime="torch",
        precision="fp32",
        sha256="",
        builder=f"torch {torch.__version__}",
    )
    entry = _hashed(planned, file)
    engine = open_torch(job.folder, job.plan, entry, 0, device="cpu")
    try:
        parity = judge_served(engine, entry.precision, job.standard)
    except EngineRejectedError as error:
        raise AllFailedError(f"nothing was exported: {error}") from error
    return entry.model_copy(update={"parity": parity})
