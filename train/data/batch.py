"""What one training step sees, and what the network answers."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """b cases at the network's size, k classes, c channels; NaN stands for what is not known.

    image: 0..1 intensities after the window, before mean and standard deviation.
    ratio: area ratio per class, by the class's ratio definition.
    bounds: lower and upper bound of that ratio, where a case states bounds.
    present: image tag, 1 where the class is in the picture, 0 where it is not.
    box: top, left, bottom and right edge of the class's box, as shares 0..1 of the frame's side.
    centroid: row and column of the class's centre of mass, as shares of the side.
    spread: standard deviation of the rows and of the columns of its pixels, as shares of the side.
    marks: label map of weak marks: 0 not marked, class number 1..k, 255 marked as background.
    mask: full masks per class; meaningful only where has_mask is true.
    target: what the pixels are taught, 0..1; target_weight: how surely, 0 (not at all) to 1.
    soft: probability 0..1 of every class by the run's teacher (j = k); j = 0 without a teacher.
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


@dataclass(frozen=True)
class Outputs:
    """logits before the sigmoid, one map a class; reconstruction of `Batch.image`, same size.

    moved: logits of a second view of the images (flipped, turned, scaled), moved back to this
    one's frame. teacher: probabilities 0..1 of the averaged network, without a gradient. Both are
    None unless a term of the objective needs them. All at the network's input size.
    """

    logits: Float[Tensor, "b k h w"]
    reconstruction: Float[Tensor, "b c h w"]
    moved: Float[Tensor, "b k h w"] | None = None
    teacher: Float[Tensor, "b k h w"] | None = None
