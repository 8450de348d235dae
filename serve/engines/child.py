"""An engine in a process of its own, which may hang or crash and is then started again."""

import logging
import os
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import WssegError
from wsseg.serve.engines.base import (
    ERRORS,
    Engine,
    EngineError,
    EngineFailedError,
    EngineGoneError,
    EngineHungError,
    EngineLostError,
    EngineOptions,
    OutOfMemoryError,
    Prediction,
)
from wsseg.serve.engines.process import EndedError, EngineProcess, SilentError, take
from wsseg.serve.engines.select import fallback_entry, open_engine
from wsseg.serve.manifest import Manifest

ENGINE_SECONDS = 300.0
"""Default of the time that a batch may take at least."""
SLOWER = 20
"""A batch may take so many times as long as the slowest before it, by its pixels and its slices."""
OPENING_SECONDS = 3600.0
"""Time for opening, in which TensorRT may build an engine."""
STARTS = 2
"""Attempts to start an engine again."""
TRIAL_SIDE = 32
OPENER = "wsseg.serve.engines.select:open_engine"

logger = logging.getLogger(__name__)


@dataclass
class ChildEngine:
    """An engine, see `base.Engine`, that computes in a process of its own.

    seconds: a batch that takes longer counts as hung, unless those before were so slow that it may
    take longer. opener: what opens the engine, as module:function with the arguments of
    `open_engine`.

    A process that ended, or was ended because it hung, is started again for the next batch. It then
    has to compute a blank slice first, with the same engine as before.
    """

    folder: Path
    manifest: Manifest
    options: EngineOptions
    seconds: float = ENGINE_SECONDS
    opener: str = OPENER
    name: str = field(init=False)
    precision: str = field(init=False)
    file: str = field(init=False)
    gives_probability: bool = field(init=False)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._slowest = {"pixel": 0.0, "slice": 0.0}
        self._process: EngineProcess | None = None
        try:
            process, told = self._opened()
        except (EndedError, SilentError) as error:
            raise EngineGoneError(f"the engine does not start: {_words(error)}") from error
        self._process = process
        self.name, self.precision, self.file = told["name"], told["precision"], told["file"]
        self.gives_probability = told["gives_probability"]

    def __call__(self, pixels: NDArray[np.float32], /) -> Prediction:
        """Masks and areas of slices (n, c, H, W).

        Raises EngineError for a batch that cannot be computed, EngineLostError among them if the
        process ended, and EngineGoneError if it cannot be started again.
        """
        with self._lock:
            return Prediction(*self._computed(pixels, probability=False))

    def with_probability(
        self, pixels: NDArray[np.float32], /
    ) -> tuple[Prediction, NDArray[np.float32]]:
        """The same, and the probability (n, k, H, W); only if `gives_probability`."""
        with self._lock:
            *answers, probability = self._computed(pixels, probability=True)
        return Prediction(*answers), probability

    @property
    def pid(self) -> int:
        """The number of its process; 0 while it has none."""
        return self._process.pid if self._process else 0

    def close(self) -> None:
        """End the process now, not with the last reference; the next batch would start it again."""
        with self._lock:
            if self._process:
                self._process.stop()
            self._process = None

    def _opened(self) -> tuple[EngineProcess, dict[str, Any]]:
        """A new process and its engine."""
        process = take()
        request = {
            "opener": self.opener,
            "folder": str(self.folder.absolute()),
            "manifest": self.manifest.model_dump_json(),
            "options": asdict(self.options),
            "level": logging.getLogger("wsseg").getEffectiveLevel(),
        }
        try:
            answer = process.ask(request, OPENING_SECONDS)
        except BaseException:
            process.stop()
            raise
        if "error" in answer:
            process.stop()
            if answer["error"] == "user":
                raise WssegError(answer["message"])
            raise RuntimeError(answer["message"])  # a bug, with its traceback
        return process, answer["engine"]

    def _computed(self, pixels: NDArray[np.float32], *, probability: bool) -> list[Any]:
        if self._process and self._process.ended:  # since the batch before
            self._process.stop()
            self._process = None
        process = self._process = self._process or self._restarted()
        limit = self._limit(pixels)
        began = time.monotonic()
        try:
            found = _compute(process, pixels, limit, probability=probability)
        except EngineError:
            raise
        except BaseException as error:
            was_killed = isinstance(error, EndedError) and process.killed
            process.stop()
            self._process = None
            if was_killed:
                raise OutOfMemoryError(
                    "the engine's process was killed, as a system does that has no memory left"
                ) from error
            if isinstance(error, EndedError):
                raise EngineLostError(f"the engine's process {error}") from error
            if isinstance(error, SilentError):
                raise EngineHungError(f"the engine did not answer within {limit:.0f} s") from error
            raise
        self._learn(pixels, time.monotonic() - began)
        return found

    def _restarted(self) -> EngineProcess:
        """A new process that has computed a blank slice, with the same engine as before."""
        why = ""
        for _ in range(STARTS):
            logger.warning("the engine is started again", extra={"event": "engine_restarted"})
            try:
                process, told = self._opened()
            except (EndedError, SilentError) as error:
                why = _words(error)
                continue
            except WssegError as error:
                why = str(error)
                continue
            found = (told["name"], told["precision"], told["file"])
            if found != (self.name, self.precision, self.file):
                process.stop()
                why = f"only {found[0]} in {found[1]} starts"
                continue
            try:
                blank = np.zeros((1, self.manifest.channels, TRIAL_SIDE, TRIAL_SIDE), np.float32)
                _compute(process, blank, self._limit(blank), probability=False)
            except EngineFailedError as error:
                process.stop()
                why = str(error)
            except EngineError:  # such as a TensorRT engine that takes larger slices only
                return process
            except (EndedError, SilentError) as error:
                process.stop()
                why = f"at a blank slice, {_words(error)}"
            else:
                return process
        raise EngineGoneError(
            f"the engine {self.name} in {self.precision} failed and does not start again: {why}; "
            "see --verbose, or choose another --engine or --precision"
        )

    def _limit(self, pixels: NDArray[np.float32]) -> float:
        """Seconds after which a batch counts as hung."""
        longest = max(self._slowest["pixel"] * pixels.size, self._slowest["slice"] * len(pixels))
        return max(self.seconds, SLOWER * longest)

    def _learn(self, pixels: NDArray[np.float32], spent: float) -> None:
        self._slowest["pixel"] = max(self._slowest["pixel"], spent / pixels.size)
        self._slowest["slice"] = max(self._slowest["slice"], spent / len(pixels))


def _compute(
    process: EngineProcess, pixels: NDArray[np.float32], seconds: float, *, probability: bool
) -> list[Any]:
    """What the engine computes of a batch, as arrays of this process."""
    (place,) = process.arrays.put([pixels])
    answer = process.ask({"pixels": place, "probability": probability}, seconds)
    if "error" in answer:
        raise ERRORS[answer["error"]](answer["message"])
    # Copied, because the next batch is put in the same memory.
    return [np.array(process.arrays.get(tuple(each))) for each in answer["arrays"]]


def _words(error: Exception) -> str:
    if isinstance(error, SilentError):
        return "its process does not answer"
    return f"its process {error}"


@dataclass(frozen=True)
class Isolation:
    """Whether engines get a process of their own, and for how many seconds one may be silent.

    Windows hands no open file over to another process: engines run in wsseg's own there.
    """

    isolate: bool = True
    seconds: float = ENGINE_SECONDS

    def open(self, folder: Path, manifest: Manifest, options: EngineOptions) -> Engine:
        """Open the engine as `open_engine` does."""
        if self.isolate and os.name == "posix":
            return ChildEngine(folder, manifest, options, self.seconds)
        return open_engine(folder, manifest, options)


@dataclass
class Fallback:
    """Opens the engine that computes slices again for which `used` has no answer; once, if ever."""

    folder: Path
    manifest: Manifest
    options: EngineOptions
    used: Engine
    isolation: Isolation
    _opened: list[Engine | None] = field(default_factory=list, init=False)

    def __call__(self, why: str) -> Engine | None:
        """The engine; None if there is no other one. why: for the log."""
        if not self._opened:
            self._opened.append(self._open(why))
        return self._opened[0]

    def _open(self, why: str) -> Engine | None:
        entry = fallback_entry(self.manifest, self.used)
        if entry is None:
            return None
        logger.warning(
            "%s in %s could not compute a slice (%s): such slices are computed again in fp32 on "
            "the CPU, and flagged",
            self.used.name,
            self.used.precision,
            why,
            extra={"event": "recomputed_fp32"},
        )
        asked = replace(
            self.options, device="cpu", engine="onnxruntime", precision="fp32", rebuild=False
        )
        only = self.manifest.model_copy(update={"engines": (entry,)})
        try:
            return self.isolation.open(self.folder, only, asked)
        except WssegError as error:
            logger.warning("the fp32 engine does not open: %s", error)
            return None
