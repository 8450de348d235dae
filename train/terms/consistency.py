"""Terms that compare two answers to one picture: no label is needed, and none is given."""

import torch
from jaxtyping import Float
from torch import Tensor

from wsseg.train.terms.areas import widened


def equivariance_loss(
    logits: Float[Tensor, "b k h w"], moved: Float[Tensor, "b k h w"]
) -> Float[Tensor, ""]:
    """Mean of |p - p'|, in 0..1, with p' the answer to a moved view, moved back to this frame.

    Both answers are taught. Source: the equivariant regularisation of Wang et al.,
    "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic Segmentation",
    CVPR 2020.
    """
    return (torch.sigmoid(widened(logits)) - torch.sigmoid(widened(moved))).abs().mean()


def teacher_loss(
    logits: Float[Tensor, "b k h w"], teacher: Float[Tensor, "b k h w"]
) -> Float[Tensor, ""]:
    """Mean of (p - q)^2, in 0..1, with q the probability by the averaged network, not taught.

    Source: Tarvainen, Valpola, "Mean teachers are better role models", NeurIPS 2017.
    """
    probabilities = torch.sigmoid(widened(logits))
    return (probabilities - teacher.detach().to(probabilities.dtype)).square().mean()
