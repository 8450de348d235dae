"""Terms on image tags: 1 where the class is in the picture, 0 where it is not, NaN if unknown."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wsseg.train.terms.areas import counted_mean, log_generalised_mean, widened


def tag_suppression_loss(
    logits: Float[Tensor, "b k h w"], present: Float[Tensor, "b k"]
) -> Float[Tensor, ""]:
    """Mean of -log(1 - p) over the pixels, in nats, of a class tagged as absent.

    Nothing of it may be seen: the size constraint S <= 0 of Kervadec et al., Medical Image
    Analysis 2019, as a cross-entropy, whose gradient does not fade where p is near 1.
    """
    cost = -F.logsigmoid(-widened(logits)).mean((-2, -1))
    return counted_mean(cost, present == 0)


def tag_inclusion_loss(
    logits: Float[Tensor, "b k h w"], present: Float[Tensor, "b k"], *, exponent: float
) -> Float[Tensor, ""]:
    """-log of the picture's probability (mean p^r)^(1/r), in nats, of a class tagged as present.

    exponent: r > 0. The larger, the nearer to -log max p: a region of share v that is met still
    costs log(1 / v) / r, and is taught to grow a little. Computed by logsumexp.
    Source: the generalised mean over a bag of pixels of Jia et al., IEEE TMI 2017, with r = 4.
    """
    return counted_mean(-log_generalised_mean(logits, exponent), present == 1)


def tag_size_loss(
    logits: Float[Tensor, "b k h w"], present: Float[Tensor, "b k"], *, smallest: float
) -> Float[Tensor, ""]:
    """((a - S) / a)^2 where the share S of the picture is below a, of a class tagged as present.

    smallest: a, 0 < a < 1; in 0..1, without a unit. Source: the tag bounds of Kervadec et al.,
    Medical Image Analysis 2019, whose least size is one pixel.
    """
    logits = widened(logits)
    missing = (1 - logits.sigmoid().mean((-2, -1)) / smallest).relu()
    return counted_mean(missing.square(), present == 1)
