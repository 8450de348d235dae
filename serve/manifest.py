"""model.json: everything about a model folder that is not the network itself."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from wsseg.imaging.definitions import (
    FOREGROUND,
    IMAGE,
    Dependence,
    Frozen,
    RatioDefinition,
    Seen,
    Window,
)

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
