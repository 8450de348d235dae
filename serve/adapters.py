"""The runtimes that can compute a model: what each needs, and how it opens an engine."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from wsseg.serve.engine import Engine
from wsseg.serve.engine_options import EngineName
from wsseg.serve.manifest import EngineFile, Manifest, RuntimeName
from wsseg.serve.onnx_cuda import CUDA, TENSORRT, TENSORRT_RTX, no_provider, open_onnx_gpu
from wsseg.serve.onnx_engine import open_onnx_cpu
from wsseg.serve.openvino_engine import no_openvino, open_openvino
from wsseg.serve.tensorrt_engine import no_tensorrt, open_tensorrt, rebuild_tensorrt
from wsseg.serve.torch_engine import no_torch, open_torch

Open = Callable[[Path, Manifest, EngineFile, int], Engine]


@dataclass(frozen=True)
class Adapter:
    """One way to compute a model.

    engine: by which it is asked for. runtime: whose entries of the manifest it opens. absent: why
    it cannot work on this machine, found without a model, or None. open: raises UnusableError where
    it cannot after all, WssegError for a file that cannot be used. on_request: only taken when
    asked for by name, for it computes files that were judged in another runtime, or never is the
    fastest. rebuild: makes an engine that fits here of one that does not.
    """

    engine: EngineName
    runtime: RuntimeName
    device: Literal["cpu", "cuda"]
    absent: Callable[[], str | None]
    open: Open
    on_request: bool = False
    rebuild: Open | None = None

    @property
    def label(self) -> str:
        """Name and device, for people."""
        return f"{self.engine} on {'CUDA' if self.device == 'cuda' else 'CPU'}"


def _gpu(provider: str) -> Open:
    def opened(folder: Path, manifest: Manifest, entry: EngineFile, _: int) -> Engine:
        return open_onnx_gpu(folder, manifest, entry, provider)

    return opened


ADAPTERS: tuple[Adapter, ...] = (
    Adapter(
        "tensorrt",
        "tensorrt",
        "cuda",
        partial(no_tensorrt, "tensorrt"),
        open_tensorrt,
        rebuild=rebuild_tensorrt,
    ),
    Adapter(
        "tensorrt-rtx",
        "tensorrt_rtx",
        "cuda",
        partial(no_tensorrt, "tensorrt_rtx"),
        open_tensorrt,
        rebuild=rebuild_tensorrt,
    ),
    Adapter("onnxruntime", "onnxruntime", "cuda", partial(no_provider, CUDA), _gpu(CUDA)),
    Adapter(
        "onnxruntime-tensorrt",
        "onnxruntime",
        "cuda",
        partial(no_provider, TENSORRT),
        _gpu(TENSORRT),
        on_request=True,
    ),
    Adapter(
        "onnxruntime-tensorrt-rtx",
        "onnxruntime",
        "cuda",
        partial(no_provider, TENSORRT_RTX),
        _gpu(TENSORRT_RTX),
        on_request=True,
    ),
    Adapter(
        "torch",
        "torch",
        "cuda",
        partial(no_torch, "cuda"),
        partial(open_torch, device="cuda"),
        on_request=True,
    ),
    Adapter("openvino", "openvino", "cpu", no_openvino, open_openvino),
    Adapter("onnxruntime", "onnxruntime", "cpu", lambda: None, open_onnx_cpu),
    Adapter(
        "torch",
        "torch",
        "cpu",
        partial(no_torch, "cpu"),
        partial(open_torch, device="cpu"),
        on_request=True,
    ),
)
"""Fastest first on a GPU; on a CPU the model folder tells."""
