"""Run the exported graph in ONNX Runtime on an NVIDIA GPU: CUDA itself, or TensorRT below it."""

import ctypes
import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import WssegError
from wsseg.serve.engines.base import EngineError, Prediction, UnusableError
from wsseg.serve.engines.hardware import no_driver, preload_libraries, threads_in
from wsseg.serve.manifest import (
    INPUT,
    OUTPUTS,
    PROBABILITY,
    EngineFile,
    Manifest,
    Port,
    check_contract,
    engine_bytes,
)

# Run the exported graph in ONNX Runtime on the CPU; what every device of it shares.

CPU = "CPUExecutionProvider"
# Failures come back as exceptions; the runtime's own lines on stderr would only repeat them.
FATAL_ONLY = 4
KINDS = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int64)": "int64"}


@dataclass(frozen=True)
class OnnxEngine:
    """An engine (see `engine.Engine`) over one ONNX Runtime session.

    run_options: of every run; None for the runtime's own.
    """

    session: Any
    name: str
    precision: str
    file: str
    run_options: Any = None

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        """Masks and areas of slices (n, c, H, W); EngineError where the runtime gives up."""
        return Prediction(*self._run(list(OUTPUTS), pixels))

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """The same, and the probability (n, k, H, W); only where `gives_probability`."""
        *answers, probability = self._run([*OUTPUTS, PROBABILITY], pixels)
        return Prediction(*answers), probability

    @property
    def gives_probability(self) -> bool:
        """Whether the file was exported with the probability as an output."""
        return any(output.name == PROBABILITY for output in self.session.get_outputs())

    def _run(self, outputs: list[str], pixels: NDArray[np.float32]) -> list[Any]:
        try:
            answers: list[Any] = self.session.run(outputs, {INPUT: pixels}, self.run_options)
        except Exception as error:  # the runtime's errors share no class below Exception
            raise EngineError(first_line(error)) from error
        return answers


def open_onnx_cpu(folder: Path, manifest: Manifest, entry: EngineFile, threads: int) -> OnnxEngine:
    """The engine of an ONNX file on the CPU; WssegError where the file cannot be used.

    threads: of one run; 0 takes the cores that this process may use.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads_in(threads)
    try:
        session = start_session(engine_bytes(folder, entry), settings, [CPU])
    except EngineError as error:
        raise WssegError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {entry.file}: {error}; "
            "export it again or install the onnxruntime that wsseg asks for"
        ) from error
    check_session(session, manifest, entry)
    return OnnxEngine(session, "onnxruntime-cpu", entry.precision, entry.file)


def start_session(content: bytes, settings: Any, providers: list[Any]) -> Any:
    """A session over an ONNX file's bytes; EngineError where it does not start.

    settings: SessionOptions. providers: in order of preference; empty where `settings` names them.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(FATAL_ONLY)
    try:
        # With its fallback, a GPU that fails now or in one batch moves the session to the CPU for
        # good, without an error.
        return onnxruntime.InferenceSession(
            content, settings, providers=providers or None, enable_fallback=0
        )
    except Exception as error:  # the runtime's errors share no class below Exception
        raise EngineError(first_line(error)) from error


def check_session(session: Any, manifest: Manifest, entry: EngineFile) -> None:
    """WssegError where a session's inputs and outputs are not those of the exported graph."""
    inputs = {port.name: _port(port) for port in session.get_inputs()}
    outputs = {port.name: _port(port) for port in session.get_outputs()}
    check_contract(inputs, outputs, manifest, entry)


def first_line(error: Exception) -> str:
    """What a runtime's error says first; the rest is a trace of its own source."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _port(port: Any) -> Port:
    second = port.shape[1] if len(port.shape) > 1 and isinstance(port.shape[1], int) else None
    return Port(KINDS.get(port.type, port.type), second)


# ONNX Runtime over buffers that stay on the device: CUDA graphs for shapes that repeat.

MOST_SHAPES = 4
"""Buffers and graphs are kept for; more shapes than that are run without."""
GRAPH = "gpu_graph_id"
NO_GRAPH = "-1"

Shape = tuple[int, ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Bound:
    """Buffers of one shape on the device, and what runs the session over them."""

    pixels: Any
    outputs: tuple[Any, ...]
    binding: Any
    run_options: Any


@dataclass
class BoundEngine:
    """An engine (see `engine.Engine`) that keeps buffers for shapes (n, c, H, W) that repeat.

    graphs: whether the session was opened with CUDA graphs; each kept shape is then captured once
    and replayed. device: where the buffers lie, as ONNX Runtime names it.
    """

    plain: OnnxEngine
    classes: int
    graphs: bool = False
    device: str = "cuda"
    _seen: set[Shape] = field(default_factory=set, init=False)
    _kept: dict[Shape, _Bound] = field(default_factory=dict, init=False)
    _refused: set[Shape] = field(default_factory=set, init=False)

    @property
    def name(self) -> str:
        """Runtime and device."""
        return self.plain.name

    @property
    def precision(self) -> str:
        """Of the network's numbers."""
        return self.plain.precision

    @property
    def file(self) -> str:
        """In the model folder."""
        return self.plain.file

    @property
    def gives_probability(self) -> bool:
        """Whether the file was exported with the probability as an output."""
        return self.plain.gives_probability

    def keeps(self, shape: Shape) -> bool:
        """Whether batches of this shape run over buffers of their own."""
        return shape in self._kept

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        """Masks and areas of slices (n, c, H, W); EngineError where the runtime gives up."""
        bound = self._bound(pixels.shape)
        if bound is None:
            return self.plain(pixels)
        try:
            bound.pixels.update_inplace(np.ascontiguousarray(pixels))
            self.plain.session.run_with_iobinding(bound.binding, bound.run_options)
            # Copied, for on a CPU it is the buffer itself, which the next run writes into.
            return Prediction(*(np.array(output.numpy()) for output in bound.outputs))
        except Exception as error:  # the runtime's errors share no class below Exception
            raise EngineError(first_line(error)) from error

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """The same, and the probability (n, k, H, W), without buffers of its own."""
        return self.plain.with_probability(pixels)

    def _bound(self, shape: Shape) -> _Bound | None:
        """Buffers of a shape that was met before, as long as there is room for its own."""
        if shape in self._kept:
            return self._kept[shape]
        if shape not in self._seen or len(self._kept) == MOST_SHAPES:
            self._seen.add(shape)
            return None
        if shape in self._refused:
            return None
        try:
            self._kept[shape] = self._bind(shape)
        except Exception as error:  # the runtime's errors share no class below Exception
            # Mostly memory of a GPU that others use, too: without buffers the batch may still fit.
            self._refused.add(shape)
            logger.info("no buffers are kept for batches %s: %s", shape, first_line(error))
            return None
        return self._kept[shape]

    def _bind(self, shape: Shape) -> _Bound:
        import onnxruntime

        def buffer(size: Shape, kind: Any) -> Any:
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(size, kind, self.device, 0)

        count, _, rows, columns = shape
        sizes = {"mask": (count, self.classes, rows, columns)}
        pixels = buffer(shape, np.float32)
        outputs = {
            name: buffer(sizes.get(name, (count, self.classes)), np.dtype(kind).type)
            for name, kind in OUTPUTS.items()
        }
        binding = self.plain.session.io_binding()
        binding.bind_ortvalue_input(INPUT, pixels)
        for name, output in outputs.items():
            binding.bind_ortvalue_output(name, output)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(GRAPH, str(len(self._kept) + 1) if self.graphs else NO_GRAPH)
        return _Bound(pixels, tuple(outputs.values()), binding, options)


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
