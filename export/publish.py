"""A finished run becomes a model folder: engines that agree with PyTorch, and model.json."""

import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, ValidationError

import wsseg
from wsseg.export.calibration import calibration_slices
from wsseg.export.card import write_card
from wsseg.export.engines import (
    Calibration,
    Job,
    OnnxPrecision,
    make_torch_engine,
    onnx_engines,
    openvino_engines,
    planned_engine,
)
from wsseg.export.intervals import calibration as interval_calibration
from wsseg.export.intervals import new_cases
from wsseg.export.parity import reference_outputs
from wsseg.export.quantise import Method
from wsseg.export.stride import coarsened
from wsseg.export.tensorrt import (
    DEFAULT_PROFILE,
    TensorRTMissingError,
    Toolkit,
    check_profile,
    find_toolkit,
    tensorrt_engines,
)
from wsseg.imaging.definitions import Frozen, RatioDefinition, fault_text
from wsseg.imaging.dicom.codes import Codes, check_classes, merged
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import atomic_folder, lock_output
from wsseg.imaging.tables import TableOptions
from wsseg.serve.batching import MOST_PIXELS
from wsseg.serve.engines.base import Engine, EngineOptions
from wsseg.serve.engines.benchmark import interleaved, paired_ratio, reference, seconds, warm_up
from wsseg.serve.engines.select import candidates
from wsseg.serve.manifest import (
    FILE_NAME,
    EngineFile,
    Fraction,
    Manifest,
    Profile,
    Teacher,
    Training,
)
from wsseg.serve.options import BATCH
from wsseg.train.run_folder import RunRecord, load_run


class ExportOptions(Frozen):
    """What to export from a run.

    name: the model's name; empty takes the name of the output folder.
    precisions: the precisions of the ONNX files.
    torch: also write the graph as a PyTorch program.
    trt: also build TensorRT engines.
    gpu_arch: the GPU architectures to build them for, such as "sm_89"; empty takes this machine's
        GPU where `tensorrt` is installed, else the usual architectures of TensorRT-RTX.
    profile: the input shapes that TensorRT engines accept.
    ratios: ratio definitions that replace those of the run; empty keeps the run's.
    codes: what each class is, by a clinical terminology; they replace those of the run one by one.
    thresholds: one probability a class, 0..1, which replaces the run's; empty keeps the run's.
    calibration: the cases.csv or the folder of images that int8 is calibrated on.
    calibration_images: the largest number of calibration slices.
    calibration_method: how the range of a tensor follows from its values.
    calibrate: a table of cases with recorded ratios, which intervals are computed from; None for
        those that training kept aside, if it did.
    sheet, ignore_columns: how that table is read, see `TableOptions`; None and empty read it as the
        run read its own.
    output_stride: replaces the network's own, see `stride.at_stride_16`.
    overwrite: replace a model that is already in the output folder.
    """

    name: str = ""
    precisions: Annotated[tuple[OnnxPrecision, ...], Field(min_length=1)] = ("fp32", "fp16")
    torch: bool = False
    trt: bool = False
    gpu_arch: tuple[str, ...] = ()
    profile: Profile = DEFAULT_PROFILE
    ratios: tuple[RatioDefinition, ...] = ()
    codes: Codes = Field(default_factory=dict)
    thresholds: tuple[Fraction, ...] = ()
    calibration: Path | None = None
    calibration_images: PositiveInt = 128
    calibration_method: Method = "percentile"
    calibrate: Path | None = None
    sheet: str | None = None
    ignore_columns: tuple[str, ...] = ()
    output_stride: Literal[16] | None = None
    overwrite: bool = False


ROUNDS = 3
ON_CPU = EngineOptions(device="cpu")

Pixels = NDArray[np.float32]

log = logging.getLogger(__name__)


def with_times(manifest: Manifest, sample: Pixels, folder: Path) -> tuple[EngineFile, ...]:
    """Return the manifest's engines, with a `relative_time` where they run on this CPU.

    sample: a raw slice (c, H, W). It is repeated to a batch as large as those of serving, because
    the size of a batch decides how well an engine fills the cores. All engines take turns, so that
    a machine that is busy for a while is busy for all of them. The figure is the median over ROUNDS
    of an engine's time divided by the time of fp32 in ONNX Runtime in the same round. Nothing is
    measured without that engine.
    """
    able, _ = candidates(manifest, ON_CPU, "cpu")
    entries = [candidate.entry for candidate in able]
    measure = reference(entries)
    if measure is None:
        return manifest.engines
    opened = {_key(c.entry): c.adapter.open(folder, manifest, c.entry, 0) for c in able}
    times = relative(opened, serving_batch(sample), _key(measure))
    return tuple(
        entry.model_copy(update={"relative_time": times.get(_key(entry))})
        for entry in manifest.engines
    )


def relative(
    engines: Mapping[tuple[str, str], Engine], pixels: Pixels, measure: tuple[str, str]
) -> dict[tuple[str, str], float]:
    """Return each engine's median time divided by that of the engine `measure`, which gets 1."""
    for engine in engines.values():
        warm_up(partial(engine, pixels))
    turns = {key: partial(seconds, partial(engine, pixels)) for key, engine in engines.items()}
    times = interleaved(turns, ROUNDS)
    return {key: round(paired_ratio(times[key], times[measure]), 3) for key in engines}


def serving_batch(sample: Pixels) -> Pixels:
    """Return the slice (c, H, W), repeated to the batch that serving makes of its size."""
    rows, columns = sample.shape[1:]
    count = max(1, min(BATCH, MOST_PIXELS // (rows * columns)))
    return np.ascontiguousarray(np.stack([sample] * count), np.float32)


def _key(entry: EngineFile) -> tuple[str, str]:
    return entry.runtime, entry.precision


def export_run(run: Path, out: Path, options: ExportOptions) -> Manifest:
    """Publish a run as the model folder `out`, which appears whole or stays as it was.

    Raises AllFailedError where no engine may be published, and WssegError for a request that
    cannot be met, such as a folder that already holds a model. In both cases nothing is written.
    TensorRTMissingError, EngineBuildError and, for an int8 engine that disagrees with PyTorch,
    EngineRejectedError are raised after the folder was published with the remaining engines.
    """
    with lock_output(out, f"another export is writing {out}: wait for it, or choose another --out"):
        _check_target(out, options)
        trained = load_run(run)
        record, samples = trained.record, trained.samples
        if not samples:
            raise WssegError(f"{run} has no sample slices to compare engines on: train again")
        if record.dependence and record.dependence.warning:
            log.warning("%s", record.dependence.warning)
        predictor, plan = trained.predictor, _plan(record, out, options)
        if options.output_stride is not None:
            predictor, cost = coarsened(predictor, samples, plan)
            plan = plan.model_copy(update={"output_stride": cost})
        table = TableOptions(options.sheet, options.ignore_columns)
        asked = table if options.sheet or options.ignore_columns else None
        recorded = new_cases(run, record, options.calibrate, asked)
        toolkit = _toolkit(options) if options.trt else None
        calibration = None
        if "int8" in options.precisions:
            if options.calibration is None:
                raise WssegError(
                    "int8 needs images for calibration, other than the slices of the comparison: "
                    "give --calibration cases.csv, or a folder of images (no labels are needed)"
                )
            slices = calibration_slices(
                options.calibration,
                channels=record.channels,
                count=options.calibration_images,
                held_out=samples,
            )
            calibration = Calibration(slices, options.calibration_method)
        standard = reference_outputs(predictor, samples, plan.thresholds, plan.classes, plan.ratios)
        with atomic_folder(out) as folder:
            job = Job(plan, predictor, standard, folder, calibration)
            engines, problem = _engines(job, samples[0], options, toolkit)
            manifest = plan.model_copy(update={"engines": engines})
            if recorded:
                measured = interval_calibration(folder, manifest, recorded)
                manifest = manifest.model_copy(update={"calibration": measured})
            text = manifest.model_dump_json(indent=2) + "\n"
            (folder / FILE_NAME).write_text(text, encoding="utf-8")
            write_card(folder, manifest)
        if problem:
            raise problem
        return manifest


def _engines(
    job: Job,
    sample: Pixels,
    options: ExportOptions,
    toolkit: Toolkit | TensorRTMissingError | None,
) -> tuple[tuple[EngineFile, ...], WssegError | None]:
    """Return all engines that could be made, and the first error of a requested one that could not.

    Raises AllFailedError where no engine could be made.
    """
    files, rejected = onnx_engines(job)
    on_cpu = job.plan.model_copy(update={"engines": files + openvino_engines(job, files)})
    engines = with_times(on_cpu, sample, job.folder)
    if options.torch:
        engines += (make_torch_engine(job),)
    problem = toolkit if isinstance(toolkit, TensorRTMissingError) else rejected
    if isinstance(toolkit, Toolkit):
        built, failed = tensorrt_engines(
            job,
            [file for file in files if file.precision != "int8"][-1],
            toolkit=toolkit,
            profile=options.profile,
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
    """Return the manifest with the entries of the ONNX engines that are to be made."""
    training = Training(
        preset=record.preset,
        network=record.network,
        weights=record.initial_weights,
        cases=record.cases,
        cases_sha256=record.cases_sha256,
        epochs=record.epochs,
        seed=record.seed,
        # JSON has no NaN: a figure that the validation split could not give is left out.
        metrics={name: value for name, value in record.metrics.items() if math.isfinite(value)},
        teacher=None
        if record.teacher is None
        else Teacher(
            run=record.teacher.run,
            network=record.teacher.network,
            weights_sha256=record.teacher.weights_sha256,
        ),
        seen=record.seen,
        dependence=record.dependence,
        parts=record.parts,
    )
    check_classes(options.codes, record.classes)
    try:
        return Manifest(
            name=options.name or out.resolve().name,
            classes=record.classes,
            ratios=options.ratios or record.ratios,
            channels=record.channels,
            window=record.window,
            network_size=record.size,
            thresholds=options.thresholds or record.thresholds,
            training=training,
            codes=merged(record.codes, options.codes),
            engines=tuple(planned_engine(p) for p in dict.fromkeys(options.precisions)),
            wsseg_version=wsseg.__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    except ValidationError as error:
        reasons = "; ".join(fault_text(problem) for problem in error.errors())
        raise WssegError(f"this model cannot be exported: {reasons}") from error


def _toolkit(options: ExportOptions) -> Toolkit | TensorRTMissingError:
    """Return the TensorRT to build with, or the error that says why there is none."""
    if options.precisions == ("int8",):
        raise WssegError("TensorRT engines are built from fp32 or fp16: ask for one of them too")
    check_profile(options.profile)
    try:
        return find_toolkit(options.gpu_arch)
    except TensorRTMissingError as error:
        return error
