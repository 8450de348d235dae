"""A term that is taught by another network: no label is needed."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wsseg.train.terms.areas import widened


def distillation_loss(
    logits: Float[Tensor, "b k h w"], soft: Float[Tensor, "b k h w"], *, temperature: float = 1.0
) -> Float[Tensor, ""]:
    """T^2 KL(q_T || p_T) in nats, mean over pixels and classes; at least 0, and 0 only at p = q.

    p_T = sigmoid(z / T), and q_T is the teacher's probability q in 0..1 softened likewise, so that
    its logit, too, is divided by T > 0. T^2 makes up for gradients that shrink as 1 / T^2. Each
    class is a choice of its own between inside and outside; the teacher's entropy, a constant, is
    taken off the cross-entropy, so that a student that agrees costs nothing. q is not taught.
    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    logits = widened(logits) / temperature
    target = softened(soft.detach().to(logits.dtype), temperature)
    cross = F.binary_cross_entropy_with_logits(logits, target)
    entropy = (torch.special.entr(target) + torch.special.entr(1 - target)).mean()
    divergence: Tensor = cross - entropy
    return temperature * temperature * divergence


def softened(probability: Float[Tensor, "*s"], temperature: float) -> Float[Tensor, "*s"]:
    """q^(1/T) / (q^(1/T) + (1 - q)^(1/T)): sigmoid(logit(q) / T), defined at 0 and 1 as well."""
    inside, outside = probability ** (1 / temperature), (1 - probability) ** (1 / temperature)
    return inside / (inside + outside)
