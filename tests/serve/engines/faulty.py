"""An engine that thresholds, and fails in many ways at slices whose first pixel says so.

A process of its own opens it, so this imports little.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wsseg.imaging.errors import WssegError
from wsseg.serve.engines.base import EngineOptions, Prediction
from wsseg.serve.manifest import Manifest

ABORT, HANG, RAISE, NO_MEMORY, NO_NUMBER, LOOP = -1.0, -2.0, -3.0, -4.0, -5.0, -6.0
LEVELS = np.array([128.0, 200.0], np.float32).reshape(1, 2, 1, 1)
FOR_EVER = 600.0
FOLDER_OF_STARTS = "WSSEG_TEST_STARTS"
"""Environment variable: a folder in which each opening leaves a file."""


@dataclass
class FaultyEngine:
    """Computes masks above LEVELS, unless a slice tells it to fail."""

    name: str = "faulty-gpu"
    precision: str = "fp16"
    file: str = "model.onnx"
    gives_probability: bool = True
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, pixels: np.ndarray, /) -> Prediction:
        return self.with_probability(pixels)[0]

    def with_probability(self, pixels: np.ndarray, /) -> tuple[Prediction, np.ndarray]:
        self.shapes.append(pixels.shape)
        told = set(pixels[:, 0, 0, 0].tolist())
        if ABORT in told:
            os.abort()
        if HANG in told:
            time.sleep(FOR_EVER)
        while LOOP in told:  # holds the interpreter, as a runtime does
            pass
        if RAISE in told:
            raise ZeroDivisionError("division by zero")
        if NO_MEMORY in told:
            raise MemoryError
        probability = (pixels >= LEVELS).astype(np.float32)
        probability[pixels[:, 0, 0, 0] == NO_NUMBER] = np.nan
        masks = (pixels >= LEVELS).astype(np.uint8)
        areas = masks.sum((2, 3), dtype=np.int64)
        return Prediction(masks, areas, probability.sum((2, 3))), probability


def opened(_folder: Path, _manifest: Manifest, _options: EngineOptions) -> FaultyEngine:
    """An engine that notes that it was opened."""
    starts = os.environ.get(FOLDER_OF_STARTS)
    if starts:
        Path(starts, f"{time.monotonic_ns()}").touch()
    return FaultyEngine()


def dies_when_opened(*_: object) -> FaultyEngine:
    os.abort()


def refuses(*_: object) -> FaultyEngine:
    raise WssegError("this model has no engine: export one")


def opens_once(*_: object) -> FaultyEngine:
    """The first opening of a folder of starts succeeds, later ones die."""
    starts = Path(os.environ[FOLDER_OF_STARTS])
    if list(starts.iterdir()):
        os.abort()
    (starts / "first").touch()
    return FaultyEngine()


def another_the_second_time(*_: object) -> FaultyEngine:
    starts = Path(os.environ[FOLDER_OF_STARTS])
    is_first = not list(starts.iterdir())
    (starts / f"{time.monotonic_ns()}").touch()
    return FaultyEngine(name="faulty-gpu" if is_first else "faulty-cpu")
