"""TensorRT engines from the published ONNX file, for GPUs that need not be here."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from wsseg.export.difference import Standard
from wsseg.export.parity import Candidate, EngineRejectedError, judge, within
from wsseg.export.tensorrt_toolkit import Toolkit
from wsseg.imaging.errors import WssegError
from wsseg.serve.cuda_driver import this_architecture
from wsseg.serve.engine import UnusableError
from wsseg.serve.manifest import EngineFile, Manifest, Parity, Profile
from wsseg.serve.tensorrt_build import EngineBuildError, build_engine
from wsseg.serve.tensorrt_engine import open_tensorrt

DEFAULT_PROFILE = Profile(minimum=(1, 64, 64), optimum=(8, 512, 512), maximum=(32, 1024, 1024))
SHORT_NAMES = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRTJob:
    """What all TensorRT engines of one export share. folder: where the ONNX files already lie."""

    plan: Manifest
    toolkit: Toolkit
    profile: Profile
    standard: Standard
    folder: Path


def make_tensorrt_engine(job: TensorRTJob, architecture: str, source: EngineFile) -> EngineFile:
    """Build, judge where this machine's GPU allows it, and write one engine beside its ONNX file.

    source: the ONNX file to build from; the engine has its precision, and not its probability.
    Raises EngineBuildError, and EngineRejectedError where the engine ran and disagreed with
    PyTorch.
    """
    model = (job.folder / source.file).read_bytes()
    plan = build_engine(job.toolkit.module, model, architecture, job.profile)
    file = job.folder / f"model.{SHORT_NAMES[job.toolkit.runtime]}.{architecture}.engine"
    file.write_bytes(plan)
    logger.info("%s: %.1f MB, %s", file.name, len(plan) / 1e6, job.toolkit.builder)
    entry = EngineFile(
        file=file.name,
        runtime=job.toolkit.runtime,
        precision=source.precision,
        sha256=hashlib.sha256(plan).hexdigest(),
        gpu=architecture,
        builder=job.toolkit.builder,
        profile=job.profile,
    )
    if architecture != this_architecture():
        return entry
    try:
        return entry.model_copy(update={"parity": _judged(job, entry)})
    except (EngineBuildError, EngineRejectedError):
        file.unlink()
        raise


def check_profile(profile: Profile) -> None:
    """Raises WssegError for shapes that no engine can be built for."""
    ordered = zip(profile.minimum, profile.optimum, profile.maximum, strict=True)
    if not all(1 <= low <= best <= high for low, best, high in ordered):
        raise WssegError(
            f"TensorRT profile {profile.minimum} / {profile.optimum} / {profile.maximum}: give "
            "(batch, height, width) at least 1 and ascending from least to best to most"
        )


def _judged(job: TensorRTJob, entry: EngineFile) -> Parity | None:
    """Figures of an engine that agrees, as serving runs it; None where no sample slice fits."""
    standard = within(job.standard, job.profile)
    if not standard.references:
        logger.warning("no sample slice fits the profile: the TensorRT engine was not compared")
        return None
    try:
        engine = open_tensorrt(job.folder, job.plan, entry, 0)
    except UnusableError as error:
        raise EngineBuildError(str(error)) from error
    return judge(Candidate(engine, engine.name, entry.precision), standard)
