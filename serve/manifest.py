"""The model folder: the content of `model.json`, and the check that no engine was altered."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from wsseg.imaging.definitions import (
    FOREGROUND,
    IMAGE,
    Dependence,
    Frozen,
    RatioDefinition,
    Seen,
    Window,
    fault_text,
)
from wsseg.imaging.dicom.codes import ClassCodes
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import read_regular, recover
from wsseg.serve.signature import check_signed

FILE_NAME = "model.json"
SCHEMA_VERSION: Final = 1
MANIFEST_BYTES = 1 << 26
"""Size of the largest `model.json` that is read; the scores of a calibration take most of it."""
ENGINE_BYTES = 1 << 32
"""Size of the largest engine file that is read. An ONNX file is smaller than half of it."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
RuntimeName = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch"]
PrecisionName = Literal["fp32", "fp16", "bf16", "int8"]


class UnfitFileError(WssegError):
    """An engine file that must not be run: missing, altered, or not what wsseg-export writes."""


class Parity(Frozen):
    """Agreement of one engine file with PyTorch on real slices, on the machine that exported it.

    mask_agreement: smallest fraction of equal mask pixels over the slices. probability_difference:
    largest absolute difference of a pixel's probability; for TensorRT, whose engines give none, of
    a slice's mean probability or variance. ratio_difference: largest absolute difference of a
    slice's area ratio. ratio_difference_mean: its mean over the slices where it is not 0 on both
    sides, of the ratio that differs most. mask_iou: intersection over union of the two masks, mean
    over the slices where either has a pixel, of the class that agrees least; 1 if all are empty.
    masks_empty: no mask of either has a pixel, so that agreement, IoU and ratios prove nothing.
    """

    slices: int
    provider: str
    mask_agreement: Fraction
    probability_difference: float
    ratio_difference: float
    ratio_difference_mean: float
    mask_iou: Fraction
    masks_empty: bool = False


class Profile(Frozen):
    """The (batch, height, width) that an engine was built for: smallest, best and largest."""

    minimum: tuple[int, int, int]
    optimum: tuple[int, int, int]
    maximum: tuple[int, int, int]


class EngineFile(Frozen):
    """One engine of the model folder: its file, runtime and precision.

    Engines of several runtimes may share a file. parity: None only for an engine that could not run
    on the exporting machine. gpu: CUDA architecture that the engine was built for, such as "sm_89";
    None runs anywhere. instructions: CPU instructions that the parity figures hold for, such as
    "avx512_vnni" or `hardware.UNKNOWN`; None if the arithmetic is the same on all CPUs.
    float_layers: layers of an int8 engine that stay float32, because in integers they would change
    its masks; most sensitive first. relative_time: time of a slice over that of fp32 in ONNX
    Runtime, on the CPU of the exporting machine; None if it was not measured.
    """

    file: str
    runtime: RuntimeName
    precision: PrecisionName
    sha256: str
    parity: Parity | None = None
    gpu: str | None = None
    builder: str | None = None
    profile: Profile | None = None
    instructions: str | None = None
    float_layers: tuple[str, ...] = ()
    relative_time: float | None = None


class Teacher(Frozen):
    """The run of a teacher: name of its folder, its network, SHA-256 of its weights."""

    run: str
    network: str
    weights_sha256: str


class OutputStride(Frozen):
    """A network exported at another output stride than it was trained at, and the difference.

    mask_iou: mean IoU of its masks with those of the network as trained, over real slices.
    ratio_difference: mean absolute difference of their area ratios.
    """

    stride: Literal[16]
    trained_at: Literal[8]
    slices: int
    mask_iou: Fraction
    ratio_difference: float


class Training(Frozen):
    """The training of the network: enough to distinguish two models and to train one again.

    teacher: None for a network without a teacher. seen: properties of the training images.
    dependence: whether the masks depend on the image. Both are None for runs of earlier versions.
    parts: see `train.validation.usual_parts`; empty for runs of earlier versions.
    """

    preset: str
    network: str
    weights: str
    cases: int
    cases_sha256: str
    epochs: int
    seed: int
    metrics: dict[str, float] = Field(default_factory=dict)
    teacher: Teacher | None = None
    seen: Seen | None = None
    dependence: Dependence | None = None
    parts: dict[str, int] = Field(default_factory=dict)


class ConfidenceCurve(Frozen):
    """The logistic curve of `confidence.confidence`: a linear function of two logarithms.

    of_tolerance: of the tolerance divided by the scale of the error. of_ratio: of the ratio.
    """

    intercept: Finite
    of_tolerance: Finite
    of_ratio: Finite


class RatioCalibration(Frozen):
    """The errors of one ratio on cases with recorded ratios, for `intervals.Intervals`.

    scores: of each case, its error divided by its scale, ascending. weights: of each score, 1 over
    the number of cases of its group, so that they sum to `groups`. confidence: its curve.
    widest_usual, least_usual: the
    scale above and the confidence below which a slice is flagged, see `intervals.UNUSUAL`.
    """

    ratio: str
    groups: Annotated[int, Field(ge=1)]
    scores: Annotated[tuple[NonNegative, ...], Field(min_length=1)]
    weights: tuple[Annotated[float, Field(gt=0, le=1)], ...]
    confidence: ConfidenceCurve
    widest_usual: NonNegative
    least_usual: Fraction

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.weights) != len(self.scores) or list(self.scores) != sorted(self.scores):
            raise ValueError(f"calibration of {self.ratio}: scores must ascend, with a weight each")
        return self


class Calibration(Frozen):
    """What intervals of the ratios are computed from; it holds for the masks of this network.

    cases_sha256: of the table of cases. left_out: its rows that gave no score, because training
    had used them, or because nothing was recorded or measured. engine_sha256: of the engine file
    that measured them; engines of the folder agree with it within their parity figures. scale,
    floor: by what errors were divided, see `intervals.Measured.scale`.
    """

    cases_sha256: str
    left_out: int
    engine_sha256: str
    scale: Literal["variance_over_root_area"] = "variance_over_root_area"
    floor: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    ratios: Annotated[tuple[RatioCalibration, ...], Field(min_length=1)]


class Manifest(Frozen):
    """The contract between export, which writes it, and serve, which reads nothing else.

    `thresholds` has one probability per class: a pixel belongs to a class where its probability
    is at least that. `network_size` is the square that slices are resized to inside the graph.
    `codes` says what a class is by a clinical terminology, where that was stated.
    `output_stride` is None for a network that computes as it was trained, `calibration` for a model
    without intervals.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    ratios: Annotated[tuple[RatioDefinition, ...], Field(min_length=1)]
    channels: Literal[1, 3]
    window: Window
    network_size: Annotated[int, Field(ge=16)]
    thresholds: tuple[Fraction, ...]
    training: Training
    output_stride: OutputStride | None = None
    codes: dict[str, ClassCodes] = Field(default_factory=dict)
    calibration: Calibration | None = None
    engines: Annotated[tuple[EngineFile, ...], Field(min_length=1)]
    wsseg_version: str
    created: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = {*self.classes, IMAGE, FOREGROUND}
        for ratio in self.ratios:
            if ratio.numerator not in self.classes or ratio.denominator not in known:
                raise ValueError(f"ratio {ratio.name} names a class that is not in {self.classes}")
        if unknown := self.codes.keys() - set(self.classes):
            raise ValueError(f"codes are given for {', '.join(sorted(unknown))}, which is no class")
        calibrated = [each.ratio for each in self.calibration.ratios] if self.calibration else []
        if not set(calibrated) <= {ratio.name for ratio in self.ratios}:
            raise ValueError("the calibration names a ratio that the model does not have")
        if len(self.thresholds) != len(self.classes):
            raise ValueError("thresholds must have one value per class")
        return self


# Inputs and outputs of the exported graph, and the types of their numbers.
INPUT = "pixels"
OUTPUTS = {"mask": "uint8", "pixel_area": "int64", "soft_area": "float32"}
# Models exported by early versions lack these: only the recovery of masks needs the probability,
# and only intervals need the variance.
PROBABILITY = "probability"
AREA_VARIANCE = "area_variance"
KINDS = {**OUTPUTS, PROBABILITY: "float32", AREA_VARIANCE: "float32"}


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    kind: type of its numbers, as numpy names it. second: length of its second axis; None if only a
    run would show it.
    """

    kind: str
    second: int | None


def check_contract(
    inputs: Mapping[str, Port], outputs: Mapping[str, Port], manifest: Manifest, entry: EngineFile
) -> None:
    """Raise WssegError for a network that the manifest does not describe."""
    known = {name: port for name, port in outputs.items() if name in KINDS}
    fits = (
        list(inputs) == [INPUT]
        and inputs[INPUT].kind == "float32"
        and OUTPUTS.keys() <= known.keys()
        and all(port.kind == KINDS[name] for name, port in known.items())
        and inputs[INPUT].second in (None, manifest.channels)
        and all(port.second in (None, len(manifest.classes)) for port in known.values())
    )
    if not fits:
        raise WssegError(
            f"{entry.file} is no graph of wsseg for {manifest.channels} channels and "
            f"{len(manifest.classes)} classes (inputs {dict(inputs)}, outputs {dict(outputs)}): "
            "export the model again"
        )


def load_model(path: Path, trusted: Sequence[Path] = ()) -> tuple[Manifest, Path]:
    """Read and check `model.json` of a model folder; returns it with the folder.

    trusted: public keys, of which one must have signed the model, see `check_signed`; () for any
    model. Raises WssegError if the folder is missing, was not written by wsseg-export, was written
    by a newer version, or is not signed as it is asked for. The engine files are checked when one
    is opened, see `engine_bytes`.
    """
    if not path.exists():
        recover(path)  # an export may have been killed while it replaced the folder
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
        raise WssegError(f"model folder {path} {state}: give the folder that wsseg-export wrote")
    file = path / FILE_NAME
    try:
        text = read_regular(file, MANIFEST_BYTES)
        if trusted:
            check_signed(path, FILE_NAME, text, trusted)
        content: Any = json.loads(text)
    except FileNotFoundError as error:
        raise WssegError(
            f"{path} holds no {FILE_NAME}: give the folder that wsseg-export wrote"
        ) from error
    except RecursionError as error:
        raise WssegError(
            f"{file} is nested too deeply to be a model's: export the model again"
        ) from error
    except (OSError, ValueError) as error:
        raise WssegError(f"{file} cannot be read ({error}): export the model again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise WssegError(
            f"{file} has schema version {version}, this wsseg reads {SCHEMA_VERSION}: "
            "install a newer wsseg"
        )
    try:
        # As JSON again: a list is a tuple there, but not in Python.
        return Manifest.model_validate_json(json.dumps(content)), path
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(step) for step in fault["loc"]) or "the file as a whole"
        raise WssegError(
            f"{file} is no wsseg model: {key}: {fault_text(fault)}; export the model again"
        ) from error


def engine_bytes(folder: Path, entry: EngineFile) -> bytes:
    """The content of an engine file, if it has the SHA-256 of the manifest.

    The bytes that are checked are the bytes that run: nothing can change in between. Raises
    UnfitFileError for a missing, altered or misplaced file.
    """
    if Path(entry.file).name != entry.file or "\0" in entry.file:
        raise UnfitFileError(
            f"{folder}: engine file {entry.file!r} must lie in the model folder itself"
        )
    try:
        content = read_regular(folder / entry.file, ENGINE_BYTES)
    except OSError as error:
        raise UnfitFileError(
            f"{folder}: engine file {entry.file} cannot be read ({error.strerror}): "
            "copy the whole model folder again"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry.sha256.lower():
        raise UnfitFileError(
            f"{folder}: engine file {entry.file} has SHA-256 {digest[:12]}..., the manifest says "
            f"{entry.sha256[:12]}...: it was altered or cut; copy the whole model folder again"
        )
    return content
