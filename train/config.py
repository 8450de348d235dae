"""Every setting of a training run: frozen, closed and typed; unknown keys are errors."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from wsseg.imaging.definitions import Frozen, RatioDefinition, Window

NetworkName = Literal["resnet50", "resnet101", "mobilenet_v3_large", "mobilenet_v2"]


class Confidence(Frozen):
    """L_c of the paper: keeps probabilities away from 0.5."""

    kind: Literal["confidence"] = "confidence"
    weight: PositiveFloat = 1.0


class Reconstruction(Frozen):
    """L_r of the paper: the auxiliary head gives the input back."""

    kind: Literal["reconstruction"] = "reconstruction"
    weight: PositiveFloat = 1.0


class WeakMark(Frozen):
    """L_ws of the paper: marked pixels belong to the class.

    average "image" divides the sum over the mark by all pixels (the paper's formula taken as a
    mean), "mark" by the marked pixels, which makes the term about a hundred times stronger.
    """

    kind: Literal["weak_mark"] = "weak_mark"
    weight: PositiveFloat = 1.0
    average: Literal["image", "mark"] = "image"


class Size(Frozen):
    """L_s of the paper: absolute error of the predicted area ratio."""

    kind: Literal["size"] = "size"
    weight: PositiveFloat = 1.0


class CrossEntropy(Frozen):
    """Binary cross-entropy on full masks."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    weight: PositiveFloat = 1.0


class Dice(Frozen):
    """Soft Dice loss on full masks."""

    kind: Literal["dice"] = "dice"
    weight: PositiveFloat = 1.0


TermConfig = Annotated[
    Confidence | Reconstruction | WeakMark | Size | CrossEntropy | Dice,
    Field(discriminator="kind"),
]

PRESETS: dict[str, tuple[TermConfig, ...]] = {
    "paper": (Confidence(), Reconstruction(), WeakMark(), Size()),
    "paper-size-only": (Confidence(), Reconstruction(), Size()),
    "paper-mark-only": (Confidence(), Reconstruction(), WeakMark()),
    "full": (CrossEntropy(), Dice()),
}


class Augmentation(Frozen):
    """Changes that keep an area ratio true, each with a probability or a strength.

    turn: quarter turns. shrink: smallest scale of a rotation that keeps the whole frame in view,
    the ratio becoming ratio * scale**2; 1 switches it off. contrast, brightness: largest relative
    and absolute change of the 0..1 intensities. noise: largest standard deviation added.
    """

    flip_horizontal: Annotated[float, Field(ge=0, le=1)] = 0.5
    flip_vertical: Annotated[float, Field(ge=0, le=1)] = 0.0
    turn: Annotated[float, Field(ge=0, le=1)] = 0.0
    shrink: Annotated[float, Field(gt=0, le=1)] = 0.8
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.2
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.1
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.03


class TrainConfig(Frozen):
    """All of a run but its cases. `terms` empty means the terms of `preset`.

    size: the square, in pixels, that slices are resized to. batch: images per step over all
    processes together. window None: chosen from the training images. weights: none, imagenet,
    coco, or the path of a safetensors file. select: how the best epoch is told, see `select.py`.
    """

    preset: str = "paper"
    terms: tuple[TermConfig, ...] = ()
    network: NetworkName = "resnet50"
    weights: str = "none"
    size: Annotated[int, Field(ge=32)] = 256
    window: Window | None = None
    channels: Literal[1, 3] | None = None
    ratios: tuple[RatioDefinition, ...] = ()
    epochs: PositiveInt = 60
    batch: PositiveInt = 8
    learning_rate: PositiveFloat = 3e-4
    backbone_rate: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat = 1e-2
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    schedule: Literal["poly", "cosine"] = "poly"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    clip: PositiveFloat = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: PositiveInt = 1
    workers: NonNegativeInt = 0
    seed: NonNegativeInt = 0
    select: Literal["auto", "mask", "weak", "last"] = "auto"
    augmentation: Augmentation = Augmentation()

    @property
    def loss_terms(self) -> tuple[TermConfig, ...]:
        """The terms that the run learns from; empty for a preset that does not exist."""
        return self.terms or PRESETS.get(self.preset, ())

    @property
    def recipe(self) -> str:
        """The preset's name, or "custom" where terms of its own replace the preset's."""
        return "custom" if self.terms and self.terms != PRESETS.get(self.preset) else self.preset


def write_config(config: TrainConfig, path: Path) -> None:
    """Write the settings as JSON, defaults included, so that the run can be told and repeated."""
    path.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
