"""Run the exported graph in ONNX Runtime, on the processor that really works, and say which."""

import contextlib
import ctypes
import io
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import WssegError
from wsseg.serve.engine import EngineError, Prediction
from wsseg.serve.manifest import EngineFile, Manifest
from wsseg.serve.model_folder import engine_bytes

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "fp16"]

INPUT = "pixels"
OUTPUTS = {"mask": "tensor(uint8)", "pixel_area": "tensor(int64)", "soft_area": "tensor(float)"}
# Models exported by early versions lack it; only what recovers masks asks for it.
PROBABILITY = "probability"
KINDS = {**OUTPUTS, PROBABILITY: "tensor(float)"}
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
NAMES = {CUDA: "onnxruntime-cuda", CPU: "onnxruntime-cpu"}
# Failures come back as exceptions; the runtime's own lines on stderr would only repeat them.
FATAL_ONLY = 4
TRIAL_SIDE = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """Where and how precisely to compute.

    device "auto" takes CUDA where it really works; "cuda" takes nothing else. precision "auto" is
    fp16 on CUDA if the export checked such an engine, else fp32. threads: of the engine on a CPU;
    0 leaves the number to the runtime.
    """

    device: Device = "auto"
    precision: Precision = "auto"
    threads: int = 0


@dataclass(frozen=True)
class OnnxEngine:
    """An engine (see `engine.Engine`) over one ONNX Runtime session."""

    session: Any
    name: str
    precision: str
    file: str

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
            answers: list[Any] = self.session.run(outputs, {INPUT: pixels})
        except Exception as error:  # the runtime's errors share no class below Exception
            raise EngineError(_first_line(error)) from error
        return answers


def open_onnx(folder: Path, manifest: Manifest, options: EngineOptions) -> OnnxEngine:
    """Open the model folder's ONNX engine that fits the device and the precision.

    Raises WssegError where the folder has no such engine, its file was altered or is no wsseg
    graph, and where CUDA was asked for and does not run.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(FATAL_ONLY)
    if options.device != "cpu":
        entry = choose_engine(manifest, options.precision, half=True)
        absent = _no_cuda(onnxruntime)
        found = absent or _open_cuda(onnxruntime, folder, manifest, entry)
        if isinstance(found, OnnxEngine):
            return found
        if options.device == "cuda":
            raise WssegError(
                f"CUDA was asked for and does not run here: {found}; mend that or use the CPU"
            )
        # No GPU is as expected; a GPU that lies idle is slow for no good reason.
        level = logging.DEBUG if absent else logging.WARNING
        logger.log(level, "CUDA is not used: %s", found, extra={"event": "cuda_not_used"})
    entry = choose_engine(manifest, options.precision, half=False)
    settings = _settings(onnxruntime, options.threads)
    session = _open(onnxruntime, engine_bytes(folder, entry), settings, [CPU])
    return _checked(session, manifest, entry)


def choose_engine(manifest: Manifest, precision: Precision, *, half: bool) -> EngineFile:
    """The manifest's ONNX Runtime entry of a precision; "auto" prefers checked fp16 if `half`.

    An fp16 engine without parity figures was never compared with fp32: only an explicit wish takes
    it. Raises WssegError naming the precisions there are.
    """
    entries = {e.precision: e for e in manifest.engines if e.runtime == "onnxruntime"}
    if precision == "auto":
        checked = "fp16" in entries and entries["fp16"].parity is not None
        precision = "fp16" if (half and checked) or "fp32" not in entries else "fp32"
    if precision not in entries:
        there = ", ".join(sorted(entries)) or "none"
        raise WssegError(
            f"model {manifest.name} has no {precision} engine for ONNX Runtime (there: {there}): "
            "export one or choose another precision"
        )
    return entries[precision]


def _open_cuda(
    onnxruntime: ModuleType, folder: Path, manifest: Manifest, entry: EngineFile
) -> OnnxEngine | str:
    """The engine on CUDA, or why the CUDA that is there does not work."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints what it could not load
        getattr(onnxruntime, "preload_dlls", lambda: None)()
    logger.debug("preloading CUDA libraries said: %s", said.getvalue().strip() or "nothing")
    settings = _settings(onnxruntime, threads=0)
    # TF32 would quietly drop 13 of fp32's 23 bits, which the export's comparison never saw.
    cuda = (CUDA, {"use_tf32": "0"})
    session = _open(onnxruntime, engine_bytes(folder, entry), settings, [cuda, CPU])
    if session.get_providers()[0] != CUDA:
        return _library_missing(onnxruntime) or "the driver offers no GPU that it can use"
    engine = _checked(session, manifest, entry)
    try:
        engine(np.zeros((1, manifest.channels, TRIAL_SIDE, TRIAL_SIDE), np.float32))
    except EngineError as error:
        return f"a trial run failed: {error}"
    return engine


def _no_cuda(onnxruntime: ModuleType) -> str | None:
    """Why CUDA cannot work, found without loading the model; None where it may."""
    if CUDA not in onnxruntime.get_available_providers():
        return "this onnxruntime is built without CUDA (the package onnxruntime-gpu has it)"
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(driver)
    except OSError:
        return f"no NVIDIA driver was found ({driver} does not load)"
    return None


def _library_missing(onnxruntime: ModuleType) -> str | None:
    """What the dynamic linker misses for ONNX Runtime's CUDA provider; None where nothing."""
    name = "onnxruntime_providers_cuda"
    file = f"{name}.dll" if sys.platform == "win32" else f"lib{name}.so"
    try:
        ctypes.CDLL(str(Path(str(onnxruntime.__file__)).parent / "capi" / file))
    except OSError as error:
        return f"a CUDA library does not load ({error})"
    return None


def _settings(onnxruntime: ModuleType, threads: int) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    return settings


def _open(onnxruntime: ModuleType, content: bytes, settings: Any, providers: list[Any]) -> Any:
    try:
        session = onnxruntime.InferenceSession(content, settings, providers=providers)
    except Exception as error:  # the runtime's errors share no class below Exception
        raise WssegError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the model: {_first_line(error)}; "
            "export it again or install the onnxruntime that wsseg asks for"
        ) from error
    # Otherwise one failed CUDA batch moves the session to the CPU for good, without an error.
    session.disable_fallback()
    return session


def _checked(session: Any, manifest: Manifest, entry: EngineFile) -> OnnxEngine:
    """The session as an engine, if its inputs and outputs are those of an exported graph."""
    inputs = {i.name: (i.type, i.shape) for i in session.get_inputs()}
    outputs = {o.name: (o.type, o.shape) for o in session.get_outputs()}
    found = {name: kind for name, (kind, _) in outputs.items()}
    shapes = [shape for name, (_, shape) in outputs.items() if name in KINDS]
    fits = (
        list(inputs) == [INPUT]
        and inputs[INPUT][0] == "tensor(float)"
        and OUTPUTS.keys() <= found.keys()
        and all(found[name] == KINDS[name] for name in found.keys() & KINDS.keys())
        and _agrees(inputs[INPUT][1], manifest.channels)
        and all(_agrees(shape, len(manifest.classes)) for shape in shapes)
    )
    if not fits:
        raise WssegError(
            f"{entry.file} is no graph of wsseg for {manifest.channels} channels and "
            f"{len(manifest.classes)} classes (inputs {inputs}, outputs {outputs}): "
            "export the model again"
        )
    return OnnxEngine(session, NAMES[session.get_providers()[0]], entry.precision, entry.file)


def _agrees(shape: list[Any], second: int) -> bool:
    """Whether the second axis has that length, or one that only a run would tell."""
    return len(shape) >= 2 and (not isinstance(shape[1], int) or shape[1] == second)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
