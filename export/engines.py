"""All engines of a model folder that agree with PyTorch, and why others are left out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsseg.export.difference import Standard
from wsseg.export.engine_int8 import Calibration, make_int8_engine
from wsseg.export.engine_onnx import FILES, describe, make_onnx_engine
from wsseg.export.engine_openvino import judge_openvino, planned_openvino
from wsseg.export.engine_tensorrt import TensorRTJob, make_tensorrt_engine
from wsseg.export.engine_torch import make_torch_engine
from wsseg.export.parity import EngineRejectedError
from wsseg.imaging.errors import AllFailedError, WssegError
from wsseg.serve.manifest import EngineFile, Manifest
from wsseg.serve.tensorrt_build import EngineBuildError
from wsseg.train.predictor import Predictor

logger = logging.getLogger(__name__)


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
