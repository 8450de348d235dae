"""The exported graph in OpenVINO on the CPU."""

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
from wsseg.serve.engines.base import Prediction, engine_error, first_line
from wsseg.serve.engines.hardware import BFLOAT, instructions, usable_cores
from wsseg.serve.engines.onnx_file import onnx_bytes
from wsseg.serve.manifest import (
    AREA_VARIANCE,
    INPUT,
    OUTPUTS,
    PROBABILITY,
    EngineFile,
    Manifest,
    Port,
    check_contract,
)

# By itself OpenVINO would choose bfloat16 if the CPU has it, whatever the file says.
HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}
KINDS = {"f32": "float32", "u8": "uint8", "i64": "int64"}
REPEATS = 3
"""Number of batches of one image size after which the network is compiled for that size; and of
batches with more slices than there are streams, after which it is compiled with more."""


def no_openvino() -> str | None:
    """The reason why OpenVINO cannot work here; None if it may work."""
    if find_spec("openvino") is None:
        return "not installed: pip install 'wsseg[openvino]'"
    try:
        import openvino  # noqa: F401 - a library that it needs may be missing
    except (ImportError, OSError) as error:
        return f"it does not load ({first_line(error)})"
    return None


def no_bfloat() -> str | None:
    """The reason why bfloat16 would be computed in fp32; None if the CPU has it."""
    if not instructions() & {*BFLOAT}:
        return "this CPU computes no bfloat16"
    return None


@dataclass
class OpenVinoEngine:
    """An engine, see `base.Engine`, over a network compiled with a stream for each slice.

    A batch is distributed over the streams, which share the cores: a core for each slice wastes
    less than all cores on one slice, and a batch smaller than the cores leaves none idle. A
    compiled copy is kept for the image size that repeats.
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
        """Masks and areas of slices (n, c, H, W); EngineError if the runtime fails."""
        return Prediction(*self._run(self._outputs, pixels))

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """The same, and the probability (n, k, H, W); only if `gives_probability`."""
        *answers, probability = self._run((*self._outputs, PROBABILITY), pixels)
        return Prediction(*answers), probability

    @property
    def gives_probability(self) -> bool:
        """Whether the file was exported with the probability as an output."""
        return self._has(PROBABILITY)

    @property
    def _outputs(self) -> tuple[str, ...]:
        """The outputs of every run, in the order of a Prediction."""
        return (*OUTPUTS, AREA_VARIANCE) if self._has(AREA_VARIANCE) else tuple(OUTPUTS)

    def _has(self, name: str) -> bool:
        return any(name in port.get_names() for port in self.model.outputs)

    def _run(self, outputs: tuple[str, ...], pixels: NDArray[np.float32]) -> list[Any]:
        try:
            streams = self._streams((pixels.shape[2], pixels.shape[3]))
            requests = streams.requests_for(min(len(pixels), self.cores))
            parts = np.array_split(np.ascontiguousarray(pixels), min(len(pixels), len(requests)))
            busy = requests[: len(parts)]
            _compute(busy, parts)
            results = [[r.get_tensor(name).data for r in busy] for name in outputs]
        except Exception as error:  # the runtime's errors share no class below Exception
            raise engine_error(error) from error
        # Copied, because the next run writes into the same memory.
        return [np.concatenate(parts) for parts in results]

    def _streams(self, size: tuple[int, int]) -> "_Streams":
        """The streams for an image size; those for any size while it does not repeat."""
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
    """Inference requests of one compiled network, each with a stream.

    compiled: compiles the network for a number of requests. That takes as long as several batches,
    and is not worth it for one larger batch among small ones.
    """

    compiled: Callable[[int], list[Any]]
    _requests: list[Any] = field(default_factory=list, init=False)
    _larger: int = field(default=0, init=False)

    def requests_for(self, wanted: int) -> list[Any]:
        """The wanted number of requests; fewer as long as larger batches do not repeat."""
        if wanted > len(self._requests):
            self._larger += 1
            if not self._requests or self._larger == REPEATS:
                self._requests, self._larger = self.compiled(wanted), 0
        return self._requests


def _compute(requests: Sequence[Any], parts: Sequence[NDArray[np.float32]]) -> None:
    """Run each request on its part; when this returns or raises, none of them is busy."""
    started = []
    try:
        for request, part in zip(requests, parts, strict=True):
            request.start_async({INPUT: part}, share_inputs=True)
            started.append(request)
        for request in started:
            request.wait()
    finally:
        # A busy request would refuse the next batch, and reads memory that is freed.
        for request in started:
            with suppress(Exception):  # the first error is the one to report
                request.wait()


def open_openvino(
    folder: Path, manifest: Manifest, entry: EngineFile, threads: int
) -> OpenVinoEngine:
    """Open an ONNX file in OpenVINO on the CPU; WssegError if the file cannot be used.

    threads: threads that all streams share; 0 takes the cores that this process may use.
    """
    import openvino

    core = _core()
    try:
        model = core.read_model(onnx_bytes(folder, entry), b"")
    except RuntimeError as error:
        raise WssegError(
            f"OpenVINO {openvino.__version__} cannot load {entry.file}: {first_line(error)}; "
            "export it again"
        ) from error

    def port(one: Any) -> Port:
        kind, shape = one.element_type.get_type_name(), one.partial_shape
        second = shape[1].get_length() if len(shape) > 1 and shape[1].is_static else None
        return Port(KINDS.get(kind, kind), second)

    inputs = {one.any_name: port(one) for one in model.inputs}
    outputs = {one.any_name: port(one) for one in model.outputs}
    check_contract(inputs, outputs, manifest, entry)
    return OpenVinoEngine(core, model, threads or usable_cores(), entry.precision, entry.file)


@cache
def _core() -> Any:
    """The only OpenVINO core of this process, which lives as long as the process.

    On Linux each core gives its thread a stack for signals and takes it back when it ends. If two
    cores end in the order they began, the second puts back the first one's freed stack (seen in
    2026.4), and the next signal, such as a container's stop, ends in a segmentation fault.
    """
    import openvino

    return openvino.Core()
