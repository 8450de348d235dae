"""TensorRT engines from the published ONNX file, for GPUs that need not be here."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsseg.export.onnx_file import INPUT, OUTPUTS
from wsseg.export.parity import Candidate, Standard, check, within
from wsseg.export.rejected import EngineRejectedError
from wsseg.export.tensorrt_toolkit import (
    EngineBuildError,
    Toolkit,
    known_architectures,
    listener_of,
    this_gpu,
)
from wsseg.serve.engine import Prediction
from wsseg.serve.manifest import EngineFile, Parity, Profile

DEFAULT_PROFILE = Profile(minimum=(1, 64, 64), optimum=(8, 512, 512), maximum=(32, 1024, 1024))
SHORT_NAMES = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}

logger = logging.getLogger(__name__)


def make_tensorrt_engine(
    toolkit: Toolkit, architecture: str, source: Path, entry: EngineFile, profile: Profile
) -> EngineFile:
    pass


def build_engine(toolkit: Toolkit, model: bytes, architecture: str, profile: Profile) -> bytes:
    """An engine for one architecture from an ONNX model, strongly typed: types are the model's.

    Raises EngineBuildError with TensorRT's own words.
    """
    trt = toolkit.module
    listener = listener_of(trt)
    builder = trt.Builder(listener)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, listener)
    if not parser.parse(model):
        problems = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineBuildError(f"{toolkit.builder} does not take the ONNX file: {problems}")
    config = builder.create_builder_config()
    # TF32 rounds to half's 11 bits: an engine that calls itself fp32 must not.
    config.clear_flag(trt.BuilderFlag.TF32)
    if toolkit.runtime == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(known_architectures(trt)[architecture], 0)
    config.add_optimization_profile(_shapes(builder, network.get_input(0).shape[1], profile))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineBuildError(f"{toolkit.builder}, {architecture}: {listener.last_error}")
    return bytes(plan)


def open_engine(
    toolkit: Toolkit, plan: bytes
) -> Callable[[NDArray[np.float32]], Prediction]:
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
        stream = torch.cuda.Stream()
        if not context.execute_async_v3(stream.cuda_stream):
            raise EngineBuildError(f"{toolkit.builder} cannot run: {listener.last_error}")
        stream.synchronize()
        return Prediction(*(tensors[name].cpu().numpy() for name in OUTPUTS))

    # TensorRT's engine does not keep its runtime alive, so the function does.
    run.runtime = runtime  # type: ignore[attr-defined]
    return run


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


def _shapes(builder: Any, channels: int, profile: Profile) -> Any:
    shapes = builder.create_optimization_profile()
    bounds = [(n, channels, h, w) for n, h, w in (profile.minimum, profile.optimum, profile.maximum)]
    shapes.set_shape(INPUT, *bounds)
    return shapes
