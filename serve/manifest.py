"""Open a model folder: read its manifest, and let no altered file run."""

import hashlib
import json
from collections.abc import Mapping
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
from wsseg.imaging.errors import WssegError

# model.json: everything about a model folder that is not the network itself.

FILE_NAME = "model.json"
SCHEMA_VERSION: Final = 1

Fraction = Annotated[float, Field(ge=0, le=1)]
RuntimeName = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch"]
PrecisionName = Literal["fp32", "fp16", "bf16", "int8"]


class Parity(Frozen):
    """How one engine file agreed with PyTorch on real slices, on the machine that exported it.

    mask_agreement: smallest fraction of equal mask pixels over the slices.
    probability_difference: largest absolute difference of any pixel's probability; for TensorRT,
    whose engines give none, of a slice's mean probability.
    ratio_difference: largest absolute difference of a slice's area ratio. ratio_difference_mean:
    its mean over the slices where it is not 0 on both sides, of the ratio that differs most.
    mask_iou: intersection over union of the two masks, mean over the slices where either has a
    pixel, of the class that agrees least; 1 where all are empty. masks_empty: no mask of either has
    a pixel anywhere, so that agreement, IoU and ratios prove nothing.
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
    """Input shapes an engine was built for: (batch, height, width) at least, best and at most."""

    minimum: tuple[int, int, int]
    optimum: tuple[int, int, int]
    maximum: tuple[int, int, int]


class EngineFile(Frozen):
    """One engine of the model folder: a file, the runtime it is for, the precision of its numbers.

    Engines of several runtimes may share a file. `gpu` is the CUDA architecture an engine was built
    for (such as "sm_89"); None runs anywhere. `parity` is None only for an engine that could not
    run on the exporting machine. `instructions` names what of a CPU its figures hold for (such as
    "avx512_vnni", or `cpu.UNKNOWN`), where the arithmetic differs from one CPU to another; None
    where it does not.
    `float_layers` names the network's layers that stay float32 in an int8 engine, because in
    integers they would move its masks; most sensitive first.
    `relative_time` is the time of a slice over that of fp32 in ONNX Runtime on the CPU of the
    exporting machine; None where it was not measured.
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
    """The run that taught a network: its folder's name, its network, the sha256 of its weights."""

    run: str
    network: str
    weights_sha256: str


class OutputStride(Frozen):
    """A network exported at another output stride than it was trained at, and what that costs.

    mask_iou: mean IoU of its masks with those of the network as trained, over real slices.
    ratio_difference: mean absolute difference of their area ratios.
    """

    stride: Literal[16]
    trained_at: Literal[8]
    slices: int
    mask_iou: Fraction
    ratio_difference: float


class Training(Frozen):
    """Where the network came from: enough to tell two models apart and to train one again.

    teacher: None for a network that learnt from its cases alone. seen: what its training images
    were. dependence: whether its masks depend on the image. None for a run of an earlier version.
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


class Manifest(Frozen):
    """The contract between export, which writes it, and serve, which reads nothing else.

    `thresholds` has one probability per class: a pixel belongs to a class where its probability
    is at least that. `network_size` is the square that slices are resized to inside the graph.
    `output_stride` is None for a network that computes as it was trained.
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
    engines: Annotated[tuple[EngineFile, ...], Field(min_length=1)]
    wsseg_version: str
    created: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = {*self.classes, IMAGE, FOREGROUND}
        for ratio in self.ratios:
            if ratio.numerator not in self.classes or ratio.denominator not in known:
                raise ValueError(f"ratio {ratio.name} names a class that is not in {self.classes}")
        if len(self.thresholds) != len(self.classes):
            raise ValueError("thresholds must have one value per class")
        return self


# The inputs and outputs by which any runtime tells an exported graph from another network.

INPUT = "pixels"
OUTPUTS = {"mask": "uint8", "pixel_area": "int64", "soft_area": "float32"}
# Models exported by early versions lack it; only what recovers masks asks for it.
PROBABILITY = "probability"
KINDS = {**OUTPUTS, PROBABILITY: "float32"}


@dataclass(frozen=True)
class Port:
    """An input or output: type of its numbers as numpy names it, and length of its second axis.

    second: None where only a run would tell.
    """

    kind: str
    second: int | None


def check_contract(
    inputs: Mapping[str, Port], outputs: Mapping[str, Port], manifest: Manifest, entry: EngineFile
) -> None:
    """WssegError for a network that is not the one that the manifest describes."""
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


def load_model(path: Path) -> tuple[Manifest, Path]:
    """Read and check `model.json` of a model folder; returns it with the folder.

    Raises WssegError where the folder is missing, was not written by wsseg-export, or was written
    by a newer version. The engine files are checked when one is opened, see `engine_bytes`.
    """
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise WssegError(f"model folder {path} {found}: give the folder that wsseg-export wrote")
    file = path / FILE_NAME
    try:
        text = file.read_text(encoding="utf-8")
        content: Any = json.loads(text)
    except FileNotFoundError as error:
        raise WssegError(
            f"{path} holds no {FILE_NAME}: give the folder that wsseg-export wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise WssegError(f"{file} cannot be read ({error}): export the model again") from error
    return _parse(content, file), path


def _parse(content: Any, file: Path) -> Manifest:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise WssegError(
            f"{file} has schema version {version}, this wsseg reads {SCHEMA_VERSION}: "
            "install a newer wsseg"
        )
    try:
        return Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"]) or "the file as a whole"
        raise WssegError(
            f"{file} is no wsseg model: {place}: {fault_text(first)}; export the model again"
        ) from error


def engine_bytes(folder: Path, entry: EngineFile) -> bytes:
    """Content of an engine file whose SHA-256 is the one that the manifest states.

    The bytes that were checked are the bytes that run: nothing can change in between. Raises
    WssegError for a missing, altered or misplaced file.
    """
    if Path(entry.file).name != entry.file:
        raise WssegError(
            f"{folder}: engine file {entry.file!r} must lie in the model folder itself"
        )
    try:
        content = (folder / entry.file).read_bytes()
    except OSError as error:
        raise WssegError(
            f"{folder}: engine file {entry.file} cannot be read ({error.strerror}): "
            "copy the whole model folder again"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256.lower():
        raise WssegError(
            f"{folder}: engine file {entry.file} has SHA-256 {found[:12]}..., the manifest says "
            f"{entry.sha256[:12]}...: it was altered or cut; copy the whole model folder again"
        )
    return content
