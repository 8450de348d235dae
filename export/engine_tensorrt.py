"""TensorRT engines from the published ONNX file, for GPUs that need not be here."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from wsseg.export.onnx_file import INPUT, OUTPUTS
from wsseg.imaging.errors import WssegError
from wsseg.serve.engine import Prediction
from wsseg.serve.manifest import Profile

# Architectures of the GPUs clinics buy: RTX 30 and A-series, RTX 40 and L-series, RTX 50.
DEFAULT_ARCHITECTURES = ("sm_86", "sm_89", "sm_120")
DEFAULT_PROFILE = Profile(minimum=(1, 64, 64), optimum=(8, 512, 512), maximum=(32, 1024, 1024))

logger = logging.getLogger(__name__)


class TensorRTMissingError(WssegError):
    """No TensorRT is installed; everything else of the export is done without it."""


class EngineBuildError(WssegError):
    """TensorRT is there and could not build or load an engine; the message quotes it."""


@dataclass(frozen=True)
class Toolkit:
    """A TensorRT that can build here, and for which architectures it was asked to."""

    module: Any
    runtime: Literal["tensorrt", "tensorrt_rtx"]
    architectures: tuple[str, ...]

    @property
    def builder(self) -> str:
        """Name and version, for the manifest: an engine runs only in the version that built it."""
        return f"{self.runtime} {self.module.__version__}"


def find_toolkit(architectures: tuple[str, ...] = ()) -> Toolkit:
    """The TensorRT to build with; `architectures` such as "sm_89", empty for the usual ones.

    `tensorrt` builds only on and for the GPU it finds, so it is taken where there is one and no
    other was asked for; `tensorrt_rtx` builds for a fixed list without any GPU. Raises
    TensorRTMissingError where neither is installed, WssegError for an unknown architecture.
    """
    here = this_gpu()
    if here and architectures in ((), (here,)):
        module = _installed("tensorrt")
        if module:
            return Toolkit(module, "tensorrt", (here,))
    module = _installed("tensorrt_rtx")
    if module is None:
        raise TensorRTMissingError(
            "TensorRT is not installed, so no engine was built: pip install 'wsseg[trt-rtx]'"
        )
    wanted = architectures or DEFAULT_ARCHITECTURES
    known = _known(module)
    for architecture in wanted:
        if architecture not in known:
            raise WssegError(
                f"TensorRT-RTX {module.__version__} does not build for {architecture!r}: choose "
                f"from {', '.join(known)}, or install tensorrt on a machine with that GPU"
            )
    return Toolkit(module, "tensorrt_rtx", wanted)


def this_gpu() -> str | None:
    """Architecture of the first GPU of this machine, such as "sm_89"; None without one."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    return f"sm_{major}{minor}"


def build_engine(toolkit: Toolkit, model: bytes, architecture: str, profile: Profile) -> bytes:
    """An engine for one architecture from an ONNX model, strongly typed: types are the model's.

    Raises EngineBuildError with TensorRT's own words.
    """
    trt = toolkit.module
    listener = _listener(trt)
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
        config.set_compute_capability(_known(trt)[architecture], 0)
    config.add_optimization_profile(_shapes(builder, network.get_input(0).shape[1], profile))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineBuildError(f"{toolkit.builder}, {architecture}: {listener.last_error}")
    return bytes(plan)


def open_engine(
    toolkit: Toolkit, plan: bytes
) -> Callable[[NDArray[np.float32]], Prediction]:
    """The engine as a function of raw pixels (n, c, H, W), run on this machine's first GPU."""
    listener = _listener(toolkit.module)
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


def _installed(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # present but broken: its own cause is what helps
        return None


def _known(trt: Any) -> dict[str, Any]:
    """Architectures that TensorRT-RTX can build for, by the name nvcc gives them."""
    members = trt.ComputeCapability.__members__
    return {f"sm_{n.removeprefix('SM')}": m for n, m in members.items() if n.startswith("SM")}


def _shapes(builder: Any, channels: int, profile: Profile) -> Any:
    shapes = builder.create_optimization_profile()
    bounds = [(n, channels, h, w) for n, h, w in (profile.minimum, profile.optimum, profile.maximum)]
    shapes.set_shape(INPUT, *bounds)
    return shapes


@cache
def _listener(trt: Any) -> Any:
    """TensorRT's messages in our log; one per library, which keeps to the first it was given."""
    severity = trt.ILogger.Severity
    # Its warnings are about how a network is written, and nothing a user of wsseg can change.
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.INFO,
    }

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = "it gave no reason"

        def log(self, level: Any, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self.last_error = message
            logger.log(levels.get(level, logging.DEBUG), "%s", message)

    return Listener()
