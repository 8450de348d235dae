"""What an engine is: it turns slices into masks and areas."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import AllFailedError
from wsseg.serve.manifest import PrecisionName

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto"] | PrecisionName
EngineName = Literal[
    "auto",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "onnxruntime-tensorrt",
    "onnxruntime-tensorrt-rtx",
    "torch",
]


@dataclass(frozen=True)
class EngineOptions:
    """The engine that is asked for.

    engine, precision: "auto" takes the fastest that agreed with PyTorch, see `select.open_engine`.
    device: "auto" takes CUDA if it works, "cuda" takes nothing else. threads: threads of the engine
    on a CPU; 0 takes all cores. probability: whether the engine must give it. rebuild: whether an
    engine that is asked for by name and does not fit may be built again.
    """

    device: Device = "auto"
    precision: Precision = "auto"
    threads: int = 0
    engine: EngineName = "auto"
    probability: bool = False
    rebuild: bool = False


class EngineError(Exception):
    """One batch could not be computed; the engine may still work for other batches.

    reason: a short stable code for machines.
    """

    reason: ClassVar[str] = "engine"


class OutOfMemoryError(EngineError):
    """There was no memory for the batch; there may be for a smaller one."""


class EngineFailedError(EngineError):
    """The engine raised what engines do not raise for a batch that they cannot compute."""

    reason = "engine_failed"


class EngineLostError(EngineFailedError):
    """The engine's process ended during the batch; another one takes its place."""


class EngineGoneError(AllFailedError):
    """The engine's process cannot be started (again): no scan is at fault, and none can follow."""


class EngineHungError(EngineLostError):
    """The engine's process did not answer in time, and was ended."""

    reason = "engine_hung"


class UnusableError(Exception):
    """This engine cannot run on this machine, for the reason in the text. Another one may."""


ERRORS: dict[str, type[EngineError]] = {
    "memory": OutOfMemoryError,
    "failed": EngineFailedError,
    "engine": EngineError,
}
"""Errors by which a process tells another one of them; the first that holds is meant."""


@dataclass(frozen=True)
class Prediction:
    """The outputs of the exported graph for n slices and k classes.

    masks: (n, k, H, W), 0 or 1, one map per class at the slice's own grid; classes may overlap.
    pixel_areas: (n, k) pixels of each mask. soft_areas: (n, k) sum of the probabilities over the
    slice, in pixels. area_variances: (n, k) sum of probability * (1 - probability) over the
    slice, in pixels; None for a file of an early version.
    """

    masks: NDArray[np.uint8]
    pixel_areas: NDArray[np.int64]
    soft_areas: NDArray[np.float32]
    area_variances: NDArray[np.float32] | None = None


class EngineFacts(Protocol):
    """What is known of an engine.

    name: runtime and device that really compute, such as "onnxruntime-cpu". file: the engine file
    in the model folder. gives_probability: whether `with_probability` can be called.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def precision(self) -> str: ...  # noqa: D102

    @property
    def file(self) -> str: ...  # noqa: D102

    @property
    def gives_probability(self) -> bool: ...  # noqa: D102


class Engine(EngineFacts, Protocol):
    """Turns slices (n, c, H, W) in physical units into a Prediction, or raises EngineError."""

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction: ...  # noqa: D102

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """The Prediction, and the probability (n, k, H, W), 0..1, that was thresholded for it."""


@runtime_checkable
class Concurrent(Protocol):
    """An engine that takes `in_flight` calls at once, from as many threads.

    The pipeline then keeps as many batches in flight. None of the engines here declares it; one
    that copies one batch to a GPU while it computes another could.
    """

    @property
    def in_flight(self) -> int: ...  # noqa: D102


def first_line(error: BaseException) -> str:
    """The first line of a runtime's error; the rest is a trace of its own source."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# As ONNX Runtime (CPU, CUDA), OpenVINO, TensorRT and PyTorch put it, in lower case.
_NO_MEMORY = (
    "out of memory",
    "outofmemory",
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "cannot allocate memory",
    "can not allocate",
    "memory allocation",
    "alloc_failed",
)


def engine_error(error: BaseException) -> EngineError:
    """What a runtime raised for a batch, as an EngineError with the first line of its words."""
    return _known(error) or EngineError(first_line(error))


def unexpected_error(error: BaseException) -> EngineError:
    """What an engine raised that should raise an EngineError, as one that names its kind."""
    named = f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__
    return _known(error) or EngineFailedError(named)


def _known(error: BaseException) -> EngineError | None:
    """The error itself if it is an EngineError, or what it says if that is want of memory."""
    if isinstance(error, EngineError):
        return error
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        return OutOfMemoryError(first_line(error) if text else "out of memory")
    return None
