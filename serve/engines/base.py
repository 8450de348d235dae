"""What runs a network: anything that turns slices into masks and areas."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsseg.serve.manifest import PrecisionName

# Which engine a run asks for.

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
    """What computes, where, and how precisely.

    engine, precision: "auto" takes the fastest that agreed with PyTorch, see `choose.open_engine`.
    device "auto" takes CUDA where it really works; "cuda" takes nothing else. threads: of the
    engine on a CPU; 0 takes all cores. probability: the engine must give it. rebuild: one that was
    asked for by name and does not fit may be built anew.
    """

    device: Device = "auto"
    precision: Precision = "auto"
    threads: int = 0
    engine: EngineName = "auto"
    probability: bool = False
    rebuild: bool = False


class EngineError(Exception):
    """One batch could not be computed; the engine may still work for other batches."""


class UnusableError(Exception):
    """This engine cannot run on this machine; the text says why. Another may."""


@dataclass(frozen=True)
class Prediction:
    """What the exported graph answers for n slices and k classes.

    masks: (n, k, H, W), 0 or 1, one map a class at the slice's own grid; classes may overlap.
    pixel_areas: (n, k), pixels of each mask. soft_areas: (n, k), sum of the probabilities over the
    slice, in pixels.
    """

    masks: NDArray[np.uint8]
    pixel_areas: NDArray[np.int64]
    soft_areas: NDArray[np.float32]


class Engine(Protocol):
    """Turns slices (n, c, H, W) in physical units into a Prediction, or raises EngineError.

    name: runtime and device that really run, such as "onnxruntime-cpu". file: the engine file in
    the model folder. gives_probability: whether `with_probability` can be called.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def precision(self) -> str: ...  # noqa: D102

    @property
    def file(self) -> str: ...  # noqa: D102

    @property
    def gives_probability(self) -> bool: ...  # noqa: D102

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction: ...  # noqa: D102

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """The same Prediction, and the probability (n, k, H, W), 0..1, that it was cut from."""


@runtime_checkable
class Concurrent(Protocol):
    """An engine that takes several calls at once, from as many threads: the pipeline then keeps
    as many batches in flight. None of the engines here declares it yet; one that copies one batch
    to a GPU while it computes another could."""

    @property
    def in_flight(self) -> int: ...  # noqa: D102


def calls_at_once(engine: Engine) -> int:
    """How many calls an engine takes at once; 1 for one that does not say."""
    return max(1, engine.in_flight) if isinstance(engine, Concurrent) else 1
