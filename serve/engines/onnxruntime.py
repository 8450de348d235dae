"""The exported graph in ONNX Runtime, on the CPU and on NVIDIA GPUs."""

import ctypes
import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import WssegError
from wsseg.serve.engines.base import (
    EngineError,
    Prediction,
    UnusableError,
    engine_error,
    first_line,
)
from wsseg.serve.engines.hardware import no_driver, preload_libraries, threads_in
from wsseg.serve.engines.onnx_file import onnx_bytes
from wsseg.serve.manifest import (
    AREA_VARIANCE,
    INPUT,
    KINDS,
    OUTPUTS,
    PROBABILITY,
    EngineFile,
    Manifest,
    Port,
    check_contract,
)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
TENSORRT_RTX = "NvTensorRTRTXExecutionProvider"
NAMES = {
    CUDA: "onnxruntime-cuda",
    TENSORRT: "onnxruntime-tensorrt",
    TENSORRT_RTX: "onnxruntime-tensorrt-rtx",
}
# Failures come back as exceptions; the runtime's own lines on stderr would only repeat them.
FATAL_ONLY = 4
TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int64)": "int64"}
# TF32 would silently drop 13 of fp32's 23 bits, which the export's comparison never saw.
CUDA_SETTINGS = {"use_tf32": "0"}
# TensorRT's providers have no such setting: NVIDIA's libraries read this variable when they start.
# https://github.com/microsoft/onnxruntime/issues/26029
TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"
MOST_SHAPES = 4
"""Number of shapes that have buffers and graphs; further shapes are computed without."""
GRAPH = "gpu_graph_id"
NO_GRAPH = "-1"
TRIAL_SIDE = 32

Shape = tuple[int, ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OnnxEngine:
    """An engine, see `base.Engine`, over one ONNX Runtime session.

    run_options: options of every run; None for the runtime's own.
    """

    session: Any
    name: str
    precision: str
    file: str
    run_options: Any = None

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        """Masks and areas of slices (n, c, H, W); EngineError if the runtime fails."""
        return Prediction(*self._run(self.outputs, pixels))

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """The same, and the probability (n, k, H, W); only if `gives_probability`."""
        *answers, probability = self._run([*self.outputs, PROBABILITY], pixels)
        return Prediction(*answers), probability

    @property
    def gives_probability(self) -> bool:
        """Whether the file was exported with the probability as an output."""
        return PROBABILITY in self._names

    @property
    def outputs(self) -> list[str]:
        """The outputs of every run, in the order of a Prediction."""
        return [*OUTPUTS, AREA_VARIANCE] if AREA_VARIANCE in self._names else list(OUTPUTS)

    @property
    def _names(self) -> set[str]:
        return {output.name for output in self.session.get_outputs()}

    def _run(self, outputs: list[str], pixels: NDArray[np.float32]) -> list[Any]:
        try:
            answers: list[Any] = self.session.run(outputs, {INPUT: pixels}, self.run_options)
        except Exception as error:  # the runtime's errors share no class below Exception
            raise engine_error(error) from error
        return answers


def open_onnx_cpu(folder: Path, manifest: Manifest, entry: EngineFile, threads: int) -> OnnxEngine:
    """Open an ONNX file on the CPU; WssegError if the file cannot be used.

    threads: threads of one run; 0 takes the cores that this process may use.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads_in(threads)
    try:
        session = start_session(onnx_bytes(folder, entry), settings, [CPU])
    except EngineError as error:
        raise WssegError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {entry.file}: {error}; "
            "export it again or install the onnxruntime that wsseg asks for"
        ) from error
    check_session(session, manifest, entry)
    return OnnxEngine(session, "onnxruntime-cpu", entry.precision, entry.file)


def start_session(content: bytes, settings: Any, providers: list[Any]) -> Any:
    """A session over the bytes of an ONNX file; EngineError if it does not start.

    settings: SessionOptions. providers: in order of preference; empty if `settings` names them.
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
    """WssegError if a session's inputs and outputs are not those of the exported graph."""

    def port(one: Any) -> Port:
        second = one.shape[1] if len(one.shape) > 1 and isinstance(one.shape[1], int) else None
        return Port(TYPES.get(one.type, one.type), second)

    inputs = {one.name: port(one) for one in session.get_inputs()}
    outputs = {one.name: port(one) for one in session.get_outputs()}
    check_contract(inputs, outputs, manifest, entry)


@dataclass(frozen=True)
class _Bound:
    """Buffers of one shape on the device, and what runs the session over them."""

    pixels: Any
    outputs: tuple[Any, ...]
    binding: Any
    run_options: Any


@dataclass
class BoundEngine:
    """An engine, see `base.Engine`, whose buffers for repeated shapes (n, c, H, W) stay on the GPU.

    graphs: whether the session was opened with CUDA graphs; each repeated shape is then captured
    once and replayed. device: where the buffers lie, as ONNX Runtime names it.
    """

    plain: OnnxEngine
    classes: int
    graphs: bool = False
    device: str = "cuda"
    _seen: set[Shape] = field(default_factory=set, init=False)
    _kept: dict[Shape, _Bound] = field(default_factory=dict, init=False)
    _refused: set[Shape] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        plain = self.plain
        self.name, self.precision, self.file = plain.name, plain.precision, plain.file
        self.gives_probability = plain.gives_probability
        self.with_probability = plain.with_probability  # without buffers of its own

    def keeps(self, shape: Shape) -> bool:
        """Whether batches of this shape have buffers."""
        return shape in self._kept

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        """Masks and areas of slices (n, c, H, W); EngineError if the runtime fails."""
        shape = pixels.shape
        if shape not in self._kept and shape not in self._refused:
            if shape in self._seen and len(self._kept) < MOST_SHAPES:
                try:
                    self._kept[shape] = self._bind(shape)
                except Exception as error:  # the runtime's errors share no class below Exception
                    # Mostly memory of a GPU that others use too: the batch may fit without buffers.
                    self._refused.add(shape)
                    why = first_line(error)
                    logger.info("no buffers are kept for batches %s: %s", shape, why)
            self._seen.add(shape)
        bound = self._kept.get(shape)
        if bound is None:
            return self.plain(pixels)
        try:
            bound.pixels.update_inplace(np.ascontiguousarray(pixels))
            self.plain.session.run_with_iobinding(bound.binding, bound.run_options)
            # Copied, because on a CPU it is the buffer itself, which the next run overwrites.
            return Prediction(*(np.array(output.numpy()) for output in bound.outputs))
        except Exception as error:  # the runtime's errors share no class below Exception
            raise engine_error(error) from error

    def _bind(self, shape: Shape) -> _Bound:
        import onnxruntime

        def buffer(size: Shape, kind: Any) -> Any:
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(size, kind, self.device, 0)

        count, _, rows, columns = shape
        sizes = {"mask": (count, self.classes, rows, columns)}
        pixels = buffer(shape, np.float32)
        outputs = {
            name: buffer(sizes.get(name, (count, self.classes)), np.dtype(KINDS[name]).type)
            for name in self.plain.outputs
        }
        binding = self.plain.session.io_binding()
        binding.bind_ortvalue_input(INPUT, pixels)
        for name, output in outputs.items():
            binding.bind_ortvalue_output(name, output)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(GRAPH, str(len(self._kept) + 1) if self.graphs else NO_GRAPH)
        return _Bound(pixels, tuple(outputs.values()), binding, options)


def no_provider(provider: str) -> str | None:
    """The reason why ONNX Runtime cannot use one of NAMES here; None if it may work."""
    import onnxruntime

    if provider == TENSORRT_RTX:
        return no_driver() or _register_rtx()
    if provider not in onnxruntime.get_available_providers():
        wanted = "CUDA" if provider == CUDA else "TensorRT"
        return f"this onnxruntime is built without {wanted} (the package onnxruntime-gpu has it)"
    return no_driver()


def _register_rtx() -> str | None:
    """Register the TensorRT-RTX provider, which is a package of its own; or why it cannot work."""
    import onnxruntime

    try:
        import onnxruntime_ep_nv_tensorrt_rtx as plugin
    except ImportError as error:
        return f"{error}: pip install onnxruntime-ep-nv-tensorrt-rtx"
    if not _rtx_devices():
        try:
            onnxruntime.register_execution_provider_library(TENSORRT_RTX, plugin.get_library_path())
        except Exception as error:  # the runtime's errors share no class below Exception
            return f"its library does not load ({error})"
    return None if _rtx_devices() else "it finds no GPU that it can use"


def _rtx_devices() -> list[Any]:
    import onnxruntime

    return [d for d in onnxruntime.get_ep_devices() if d.ep_name == TENSORRT_RTX]


def open_onnx_gpu(
    folder: Path, manifest: Manifest, entry: EngineFile, _threads: int = 0, *, provider: str
) -> OnnxEngine | BoundEngine:
    """Open an ONNX file on the first GPU, by a provider that `no_provider` did not refuse.

    Raises UnusableError if the provider does not start or a trial run fails, WssegError if the file
    cannot be used.
    """
    import onnxruntime

    os.environ.setdefault(TF32_VARIABLE, "0")
    preload_libraries()
    content = onnx_bytes(folder, entry)
    if provider == CUDA:
        try:
            return _open_cuda(content, manifest, entry, graphs=True)
        except UnusableError as error:  # such as a node that is left to the CPU
            logger.info("CUDA graphs are not used: %s", error)
            return _open_cuda(content, manifest, entry, graphs=False)
    settings = onnxruntime.SessionOptions()
    providers: list[Any] = []
    if provider == TENSORRT_RTX:
        settings.add_provider_for_devices(_rtx_devices()[:1], {})
    else:
        providers = [provider, (CUDA, CUDA_SETTINGS), CPU]
    return _open_tried(content, settings, providers, manifest, entry, provider)


def _open_cuda(
    content: bytes, manifest: Manifest, entry: EngineFile, *, graphs: bool
) -> OnnxEngine | BoundEngine:
    import onnxruntime

    cuda = (CUDA, {**CUDA_SETTINGS, "enable_cuda_graph": "1" if graphs else "0"})
    settings = onnxruntime.SessionOptions()
    plain = _open_tried(content, settings, [cuda, CPU], manifest, entry, CUDA)
    engine = BoundEngine(plain, len(manifest.classes), graphs=graphs)
    if graphs:
        blank = _blank(manifest)
        try:
            for _ in range(3):  # as it stands, captured, replayed
                engine(blank)
        except EngineError as error:
            raise UnusableError(f"CUDA graphs cannot be captured: {error}") from error
        if not engine.keeps(blank.shape):  # it computed, but nothing was captured
            raise UnusableError("CUDA graphs cannot be captured: the GPU has no room for buffers")
    return engine


def _open_tried(
    content: bytes,
    settings: Any,
    providers: list[Any],
    manifest: Manifest,
    entry: EngineFile,
    provider: str,
) -> OnnxEngine:
    """An engine that has computed once, really by that provider.

    UnusableError if the GPU has no memory, or for any other fault. A fault of the file is reported
    when the CPU opens it.
    """
    import onnxruntime

    try:
        session = start_session(content, settings, providers)
    except EngineError as error:
        raise UnusableError(f"ONNX Runtime does not start there: {error}") from error
    if session.get_providers()[0] != provider:
        name = "onnxruntime_providers_cuda"
        file = f"{name}.dll" if sys.platform == "win32" else f"lib{name}.so"
        try:
            ctypes.CDLL(str(Path(str(onnxruntime.__file__)).parent / "capi" / file))
        except OSError as error:
            raise UnusableError(f"a CUDA library does not load ({error})") from error
        raise UnusableError("the driver offers no GPU that it can use")
    check_session(session, manifest, entry)
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(GRAPH, NO_GRAPH)
    engine = OnnxEngine(session, NAMES[provider], entry.precision, entry.file, options)
    try:
        engine(_blank(manifest))
    except EngineError as error:
        raise UnusableError(f"a trial run failed: {error}") from error
    return engine


def _blank(manifest: Manifest) -> NDArray[np.float32]:
    return np.zeros((1, manifest.channels, TRIAL_SIDE, TRIAL_SIDE), np.float32)
