"""Run the exported graph in OpenVINO on the CPU."""

import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import WssegError
from wsseg.serve.contract import INPUT, OUTPUTS, PROBABILITY, Port, check_contract
from wsseg.serve.cpu import BFLOAT, instructions
from wsseg.serve.engine import EngineError, Prediction
from wsseg.serve.manifest import EngineFile, Manifest
from wsseg.serve.model_folder import engine_bytes
from wsseg.serve.onnx_engine import first_line

# What it would choose by itself is bfloat16 where the CPU has it, whatever the file says.
HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}
KINDS = {"f32": "float32", "u8": "uint8", "i64": "int64"}
REPEATS = 3
"""Batches of one picture size from which on the network is compiled for that size alone."""


def no_openvino() -> str | None:
    """Why OpenVINO cannot work here; None where it may."""
    if find_spec("openvino") is None:
        return "not installed: pip install 'wsseg[openvino]'"
    return None


def no_bfloat() -> str | None:
    """Why bfloat16 would only be fp32 by another name; None where the CPU has it."""
    if not instructions() & {*BFLOAT}:
        return "this CPU computes no bfloat16"
    return None


@dataclass
class OpenVinoEngine:
    """An engine (see `engine.Engine`) over a network compiled for one stream a core.

    A batch is dealt out to the streams: each computes its slices on a core of its own, which wastes
    less than all cores on one slice. Of the picture size that repeats, a compiled copy is kept.
    """

    core: Any
    model: Any
    streams: int
    precision: str
    file: str
    name: str = "openvino-cpu"
    _any: list[Any] = field(default_factory=list, init=False)
    _fixed: list[Any] = field(default_factory=list, init=False)
    _size: tuple[int, int] = (0, 0)
    _repeats: int = 0

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        """Masks and areas of slices (n, c, H, W); EngineError where the runtime gives up."""
        return Prediction(*self._run(tuple(OUTPUTS), pixels))

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """The same, and the probability (n, k, H, W); only where `gives_probability`."""
        *answers, probability = self._run((*OUTPUTS, PROBABILITY), pixels)
        return Prediction(*answers), probability

    @property
    def gives_probability(self) -> bool:
        """Whether the file was exported with the probability as an output."""
        return any(PROBABILITY in port.get_names() for port in self.model.outputs)

    def _run(self, outputs: tuple[str, ...], pixels: NDArray[np.float32]) -> list[Any]:
        try:
            requests = self._requests((pixels.shape[2], pixels.shape[3]))
            parts = np.array_split(np.ascontiguousarray(pixels), min(len(pixels), len(requests)))
            at_work = requests[: len(parts)]
            for request, part in zip(at_work, parts, strict=True):
                request.start_async({INPUT: part}, share_inputs=True)
            for request in at_work:
                request.wait()
            found = [[r.get_tensor(name).data for r in at_work] for name in outputs]
        except Exception as error:  # the runtime's errors share no class below Exception
            raise EngineError(first_line(error)) from error
        # Copied, for the next run writes into the same memory.
        return [np.concatenate(answers) for answers in found]

    def _requests(self, size: tuple[int, int]) -> list[Any]:
        """Requests of the network compiled for a picture size, or for any while it is new."""
        if size != self._size:
            self._size, self._repeats, self._fixed = size, 0, []
        self._repeats += 1
        if self._repeats == REPEATS:
            fixed = self.model.clone()
            shape = fixed.input(INPUT).partial_shape
            fixed.reshape({INPUT: [-1, shape[1], *size]})
            self._fixed = self._compile(fixed)
        if self._fixed:
            return self._fixed
        self._any = self._any or self._compile(self.model)
        return self._any

    def _compile(self, model: Any) -> list[Any]:
        hints = {
            "INFERENCE_NUM_THREADS": self.streams,
            "NUM_STREAMS": self.streams,
            "INFERENCE_PRECISION_HINT": HINTS[self.precision],
        }
        compiled = self.core.compile_model(model, "CPU", hints)
        return [compiled.create_infer_request() for _ in range(self.streams)]


def open_openvino(
    folder: Path, manifest: Manifest, entry: EngineFile, threads: int
) -> OpenVinoEngine:
    """The engine of an ONNX file in OpenVINO on the CPU; WssegError where it cannot be used.

    threads: and streams; 0 takes the cores that this process may use.
    """
    import openvino

    core = openvino.Core()
    try:
        model = core.read_model(engine_bytes(folder, entry), b"")
    except RuntimeError as error:
        raise WssegError(
            f"OpenVINO {openvino.__version__} cannot load {entry.file}: {first_line(error)}; "
            "export it again"
        ) from error
    inputs = {port.any_name: _port(port) for port in model.inputs}
    outputs = {port.any_name: _port(port) for port in model.outputs}
    check_contract(inputs, outputs, manifest, entry)
    streams = threads or len(os.sched_getaffinity(0))
    return OpenVinoEngine(core, model, streams, entry.precision, entry.file)


def _port(port: Any) -> Port:
    kind = port.element_type.get_type_name()
    shape = port.partial_shape
    second = shape[1].get_length() if len(shape) > 1 and shape[1].is_static else None
    return Port(KINDS.get(kind, kind), second)
