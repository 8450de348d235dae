"""A term that asks every pixel to decide, without any label."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wsseg.train.terms.areas import widened


def entropy_loss(
    logits: Float[Tensor, "b k h w"], classes: tuple[float, ...] = ()
) -> Float[Tensor, ""]:
    """-[p log p + (1 - p) log(1 - p)] / log 2, mean over pixels and classes, in 0..1.

    classes: a weight for each class, in any unit, as only their proportion counts; none: all the
    same. Every map of zeros and ones is a minimum, the empty one too: it needs a term on the size
    beside it. Source: Vu et al., "ADVENT: Adversarial Entropy Minimization for Domain Adaptation
    in Semantic Segmentation", CVPR 2019; with weights and sizes Bateson et al., "Source-free
    domain adaptation for image segmentation", Medical Image Analysis 2022.
    """
    logits = widened(logits)
    inside = torch.sigmoid(logits) * F.logsigmoid(logits)
    outside = torch.sigmoid(-logits) * F.logsigmoid(-logits)
    entropy = -(inside + outside).mean((0, 2, 3)) / math.log(2)
    if not classes:
        return entropy.mean()
    weights = entropy.new_tensor(classes)
    return (entropy * weights / weights.sum()).sum()
