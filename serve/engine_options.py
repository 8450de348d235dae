"""Which engine a run asks for."""

from dataclasses import dataclass
from typing import Literal

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
