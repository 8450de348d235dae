"""One prepared case, a batch of them, and the outputs of the network for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from torch import Tensor

from wsseg.train.data.region_labels import RegionLabels


@dataclass(frozen=True)
class Sample:
    """One case at the network's size, with the fields of `Batch`.

    mask: all False where has_mask is False. fixed: classes whose target self-training leaves as it
    is. proposed: classes whose target is a blob proposal, which self-training replaces.
    """

    image: Float[Tensor, "c s s"]
    ratio: Float[Tensor, " k"]
    region_labels: RegionLabels
    marks: Integer[Tensor, "s s"]
    mask: Bool[Tensor, "k s s"]
    has_mask: bool
    target: Shaped[Tensor, "k s s"]
    target_weight: Shaped[Tensor, "k s s"]
    fixed: Bool[Tensor, " k"]
    proposed: Bool[Tensor, " k"]
    soft: Float[Tensor, "j s s"]
    index: int


@dataclass(frozen=True)
class Batch:
    """b cases at the network's size, k classes, c channels; NaN stands for what is not known.

    image: 0..1 intensities after the window, before mean and standard deviation.
    ratio: area ratio per class, by the class's ratio definition.
    bounds: lower and upper bound of that ratio, where a case states bounds.
    present: image tag, 1 where the class is in the image, 0 where it is not.
    box: top, left, bottom and right edge of the class's box, as shares 0..1 of the frame's side.
    centroid: row and column of the class's centre of mass, as shares of the side.
    spread: standard deviation of the rows and of the columns of its pixels, as shares of the side.
    marks: label map of weak marks: 0 not marked, class number 1..k, 255 marked as background.
    mask: full masks per class; meaningful only where has_mask is true.
    target: pseudo-label of each pixel, 0..1; target_weight: its weight, 0 (not used) to 1.
    soft: probability 0..1 of each class by the run's teacher (j = k); j = 0 without a teacher.
    index: position of the case in the table.
    """

    image: Float[Tensor, "b c h w"]
    ratio: Float[Tensor, "b k"]
    bounds: Float[Tensor, "b k 2"]
    present: Float[Tensor, "b k"]
    box: Float[Tensor, "b k 4"]
    centroid: Float[Tensor, "b k 2"]
    spread: Float[Tensor, "b k 2"]
    marks: Int[Tensor, "b h w"]
    mask: Bool[Tensor, "b k h w"]
    has_mask: Bool[Tensor, " b"]
    target: Float[Tensor, "b k h w"]
    target_weight: Float[Tensor, "b k h w"]
    soft: Float[Tensor, "b j h w"]
    index: Int[Tensor, " b"]


def collate(samples: Sequence[Sample]) -> Batch:
    """Return the samples stacked to a batch, in their order."""
    return Batch(
        image=torch.stack([sample.image for sample in samples]),
        ratio=torch.stack([sample.ratio for sample in samples]),
        **{
            name: torch.stack([getattr(sample.region_labels, name) for sample in samples])
            for name in ("bounds", "present", "box", "centroid", "spread")
        },
        marks=torch.stack([sample.marks for sample in samples]),
        mask=torch.stack([sample.mask for sample in samples]),
        has_mask=torch.tensor([sample.has_mask for sample in samples]),
        target=torch.stack([sample.target for sample in samples]),
        target_weight=torch.stack([sample.target_weight for sample in samples]),
        soft=torch.stack([sample.soft for sample in samples]),
        index=torch.tensor([sample.index for sample in samples]),
    )


@dataclass(frozen=True)
class Outputs:
    """The network's outputs for a batch, all at its input size.

    logits: one map per class, before the sigmoid. reconstruction: of `Batch.image`. moved: logits
    of a second view of the images (flipped, turned, scaled), moved back to the frame of the first.
    teacher: probabilities 0..1 of the averaged network, without a gradient. The last two are None
    unless a loss needs them.
    """

    logits: Float[Tensor, "b k h w"]
    reconstruction: Float[Tensor, "b c h w"]
    moved: Float[Tensor, "b k h w"] | None = None
    teacher: Float[Tensor, "b k h w"] | None = None
