"""All settings of a run, and the losses of each preset."""

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StrictInt,
    StrictStr,
    model_validator,
)

from wsseg.imaging.definitions import Frozen, RatioDefinition, Window
from wsseg.imaging.dicom.codes import Codes
from wsseg.imaging.errors import WssegError
from wsseg.train.losses import (
    AnyLoss,
    AreaL2,
    BoxEmptiness,
    BoxSize,
    BoxTightness,
    Centroid,
    Confidence,
    CrossEntropy,
    Dice,
    Distillation,
    Entropy,
    GatedCrf,
    PartialCrossEntropy,
    RatioPrior,
    Reconstruction,
    Share,
    Size,
    SizeBarrier,
    SizeBounds,
    SizeKl,
    Spread,
    TagInclusion,
    TagSize,
    TagSuppression,
    TargetCrossEntropy,
    TargetDice,
    WeakMark,
)

PRESETS: dict[str, tuple[AnyLoss, ...]] = {
    # Everything that is known of a picture, as targets of its pixels; the size keeps them honest.
    "wsseg": (TargetCrossEntropy(), TargetDice(), SizeKl()),
    # Kulkarni, Raff, Oates: ratios and eroded marks, literally, and its two ablations.
    "paper": (Confidence(), Reconstruction(), WeakMark(), Size()),
    "paper-size-only": (Confidence(), Reconstruction(), Size()),
    "paper-mark-only": (Confidence(), Reconstruction(), WeakMark()),
    # Kervadec et al. 2019: partial marks with bounds of the size, as a penalty or as a barrier.
    "size-bounds": (PartialCrossEntropy(), SizeBounds()),
    "log-barrier": (PartialCrossEntropy(), SizeBarrier()),
    # Jia et al. 2017: image tags and a rough area. Inclusion alone would take all of the picture;
    # at this weight of the area the two settle within 0.03 of it for a region of 0.06.
    "area-l2": (TagSuppression(), TagInclusion(), AreaL2(weight=100)),
    # Zhou et al. 2019: partial marks and the ratios of the data set, of no single picture.
    "prior-kl": (PartialCrossEntropy(), RatioPrior()),
    # Bateson et al. 2022: a network trained elsewhere (`weights`) adapts to new pictures by ratios.
    "source-free": (Entropy(weight=0.1), SizeKl()),
    # Kervadec et al. 2019 and Jia et al. 2017: image tags alone.
    "tags": (TagSuppression(), TagInclusion(), TagSize()),
    # Kervadec et al. 2020: tight boxes.
    "boxes": (BoxTightness(), BoxEmptiness(), BoxSize()),
    # Kervadec et al. 2021: a few numbers on the shape; the distances are small parts of a side.
    "moments": (SizeBounds(), Centroid(weight=10), Spread(weight=10)),
    # Obukhov et al. 2019: scribbles, joined with what looks alike once they have been learnt.
    "scribbles": (PartialCrossEntropy(), GatedCrf(start=0.1, ramp=0.3)),
    # Full masks, for comparison.
    "full": (CrossEntropy(), Dice()),
}


def preset_losses(preset: str) -> tuple[AnyLoss, ...]:
    """The losses of this preset; WssegError for an unknown one, which names the nearest."""
    if preset in PRESETS:
        return PRESETS[preset]
    nearest = difflib.get_close_matches(preset, PRESETS, n=1, cutoff=0.0)[0]
    raise WssegError(
        f"unknown preset {preset!r}: the presets are {', '.join(PRESETS)}; did you mean {nearest}?"
    )


# Every setting of a training run: frozen, closed and typed; unknown keys are errors.

NetworkName = Literal["resnet50", "resnet101", "mobilenet_v3_large", "mobilenet_v2"]


Labels = Annotated[
    tuple[Annotated[StrictInt, Field(ge=0)] | Annotated[StrictStr, Field(min_length=1)], ...],
    BeforeValidator(lambda value: [value] if isinstance(value, int | str) else value),
]
"""What stands for a class in label files: numbers, colours "#rrggbb", texts of DICOM segments."""


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


class SelfTraining(Frozen):
    """When targets are renewed from the network's own maps, cut at the known areas.

    rounds: at most; fewer if two agree. They begin after the shares `start` to `end` of the epochs,
    evenly spread. located: least share of an epoch's images that say where a class is (a mark, a
    point, a box, a mask), before the first round; located_later: after it. Only terms that learn
    targets need any of this.
    """

    rounds: Annotated[int, Field(ge=0, le=10)] = 3
    start: Share = 0.3
    end: Share = 0.7
    located: Share = 0.5
    located_later: Share = 0.25


class TrainConfig(Frozen):
    """All of a run but its cases. `terms` empty means the terms of `preset`.

    size: the square, in pixels, that slices are resized to. batch: images per step over all
    processes together. window None: chosen from the training images. labels: what stands for each
    class in marks and masks, and under `background` for none; empty where class k is number k.
    modality: DICOM's code (CT, MR, US) for training images whose files name none, such as pictures.
    codes: what each class is, by a clinical terminology, for the DICOM results of wsseg-infer.
    weights: none, imagenet, coco, or the path of a safetensors file. select: how the best epoch is
    told, see `select.py`. growth: how marks that bear a region's shape become targets; auto looks
    at the images, see `targets.kind.choose_growth`. guess: whether cases that do not say where a
    class is may begin with a guess from its area, see `targets.guess`. distill: folder of a
    finished run whose network teaches this one; the term `distillation` is then added where `terms`
    has none. folds: of a cross-validation, see `folds.train_folds`; fold: the one that this run is
    judged by, from 1. calibrate: share of the training groups that is kept aside, neither
    trained on nor used for selection, so that the export can compute intervals from them. sheet,
    ignore_columns: how the table of cases is read, see `imaging.table.TableOptions`.
    """

    preset: str = "wsseg"
    terms: tuple[AnyLoss, ...] = ()
    network: NetworkName = "resnet50"
    weights: str = "none"
    size: Annotated[int, Field(ge=32)] = 256
    window: Window | None = None
    channels: Literal[1, 3] | None = None
    modality: str | None = None
    codes: Codes = Field(default_factory=dict)
    ratios: tuple[RatioDefinition, ...] = ()
    labels: dict[str, Labels] = Field(default_factory=dict)
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
    growth: Literal["auto", "euclidean", "geodesic"] = "auto"
    localise_from_area: bool = True
    self_training: SelfTraining = SelfTraining()
    distill: Path | None = None
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: PositiveInt | None = None
    calibrate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    sheet: str | None = None
    ignore_columns: tuple[str, ...] = ()

    @property
    def learns_targets(self) -> bool:
        """Whether any term is taught what was grown from marks or cut from the network's maps."""
        return any("target" in term.reads for term in self.loss_terms)

    @property
    def reads_shapes(self) -> bool:
        """Whether any term reads boxes or spreads, which a free rotation would lose."""
        return any({"box", "spread"} & term.reads for term in self.loss_terms)

    @property
    def loss_terms(self) -> tuple[AnyLoss, ...]:
        """The losses that the run learns from; WssegError for a preset that does not exist."""
        terms = self.terms or preset_losses(self.preset)
        return (
            terms if self.distill is None or any(map(_distils, terms)) else (*terms, Distillation())
        )

    @property
    def recipe(self) -> str:
        """The preset's name, or "custom" where terms of its own replace the preset's.

        Distillation does not count: a run's teacher is told apart from its recipe.
        """
        own = tuple(term for term in self.terms if not _distils(term))
        return "custom" if self.terms and own != PRESETS.get(self.preset) else self.preset

    @model_validator(mode="after")
    def _fold_of_folds(self) -> "TrainConfig":
        if self.fold is not None and (self.folds is None or self.fold > self.folds):
            raise ValueError(f"fold {self.fold} of {self.folds or 'no'} folds: there is none")
        return self

    @model_validator(mode="after")
    def _knows_its_teacher(self) -> "TrainConfig":
        if self.distill is None and any(map(_distils, self.terms)):
            raise ValueError("the term distillation needs distill, the folder of a finished run")
        return self


def _distils(term: AnyLoss) -> bool:
    return isinstance(term, Distillation)


def write_config(config: TrainConfig, path: Path) -> None:
    """Write the settings as JSON, defaults included, so that the run can be told and repeated."""
    path.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
