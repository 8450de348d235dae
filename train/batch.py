"""What one training step sees, and what the network answers."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

NOT_MARKED = 0
MARKED_BACKGROUND = 255


@dataclass(frozen=True)
class Batch:
    """b cases at the network's size, k classes, c channels.

    image: 0..1 intensities after the window, before mean and standard deviation.
    ratio: area ratio per class, by the class's ratio definition; NaN where unknown.
    marks: label map of weak marks: 0 not marked, class number 1..k, 255 marked as background.
    mask: full masks per class; meaningful only where has_mask is true.
    index: position of the case in the table.
    """

    image: Float[Tensor, "b c h w"]
    ratio: Float[Tensor, "b k"]
    marks: Int[Tensor, "b h w"]
    mask: Bool[Tensor, "b k h w"]
    has_mask: Bool[Tensor, " b"]
    index: Int[Tensor, " b"]


@dataclass(frozen=True)
class Outputs:
    """logits before the sigmoid, one map a class; reconstruction of `Batch.image`, same size.

    Both at the network's input size.
    """

    logits: Float[Tensor, "b k h w"]
    reconstruction: Float[Tensor, "b c h w"]
