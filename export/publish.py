"""A finished run becomes a model folder: engines that passed the gate, and model.json."""

import logging
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from wsseg.export.engine_onnx import make_onnx_engine, planned_engine
from wsseg.export.engine_openvino import judge_openvino, planned_openvino
from wsseg.export.engine_tensorrt import (
    DEFAULT_PROFILE,
    TensorRTJob,
    check_profile,
    make_tensorrt_engine,
)
from wsseg.export.graph import Precision
from wsseg.export.parity import EngineRejectedError, Standard, make_standard
from wsseg.export.relative_time import with_times
from wsseg.export.tensorrt_toolkit import (
    EngineBuildError,
    TensorRTMissingError,
    Toolkit,
    find_toolkit,
)
from wsseg.imaging.atomic import atomic_folder
from wsseg.imaging.definitions import Frozen, RatioDefinition
from wsseg.imaging.errors import AllFailedError, WssegError
from wsseg.serve.manifest import FILE_NAME, EngineFile, Fraction, Manifest, Profile, Training
from wsseg.train.checkpoint import load_run
from wsseg.train.predictor import Predictor
from wsseg.train.record import RunRecord

logger = logging.getLogger(__name__)


class ExportOptions(Frozen):
    """What to make of a run.

    name: of the model, else the output folder's. precisions: of the ONNX files. trt: build
    TensorRT engines too; gpu_arch: for these architectures, such as "sm_89" (empty: this machine's
    GPU if `tensorrt` is installed, else the usual ones of TensorRT-RTX); profile: input shapes they
    take. ratios: in place of the run's, empty keeps them. thresholds: one a class, else
    the run's.
    """

    name: str = ""
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)] = ("fp32", "fp16")
    trt: bool = False
    gpu_arch: tuple[str, ...] = ()
    profile: Profile = DEFAULT_PROFILE
    ratios: tuple[RatioDefinition, ...] = ()
    thresholds: tuple[Fraction, ...] = ()


@dataclass(frozen=True)
class _TensorRT:
    """The toolkit to build with, or why there is none; neither where none was asked for."""

    toolkit: Toolkit | None = None
    missing: TensorRTMissingError | None = None


def export_run(run: Path, out: Path, options: ExportOptions) -> Manifest:
    """Publish a run as the model folder `out`, which appears whole or stays as it was.

    Raises AllFailedError where no engine may be published, and WssegError for a request that
    cannot be met; nothing is written then. TensorRTMissingError and EngineBuildError come after
    the folder was published with the engines that could be made.
    """
    _check_target(out)
    trained = load_run(run)
    if not trained.samples:
        raise WssegError(f"{run} keeps no sample slices to prove an engine on: train again")
    plan = _plan(trained.record, out, options)
    tensorrt = _find_tensorrt(options)
    standard = make_standard(
        trained.predictor, trained.samples, plan.thresholds, plan.classes, plan.ratios
    )
    with atomic_folder(out) as folder:
        files = _onnx_engines(plan, trained.predictor, standard, folder)
        engines = files + _openvino_engines(plan, files, standard, folder)
        on_cpu = plan.model_copy(update={"engines": engines})
        engines = with_times(on_cpu, trained.samples[0], folder)
        problem: WssegError | None = tensorrt.missing
        if tensorrt.toolkit:
            job = TensorRTJob(tensorrt.toolkit, options.profile, standard, folder)
            built, problem = _tensorrt_engines(job, files[-1])
            engines += built
        manifest = plan.model_copy(update={"engines": engines})
        (folder / FILE_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if problem:
        raise problem
    return manifest


def _check_target(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / FILE_NAME).is_file():
        raise WssegError(
            f"{out} is no model folder (it holds files but no {FILE_NAME}) and would be replaced: "
            "choose another place"
        )
    if out.exists() and not out.is_dir():
        raise WssegError(f"{out} is a file, a model is a folder: choose another place")


def _plan(record: RunRecord, out: Path, options: ExportOptions) -> Manifest:
    """The manifest with the ONNX engines that are to be made."""
    classes = record.classes
    try:
        return Manifest(
            name=options.name or out.resolve().name,
            classes=classes,
            ratios=options.ratios or record.ratios,
            channels=record.channels,
            window=record.window,
            network_size=record.size,
            thresholds=options.thresholds or record.thresholds,
            training=_training(record),
            engines=tuple(planned_engine(p) for p in dict.fromkeys(options.precisions)),
            wsseg_version=version("wsseg"),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    except ValidationError as error:
        reasons = "; ".join(problem["msg"] for problem in error.errors())
        raise WssegError(f"this model cannot be exported: {reasons}") from error


def _training(record: RunRecord) -> Training:
    return Training(
        preset=record.preset,
        network=record.network,
        weights=record.initial_weights,
        cases=record.cases,
        cases_sha256=record.cases_sha256,
        epochs=record.epochs,
        seed=record.seed,
        # JSON has no NaN: a figure that the validation split could not give is left out.
        metrics={name: value for name, value in record.metrics.items() if math.isfinite(value)},
    )


def _find_tensorrt(options: ExportOptions) -> _TensorRT:
    if not options.trt:
        return _TensorRT()
    check_profile(options.profile)
    try:
        return _TensorRT(toolkit=find_toolkit(options.gpu_arch))
    except TensorRTMissingError as error:
        return _TensorRT(missing=error)


def _onnx_engines(
    plan: Manifest, predictor: Predictor, standard: Standard, folder: Path
) -> tuple[EngineFile, ...]:
    """The ONNX engines that agree with PyTorch, fp32 first; fp32 must, fp16 may be left out."""
    engines: list[EngineFile] = []
    for entry in sorted(plan.engines, key=lambda entry: entry.precision, reverse=True):
        try:
            engines.append(make_onnx_engine(plan, entry, predictor, standard, folder))
        except EngineRejectedError as error:
            if entry.precision == "fp32":
                raise AllFailedError(f"nothing was exported: {error}") from error
            logger.warning("%s is left out: %s", entry.file, error)
    if not engines:
        raise AllFailedError("nothing was exported: fp16 does not agree with PyTorch, ask for fp32")
    return tuple(engines)


def _openvino_engines(
    plan: Manifest, files: tuple[EngineFile, ...], standard: Standard, folder: Path
) -> tuple[EngineFile, ...]:
    """OpenVINO's engines over the ONNX files, those that agree with PyTorch."""
    engines: list[EngineFile] = []
    for entry in planned_openvino(files):
        try:
            engines.append(judge_openvino(entry, plan, standard, folder))
        except EngineRejectedError as error:
            logger.warning("%s in OpenVINO is left out: %s", entry.file, error)
    return tuple(engines)


def _tensorrt_engines(
    job: TensorRTJob, source: EngineFile
) -> tuple[tuple[EngineFile, ...], WssegError | None]:
    """The TensorRT engines that could be built, and what the first other one failed of."""
    engines: list[EngineFile] = []
    problem: WssegError | None = None
    for architecture in job.toolkit.architectures:
        try:
            engines.append(make_tensorrt_engine(job, architecture, source))
        except (EngineBuildError, EngineRejectedError) as error:
            logger.warning("the TensorRT engine for %s is left out: %s", architecture, error)
            problem = problem or error
    return tuple(engines), problem
