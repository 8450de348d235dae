"""TensorRT engines from the published ONNX file, for GPUs that need not be here."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsseg.export.difference import Standard
from wsseg.export.onnx_file import INPUT, OUTPUTS
from wsseg.export.parity import Candidate, judge, within
from wsseg.export.tensorrt_toolkit import Toolkit, this_gpu
from wsseg.imaging.errors import WssegError
from wsseg.serve.engine import Prediction
from wsseg.serve.manifest import EngineFile, Parity, PrecisionName, Profile
from wsseg.serve.tensorrt_build import EngineBuildError, build_engine
from wsseg.serve.tensorrt_log import listener_of

DEFAULT_PROFILE = Profile(minimum=(1, 64, 64), optimum=(8, 512, 512), maximum=(32, 1024, 1024))
SHORT_NAMES = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRTJob:
    """What all TensorRT engines of one export share. folder: where the ONNX files already lie."""

    toolkit: Toolkit
    profile: Profile
    standard: Standard
    folder: Path


def make_tensorrt_engine(job: TensorRTJob, architecture: str, source: EngineFile) -> EngineFile:
    """Build, judge where this machine's GPU allows it, and write one engine beside its ONNX file.

    source: the ONNX file to build from; the engine has its precision, and not its probability.
    Raises EngineBuildError, and EngineRejectedError where the engine ran and disagreed with
    PyTorch.
    """
    model = (job.folder / source.file).read_bytes()
    plan = build_engine(job.toolkit.module, model, architecture, job.profile)
    parity = None
    if architecture == this_gpu():
        parity = _judge(job, source.precision, open_engine(job.toolkit, plan))
    file = job.folder / f"model.{SHORT_NAMES[job.toolkit.runtime]}.{architecture}.engine"
    file.write_bytes(plan)
    logger.info("%s: %.1f MB, %s", file.name, len(plan) / 1e6, job.toolkit.builder)
    return EngineFile(
        file=file.name,
        runtime=job.toolkit.runtime,
        precision=source.precision,
        sha256=hashlib.sha256(plan).hexdigest(),
        parity=parity,
        gpu=architecture,
        builder=job.toolkit.builder,
        profile=job.profile,
    )


def check_profile(profile: Profile) -> None:
    """Raises WssegError for shapes that no engine can be built for."""
    ordered = zip(profile.minimum, profile.optimum, profile.maximum, strict=True)
    if not all(1 <= low <= best <= high for low, best, high in ordered):
        raise WssegError(
            f"TensorRT profile {profile.minimum} / {profile.optimum} / {profile.maximum}: give "
            "(batch, height, width) at least 1 and ascending from least to best to most"
        )


def open_engine(toolkit: Toolkit, plan: bytes) -> Callable[[NDArray[np.float32]], Prediction]:
    """The engine as a function of raw pixels (n, c, H, W), run on this machine's first GPU."""
    listener = listener_of(toolkit.module)
    runtime = toolkit.module.Runtime(listener)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineBuildError(f"{toolkit.builder} cannot load its engine: {listener.last_error}")
    context = engine.create_execution_context()
    classes = engine.get_tensor_shape(OUTPUTS[0])[1]

    def run(pixels: NDArray[np.float32]) -> Prediction:
        count, _, height, width = pixels.shape
        tensors = {
            INPUT: torch.from_numpy(pixels).cuda(),
            "mask": _empty((count, classes, height, width), torch.uint8),
            "pixel_area": _empty((count, classes), torch.int64),
            "soft_area": _empty((count, classes), torch.float32),
        }
        context.set_input_shape(INPUT, tuple(pixels.shape))
        for name, tensor in tensors.items():
            context.set_tensor_address(name, tensor.data_ptr())
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        if not context.execute_async_v3(stream.cuda_stream):
            raise EngineBuildError(f"{toolkit.builder} cannot run: {listener.last_error}")
        stream.synchronize()
        return Prediction(*(tensors[name].cpu().numpy() for name in OUTPUTS))

    # TensorRT's engine does not keep its runtime alive, so the function does.
    run.runtime = runtime  # type: ignore[attr-defined]
    return run


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


def _judge(
    job: TensorRTJob, precision: PrecisionName, run: Callable[[NDArray[np.float32]], Prediction]
) -> Parity | None:
    """Figures of an engine that agrees; None where no sample slice fits into its profile."""
    standard = within(job.standard, job.profile)
    if not standard.references:
        logger.warning("no sample slice fits the profile: the TensorRT engine was not compared")
        return None
    return judge(Candidate(run, f"{job.toolkit.runtime}-cuda", precision), standard)
