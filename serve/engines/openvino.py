"""Run the exported graph in OpenVINO on the CPU."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import WssegError
from wsseg.serve.engines.base import EngineError, Prediction
from wsseg.serve.engines.hardware import BFLOAT, instructions, usable_cores
from wsseg.serve.engines.onnxruntime import first_line
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

# What it would choose by itself is bfloat16 where the CPU has it, whatever the file says.
HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}
KINDS = {"f32": "float32", "u8": "uint8", "i64": "int64"}
REPEATS = 3
"""Batches of one picture size from which on the network is compiled for that size alone; and
batches with more slices than there are streams, from which on it is compiled with more."""


def no_openvino() -> str | None:
    """Why OpenVINO cannot work here; None where it may."""
    if find_spec("openvino") is None:
        return "not installed: pip install 'wsseg[openvino]'"
    try:
        import openvino  # noqa: F401 - a library that it needs may be missing
    except (ImportError, OSError) as error:
        return f"it does not load ({first_line(error)})"
    return None


def no_bfloat() -> str | None:
    """Why bfloat16 would only be fp32 by another name; None where the CPU has it."""
    if not instructions() & {*BFLOAT}:
        return "this CPU computes no bfloat16"
    return None


@dataclass
class OpenVinoEngine:
    """An engine (see `engine.Engine`) over a network compiled for as many streams as slices come.

    A batch is dealt out to the streams, which share the cores: a core for each slice wastes less
    than all cores on one slice, and a batch smaller than the cores leaves none idle. Of the picture
    size that repeats, a compiled copy is kept.
    """

    core: Any
    model: Any
    cores: int
    precision: str
    file: str
    name: str = "openvino-cpu"
    _any: "_Streams" = field(init=False)
    _fixed: "_Streams | None" = field(default=None, init=False)
    _size: tuple[int, int] = field(default=(0, 0), init=False)
    _repeats: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._any = _Streams(partial(self._compile, self.model))

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
            streams = self._streams((pixels.shape[2], pixels.shape[3]))
            requests = streams.requests_for(min(len(pixels), self.cores))
            parts = np.array_split(np.ascontiguousarray(pixels), min(len(pixels), len(requests)))
            at_work = requests[: len(parts)]
            _compute(at_work, parts)
            found = [[r.get_tensor(name).data for r in at_work] for name in outputs]
        except Exception as error:  # the runtime's errors share no class below Exception
            raise EngineError(first_line(error)) from error
        # Copied, for the next run writes into the same memory.
        return [np.concatenate(answers) for answers in found]

    def _streams(self, size: tuple[int, int]) -> "_Streams":
        """Of the network compiled for a picture size, or for any while it is new."""
        if size != self._size:
            self._size, self._repeats, self._fixed = size, 0, None
        self._repeats += 1
        if self._repeats == REPEATS:
            fixed = self.model.clone()
            shape = fixed.input(INPUT).partial_shape
            fixed.reshape({INPUT: [-1, shape[1], *size]})
            self._fixed = _Streams(partial(self._compile, fixed))
        return self._fixed or self._any

    def _compile(self, model: Any, streams: int) -> list[Any]:
        hints = {
            "INFERENCE_NUM_THREADS": self.cores,
            "NUM_STREAMS": streams,
            "INFERENCE_PRECISION_HINT": HINTS[self.precision],
        }
        compiled = self.core.compile_model(model, "CPU", hints)
        return [compiled.create_infer_request() for _ in range(streams)]


@dataclass
class _Streams:
    """Requests of one compiled network, a stream for each.

    compiled: makes as many as it is told to. Compiling takes as long as several batches, so that
    one larger batch among small ones is not worth it.
    """

    compiled: Callable[[int], list[Any]]
    _requests: list[Any] = field(default_factory=list, init=False)
    _larger: int = field(default=0, init=False)

    def requests_for(self, wanted: int) -> list[Any]:
        """So many, or those of a smaller batch as long as larger ones do not repeat."""
        if wanted > len(self._requests):
            self._larger += 1
            if not self._requests or self._larger == REPEATS:
                self._requests, self._larger = self.compiled(wanted), 0
        return self._requests


def _compute(requests: Sequence[Any], parts: Sequence[NDArray[np.float32]]) -> None:
    """Run each request on its part; when this returns or raises, none of them is at work."""
    started = []
    try:
        for request, part in zip(requests, parts, strict=True):
            request.start_async({INPUT: part}, share_inputs=True)
            started.append(request)
        for request in started:
            request.wait()
    finally:
        # One that is still at work would refuse the next batch, and reads memory that is freed.
        for request in started:
            with suppress(Exception):  # the first error is the one to tell
                request.wait()


def open_openvino(
    folder: Path, manifest: Manifest, entry: EngineFile, threads: int
) -> OpenVinoEngine:
    """The engine of an ONNX file in OpenVINO on the CPU; WssegError where it cannot be used.

    threads: that all streams share; 0 takes the cores that this process may use.
    """
    import openvino

    core = _core()
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
    return OpenVinoEngine(core, model, threads or usable_cores(), entry.precision, entry.file)


@cache
def _core() -> Any:
    """The one core of this process, which lives as long as it.

    On Linux each core gives its thread a stack for signals and takes it back when it ends: of two
    that end in the order they began, the second puts back the first one's freed stack (seen in
    2026.4), and the next signal, such as a container's stop, ends in a segmentation fault.
    """
    import openvino

    return openvino.Core()


def _port(port: Any) -> Port:
    kind = port.element_type.get_type_name()
    shape = port.partial_shape
    second = shape[1].get_length() if len(shape) > 1 and shape[1].is_static else None
    return Port(KINDS.get(kind, kind), second)
