"""A finished run becomes a model folder: engines that passed the gate, and model.json."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, ValidationError

from wsseg.export.calibration import calibration_slices
from wsseg.export.engines import (
    Calibration,
    Job,
    OnnxPrecision,
    onnx_engines,
    openvino_engines,
    planned_engine,
    tensorrt_engines,
    torch_engines,
)
from wsseg.export.parity import make_standard
from wsseg.export.quantise import Method
from wsseg.export.stride import coarsened
from wsseg.export.tensorrt import (
    DEFAULT_PROFILE,
    TensorRTJob,
    TensorRTMissingError,
    Toolkit,
    check_profile,
    find_toolkit,
)
from wsseg.imaging.definitions import Frozen, RatioDefinition, fault_text
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic_folder, held
from wsseg.serve.batching import MOST_PIXELS
from wsseg.serve.engines.base import Engine, EngineOptions
from wsseg.serve.engines.benchmark import interleaved, paired_ratio, reference, seconds, warm_up
from wsseg.serve.engines.select import candidates
from wsseg.serve.infer import BATCH
from wsseg.serve.manifest import (
    FILE_NAME,
    EngineFile,
    Fraction,
    Manifest,
    Profile,
    Teacher,
    Training,
)
from wsseg.train.networks import Predictor
from wsseg.train.run_folder import RunRecord, TrainedRun, load_run

# What a user asks of an export.


class ExportOptions(Frozen):
    """What to make of a run.

    name: of the model, else the output folder's. precisions: of the ONNX files. torch: the graph
    as a PyTorch program too. trt: build
    TensorRT engines too; gpu_arch: for these architectures, such as "sm_89" (empty: this machine's
    GPU if `tensorrt` is installed, else the usual ones of TensorRT-RTX); profile: input shapes they
    take. ratios: in place of the run's, empty keeps them. thresholds: one a class, else
    the run's. calibration: cases.csv or folder of images that int8 is calibrated by, on at most
    `calibration_images` slices, with ranges set by `calibration_method`. output_stride: in
    place of the network's, see `stride.at_stride_16`. overwrite: a model in the output folder gives
    way.
    """

    name: str = ""
    precisions: Annotated[tuple[OnnxPrecision, ...], Field(min_length=1)] = ("fp32", "fp16")
    torch: bool = False
    trt: bool = False
    gpu_arch: tuple[str, ...] = ()
    profile: Profile = DEFAULT_PROFILE
    ratios: tuple[RatioDefinition, ...] = ()
    thresholds: tuple[Fraction, ...] = ()
    calibration: Path | None = None
    calibration_images: PositiveInt = 128
    calibration_method: Method = "percentile"
    output_stride: Literal[16] | None = None
    overwrite: bool = False


# How long each engine takes on this CPU, relative to fp32 in ONNX Runtime.

ROUNDS = 3
ON_CPU = EngineOptions(device="cpu")

Pixels = NDArray[np.float32]


def with_times(manifest: Manifest, sample: Pixels, folder: Path) -> tuple[EngineFile, ...]:
    """The manifest's engines, those that run on this CPU with their `relative_time`.

    sample: a raw slice (c, H, W), of which a batch is made as large as serving's own: how well an
    engine fills the cores depends on that. All engines take turns, so that a machine that is busy
    for a while is busy for all of them; of each, the median over ROUNDS of its time over the
    reference's in the same round counts. Without an fp32 engine in ONNX Runtime nothing is
    measured.
    """
    able, _ = candidates(manifest, ON_CPU, "cpu")
    entries = [candidate.entry for candidate in able]
    measure = reference(entries)
    if measure is None:
        return manifest.engines
    opened = {_key(c.entry): c.adapter.open(folder, manifest, c.entry, 0) for c in able}
    times = relative(opened, _batch(sample), _key(measure))
    return tuple(
        entry.model_copy(update={"relative_time": times.get(_key(entry))})
        for entry in manifest.engines
    )


def relative(
    engines: Mapping[tuple[str, str], Engine], pixels: Pixels, measure: tuple[str, str]
) -> dict[tuple[str, str], float]:
    """Median over rounds of each engine's time over the measure's; the measure has 1."""
    for engine in engines.values():
        warm_up(partial(engine, pixels))
    times = interleaved({key: _turn(engine, pixels) for key, engine in engines.items()}, ROUNDS)
    return {key: round(paired_ratio(times[key], times[measure]), 3) for key in engines}


def _batch(sample: Pixels) -> Pixels:
    """The slice as often as serving would put one of its size into a batch."""
    rows, columns = sample.shape[1:]
    count = max(1, min(BATCH, MOST_PIXELS // (rows * columns)))
    return np.ascontiguousarray(np.stack([sample] * count), np.float32)


def _key(entry: EngineFile) -> tuple[str, str]:
    return entry.runtime, entry.precision


def _turn(engine: Engine, pixels: Pixels) -> Callable[[], float]:
    return lambda: seconds(lambda: engine(pixels))


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
