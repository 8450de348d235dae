"""Run the exported graph in ONNX Runtime on an NVIDIA GPU: CUDA itself, or TensorRT below it."""

import ctypes
import logging
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from wsseg.serve.cuda_driver import no_driver
from wsseg.serve.cuda_libraries import preload_libraries
from wsseg.serve.engine import EngineError, UnusableError
from wsseg.serve.manifest import EngineFile, Manifest
from wsseg.serve.model_folder import engine_bytes
from wsseg.serve.onnx_bound import GRAPH, NO_GRAPH, BoundEngine
from wsseg.serve.onnx_engine import CPU, OnnxEngine, check_session, start_session

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
TENSORRT_RTX = "NvTensorRTRTXExecutionProvider"
NAMES = {
    CUDA: "onnxruntime-cuda",
    TENSORRT: "onnxruntime-tensorrt",
    TENSORRT_RTX: "onnxruntime-tensorrt-rtx",
}
# TF32 would quietly drop 13 of fp32's 23 bits, which the export's comparison never saw.
CUDA_SETTINGS = {"use_tf32": "0"}
# TensorRT's providers have no such setting: NVIDIA's libraries read this variable when they start.
# https://github.com/microsoft/onnxruntime/issues/26029
TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"
TRIAL_SIDE = 32

logger = logging.getLogger(__name__)


def no_provider(provider: str) -> str | None:
    """Why ONNX Runtime cannot use one of NAMES here; None where it may."""
    import onnxruntime

    if provider == TENSORRT_RTX:
        return no_driver() or _register(onnxruntime)
    if provider not in onnxruntime.get_available_providers():
        wanted = "CUDA" if provider == CUDA else "TensorRT"
        return f"this onnxruntime is built without {wanted} (the package onnxruntime-gpu has it)"
    return no_driver()


def open_onnx_gpu(
    folder: Path, manifest: Manifest, entry: EngineFile, provider: str
) -> OnnxEngine | BoundEngine:
    """The engine of an ONNX file on the first GPU, by a provider that `no_provider` did not refuse.

    Raises UnusableError where the provider does not come up or a trial run fails, WssegError where
    the file cannot be used.
    """
    import onnxruntime

    os.environ.setdefault(TF32_VARIABLE, "0")
    preload_libraries()
    content = engine_bytes(folder, entry)
    if provider == CUDA:
        try:
            return _cuda(content, manifest, entry, graphs=True)
        except UnusableError as error:  # such as a node that is left to the CPU
            logger.info("CUDA graphs are not used: %s", error)
            return _cuda(content, manifest, entry, graphs=False)
    settings = onnxruntime.SessionOptions()
    providers: list[Any] = []
    if provider == TENSORRT_RTX:
        settings.add_provider_for_devices(_devices(onnxruntime)[:1], {})
    else:
        providers = [provider, (CUDA, CUDA_SETTINGS), CPU]
    return _tried(_started(content, settings, providers), manifest, entry, provider)


def _started(content: bytes, settings: Any, providers: list[Any]) -> Any:
    """A session; UnusableError where the GPU has no room, or any other fault.

    One of the file is told where the CPU opens it.
    """
    try:
        return start_session(content, settings, providers)
    except EngineError as error:
        raise UnusableError(f"ONNX Runtime does not start there: {error}") from error


def _cuda(
    content: bytes, manifest: Manifest, entry: EngineFile, *, graphs: bool
) -> OnnxEngine | BoundEngine:
    import onnxruntime

    cuda = (CUDA, {**CUDA_SETTINGS, "enable_cuda_graph": "1" if graphs else "0"})
    session = _started(content, onnxruntime.SessionOptions(), [cuda, CPU])
    plain = _tried(session, manifest, entry, CUDA)
    engine = BoundEngine(plain, len(manifest.classes), graphs=graphs)
    if graphs:
        blank = _blank(manifest)
        try:
            for _ in range(3):  # as it stands, captured, replayed
                engine(blank)
        except EngineError as error:
            raise UnusableError(f"CUDA graphs cannot be captured: {error}") from error
        if not engine.keeps(blank.shape):  # it answered, but nothing was captured
            raise UnusableError("CUDA graphs cannot be captured: the GPU has no room for buffers")
    return engine


def _tried(session: Any, manifest: Manifest, entry: EngineFile, provider: str) -> OnnxEngine:
    """The session as an engine that has computed once, really by that provider."""
    import onnxruntime

    if session.get_providers()[0] != provider:
        raise UnusableError(
            _library_missing(onnxruntime) or "the driver offers no GPU that it can use"
        )
    check_session(session, manifest, entry)
    engine = OnnxEngine(session, NAMES[provider], entry.precision, entry.file, _ungraphed())
    try:
        engine(_blank(manifest))
    except EngineError as error:
        raise UnusableError(f"a trial run failed: {error}") from error
    return engine


def _ungraphed() -> Any:
    """Options of a run that is neither captured nor replayed."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry(GRAPH, NO_GRAPH)
    return options


def _blank(manifest: Manifest) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.zeros((1, manifest.channels, TRIAL_SIDE, TRIAL_SIDE), np.float32)


def _register(onnxruntime: ModuleType) -> str | None:
    """Make the TensorRT-RTX provider, a package of its own, known; or why it cannot be used."""
    try:
        import onnxruntime_ep_nv_tensorrt_rtx as plugin
    except ImportError as error:
        return f"{error}: pip install onnxruntime-ep-nv-tensorrt-rtx"
    if not _devices(onnxruntime):
        try:
            onnxruntime.register_execution_provider_library(TENSORRT_RTX, plugin.get_library_path())
        except Exception as error:  # the runtime's errors share no class below Exception
            return f"its library does not load ({error})"
    return None if _devices(onnxruntime) else "it finds no GPU that it can use"


def _devices(onnxruntime: ModuleType) -> list[Any]:
    return [d for d in onnxruntime.get_ep_devices() if d.ep_name == TENSORRT_RTX]


def _library_missing(onnxruntime: ModuleType) -> str | None:
    """What the dynamic linker misses for ONNX Runtime's CUDA provider; None where nothing."""
    name = "onnxruntime_providers_cuda"
    file = f"{name}.dll" if sys.platform == "win32" else f"lib{name}.so"
    try:
        ctypes.CDLL(str(Path(str(onnxruntime.__file__)).parent / "capi" / file))
    except OSError as error:
        return f"a CUDA library does not load ({error})"
    return None
