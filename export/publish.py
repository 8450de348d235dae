"""A finished run becomes a model folder: engines that passed the gate, and model.json."""

import logging
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from wsseg.export.engine_int8 import Calibration
from wsseg.export.engine_onnx import planned_engine
from wsseg.export.engine_tensorrt import TensorRTJob, check_profile
from wsseg.export.engines import (
    Job,
    onnx_engines,
    openvino_engines,
    tensorrt_engines,
    torch_engines,
)
from wsseg.export.options import ExportOptions
from wsseg.export.parity import make_standard
from wsseg.export.quantize.images import calibration_slices
from wsseg.export.relative_time import with_times
from wsseg.export.stride import coarsened
from wsseg.export.tensorrt_toolkit import TensorRTMissingError, Toolkit, find_toolkit
from wsseg.imaging.atomic import atomic_folder
from wsseg.imaging.definitions import fault_text
from wsseg.imaging.errors import WssegError
from wsseg.imaging.locks import held
from wsseg.serve.manifest import FILE_NAME, EngineFile, Manifest, Teacher, Training
from wsseg.train.checkpoint import TrainedRun, load_run
from wsseg.train.predictor import Predictor
from wsseg.train.record import RunRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _TensorRT:
    """The toolkit to build with, or why there is none; neither where none was asked for."""

    toolkit: Toolkit | None = None
    missing: TensorRTMissingError | None = None


def export_run(run: Path, out: Path, options: ExportOptions) -> Manifest:
    """Publish a run as the model folder `out`, which appears whole or stays as it was.

    Raises AllFailedError where no engine may be published, and WssegError for a request that
    cannot be met, a folder that holds a model and is not to be overwritten among them; nothing is
    written then. TensorRTMissingError and EngineBuildError come after
    the folder was published with the engines that could be made; so does EngineRejectedError for
    an int8 engine that disagrees with PyTorch.
    """
    with held(out, f"another export is writing {out}: wait for it, or choose another --out"):
        return _export(run, out, options)


def _export(run: Path, out: Path, options: ExportOptions) -> Manifest:
    _check_target(out, options)
    trained = load_run(run)
    if not trained.samples:
        raise WssegError(f"{run} keeps no sample slices to prove an engine on: train again")
    if trained.record.dependence and trained.record.dependence.warning:
        log.warning("%s", trained.record.dependence.warning)
    predictor, plan = _network(trained, _plan(trained.record, out, options), options)
    tensorrt = _find_tensorrt(options)
    calibration = _calibration(trained, options)
    standard = make_standard(predictor, trained.samples, plan.thresholds, plan.classes, plan.ratios)
    with atomic_folder(out) as folder:
        job = Job(plan, predictor, standard, calibration, folder)
        engines, problem = _engines(job, trained, options, tensorrt)
        manifest = plan.model_copy(update={"engines": engines})
        (folder / FILE_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if problem:
        raise problem
    return manifest


def _engines(
    job: Job, trained: TrainedRun, options: ExportOptions, tensorrt: _TensorRT
) -> tuple[tuple[EngineFile, ...], WssegError | None]:
    """All engines that could be made, and the first reason why one that was asked for is missing.

    Raises AllFailedError where there is none.
    """
    files, rejected = onnx_engines(job)
    on_cpu = job.plan.model_copy(update={"engines": files + openvino_engines(job, files)})
    engines = with_times(on_cpu, trained.samples[0], job.folder)
    if options.torch:
        engines += torch_engines(job)
    problem = tensorrt.missing or rejected
    if tensorrt.toolkit:
        built, failed = tensorrt_engines(
            TensorRTJob(job.plan, tensorrt.toolkit, options.profile, job.standard, job.folder),
            [file for file in files if file.precision != "int8"][-1],
        )
        engines, problem = engines + built, problem or failed
    return engines, problem


def _check_target(out: Path, options: ExportOptions) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / FILE_NAME).is_file():
        raise WssegError(
            f"{out} is no model folder (it holds files but no {FILE_NAME}) and would be replaced: "
            "choose another place"
        )
    if out.exists() and not out.is_dir():
        raise WssegError(f"{out} is a file, a model is a folder: choose another place")
    if (out / FILE_NAME).exists() and not options.overwrite:
        raise WssegError(
            f"{out} holds a model already: give --overwrite to replace it, or another --out"
        )


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
        reasons = "; ".join(fault_text(problem) for problem in error.errors())
        raise WssegError(f"this model cannot be exported: {reasons}") from error


def _network(
    trained: TrainedRun, plan: Manifest, options: ExportOptions
) -> tuple[Predictor, Manifest]:
    """What is exported, which the engines are then held against, and what it costs if changed."""
    if options.output_stride is None:
        return trained.predictor, plan
    predictor, cost = coarsened(trained.predictor, trained.samples, plan)
    return predictor, plan.model_copy(update={"output_stride": cost})


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
        teacher=_teacher(record),
        seen=record.seen,
        dependence=record.dependence,
    )


def _teacher(record: RunRecord) -> Teacher | None:
    taught_by = record.teacher
    if taught_by is None:
        return None
    return Teacher(
        run=taught_by.run,
        network=taught_by.network,
        weights_sha256=taught_by.weights_sha256,
    )


def _find_tensorrt(options: ExportOptions) -> _TensorRT:
    if not options.trt:
        return _TensorRT()
    if options.precisions == ("int8",):
        raise WssegError("TensorRT engines are built from fp32 or fp16: ask for one of them too")
    check_profile(options.profile)
    try:
        return _TensorRT(toolkit=find_toolkit(options.gpu_arch))
    except TensorRTMissingError as error:
        return _TensorRT(missing=error)


def _calibration(trained: TrainedRun, options: ExportOptions) -> Calibration | None:
    if "int8" not in options.precisions:
        return None
    if options.calibration is None:
        raise WssegError(
            "int8 needs images to set its ranges by, besides the slices it is judged on: give "
            "--calibration cases.csv, or a folder of images (no labels are needed)"
        )
    slices = calibration_slices(
        options.calibration,
        channels=trained.record.channels,
        count=options.calibration_images,
        held_out=trained.samples,
    )
    return Calibration(slices, options.calibration_method)
