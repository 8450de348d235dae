"""TensorRT engines built from the published ONNX file, also for GPUs that this machine lacks."""

import hashlib
import logging
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from wsseg.export.engines import Job
from wsseg.export.parity import Candidate, EngineRejectedError, judge, within
from wsseg.imaging.errors import WssegError
from wsseg.serve.engines.base import UnusableError
from wsseg.serve.engines.hardware import this_architecture
from wsseg.serve.engines.tensorrt import (
    EngineBuildError,
    build_engine,
    known_architectures,
    library,
    open_tensorrt,
)
from wsseg.serve.manifest import EngineFile, Parity, Profile

# Architectures of the GPUs clinics buy: RTX 30 and A-series, RTX 40 and L-series, RTX 50.
DEFAULT_ARCHITECTURES = ("sm_86", "sm_89", "sm_120")

DEFAULT_PROFILE = Profile(minimum=(1, 64, 64), optimum=(8, 512, 512), maximum=(32, 1024, 1024))
SHORT_NAMES = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}

logger = logging.getLogger(__name__)


class TensorRTMissingError(WssegError):
    """No TensorRT is installed; everything else of the export is done without it."""


@dataclass(frozen=True)
class Toolkit:
    """An installed TensorRT that can build, and the architectures to build for."""

    module: Any
    runtime: Literal["tensorrt", "tensorrt_rtx"]
    architectures: tuple[str, ...]

    @property
    def builder(self) -> str:
        """Name and version, for the manifest."""
        return library(self.module)


def find_toolkit(architectures: tuple[str, ...] = ()) -> Toolkit:
    """Return the TensorRT to build with.

    architectures: such as "sm_89"; empty for the default ones. `tensorrt` builds only on and for
    the GPU of this machine, so it is used where that GPU is the one asked for; `tensorrt_rtx`
    builds for a fixed list of architectures without any GPU. Raises TensorRTMissingError where
    neither is installed, WssegError for an unknown architecture.
    """
    here = this_architecture()
    if here and architectures in ((), (here,)):
        module = _installed("tensorrt")
        if module:
            return Toolkit(module, "tensorrt", (here,))
    module = _installed("tensorrt_rtx")
    if module is None:
        raise TensorRTMissingError(
            "TensorRT is not installed, so no engine was built: pip install 'wsseg[trt-rtx]'"
        )
    wanted = architectures or DEFAULT_ARCHITECTURES
    known = known_architectures(module)
    for architecture in wanted:
        if architecture not in known:
            raise WssegError(
                f"TensorRT-RTX {module.__version__} does not build for {architecture!r}: choose "
                f"from {', '.join(known)}, or install tensorrt on a machine with that GPU"
            )
    return Toolkit(module, "tensorrt_rtx", wanted)


def _installed(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # present but broken: its own cause is what helps
        return None


def tensorrt_engines(
    job: Job, source: EngineFile, *, toolkit: Toolkit, profile: Profile
) -> tuple[tuple[EngineFile, ...], WssegError | None]:
    """Return the TensorRT engines that could be built, and the first error otherwise."""
    engines: list[EngineFile] = []
    problem: WssegError | None = None
    for architecture in toolkit.architectures:
        try:
            engines.append(
                make_tensorrt_engine(
                    job, source, toolkit=toolkit, profile=profile, architecture=architecture
                )
            )
        except (EngineBuildError, EngineRejectedError) as error:
            logger.warning("the TensorRT engine for %s is not published: %s", architecture, error)
            problem = problem or error
    return tuple(engines), problem


def make_tensorrt_engine(
    job: Job, source: EngineFile, *, toolkit: Toolkit, profile: Profile, architecture: str
) -> EngineFile:
    """Build one engine beside its ONNX file; compare it where this machine has the right GPU.

    source: the ONNX file to build from; the engine has its precision, but no probability output.
    Raises EngineBuildError, and EngineRejectedError where the engine ran and disagreed with
    PyTorch.
    """
    model = (job.folder / source.file).read_bytes()
    plan = build_engine(toolkit.module, model, architecture, profile)
    file = job.folder / f"model.{SHORT_NAMES[toolkit.runtime]}.{architecture}.engine"
    file.write_bytes(plan)
    logger.info("%s: %.1f MB, %s", file.name, len(plan) / 1e6, toolkit.builder)
    entry = EngineFile(
        file=file.name,
        runtime=toolkit.runtime,
        precision=source.precision,
        sha256=hashlib.sha256(plan).hexdigest(),
        gpu=architecture,
        builder=toolkit.builder,
        profile=profile,
    )
    if architecture != this_architecture():
        return entry
    try:
        return entry.model_copy(update={"parity": _judged(job, profile, entry)})
    except (EngineBuildError, EngineRejectedError):
        file.unlink()
        raise


def check_profile(profile: Profile) -> None:
    """Raise WssegError for shapes that no engine can be built for."""
    ordered = zip(profile.minimum, profile.optimum, profile.maximum, strict=True)
    if not all(1 <= low <= best <= high for low, best, high in ordered):
        raise WssegError(
            f"TensorRT profile {profile.minimum} / {profile.optimum} / {profile.maximum}: give "
            "(batch, height, width) at least 1 and ascending from least to best to most"
        )


def _judged(job: Job, profile: Profile, entry: EngineFile) -> Parity | None:
    """Return the figures of an engine that agrees; None where no sample slice fits the profile."""
    standard = within(job.standard, profile)
    if not standard.references:
        logger.warning("no sample slice fits the profile: the TensorRT engine was not compared")
        return None
    try:
        engine = open_tensorrt(job.folder, job.plan, entry, 0)
    except UnusableError as error:
        raise EngineBuildError(str(error)) from error
    return judge(Candidate(engine, engine.name, entry.precision), standard)
