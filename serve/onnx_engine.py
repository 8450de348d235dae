"""Run the exported graph in ONNX Runtime on the CPU; what every device of it shares."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import WssegError
from wsseg.serve.contract import INPUT, OUTPUTS, PROBABILITY, Port, check_contract
from wsseg.serve.cpu import threads_in
from wsseg.serve.engine import EngineError, Prediction
from wsseg.serve.manifest import EngineFile, Manifest
from wsseg.serve.model_folder import engine_bytes

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
