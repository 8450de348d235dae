"""Terms on bounds of an area ratio: nothing is asked of a ratio between them.

bounds: lower and upper bound of S, as fractions of the class's denominator; NaN where there is
none. Distances are relative to the bound that is missed, so they have no unit: a region of half
its smallest size is as wrong at 1 % of a picture as at 20 %, and at any resolution.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from wsseg.train.cases.schema import Denominator
from wsseg.train.terms.areas import filled, soft_ratios, widened

LEAST_UPPER = 0.01
"""Share that an excess is measured against where the upper bound is smaller: an excess over 0, of
a class that is absent, has no relative size."""


def choose_bounds(
    stated: Float[Tensor, "b k 2"],
    ratio: Float[Tensor, "b k"],
    present: Float[Tensor, "b k"],
    *,
    margin: float | None,
    common: tuple[float, float] | None,
) -> Float[Tensor, "b k 2"]:
    """The bounds of each image and class, from the most to the least particular that is known.

    First those stated for the case, of which one may be missing. Then its ratio with `margin`, a
    fraction of the ratio, to both sides (None: the ratio is not used). Then 0 and 0 for a class
    tagged as absent, and the `common` bounds for any other. NaN where none of these is known.
    """
    fallback = torch.full_like(stated, float("nan"))
    if common is not None:
        fallback = fallback.new_tensor(common).expand_as(stated)
    chosen = torch.where((present == 0).unsqueeze(-1), torch.zeros_like(stated), fallback)
    if margin is not None:
        around = torch.stack([ratio * (1 - margin), ratio * (1 + margin)], -1)
        chosen = torch.where(torch.isnan(ratio).unsqueeze(-1), chosen, around.to(chosen.dtype))
    return torch.where(torch.isnan(stated).all(-1, keepdim=True), chosen, stated)


def bounds_loss(
    logits: Float[Tensor, "b k h w"],
    bounds: Float[Tensor, "b k 2"],
    denominators: tuple[Denominator, ...],
) -> Float[Tensor, ""]:
    """((a - S) / a)^2 below the lower bound a, ((S - b) / b)^2 above the upper bound b, else 0.

    The gradient is exactly zero within the bounds. An empty prediction costs 1 however small a is.
    b counts as `LEAST_UPPER` where it is smaller; a = 0 asks for nothing.
    Source: Kervadec et al., "Constrained-CNN losses for weakly supervised segmentation", Medical
    Image Analysis 2019, whose distances are in pixels.
    """
    return _excess(logits, bounds, denominators).relu().square().sum(-1).mean()


def bounds_barrier_loss(
    logits: Float[Tensor, "b k h w"],
    bounds: Float[Tensor, "b k 2"],
    denominators: tuple[Denominator, ...],
    *,
    sharpness: float,
) -> Float[Tensor, ""]:
    """psi((a - S) / a) + psi((S - b) / b) with the log-barrier psi of that sharpness.

    See `log_barrier`; it pushes before a bound is reached, and a little below 0 far within them.
    Distances as in `bounds_loss`.
    """
    return log_barrier(_excess(logits, bounds, denominators), sharpness).sum(-1).mean()


def log_barrier(excess: Float[Tensor, "*s"], sharpness: float) -> Float[Tensor, "*s"]:
    """psi_t(x) = -log(-x) / t for x <= -1/t^2, else t x - log(1/t^2) / t + 1/t, for t = sharpness.

    x < 0 keeps the constraint, x > 0 breaks it. The two parts meet with equal value and slope t,
    so the cost and its gradient are finite everywhere. As t grows it nears a wall at 0.
    Source: Kervadec et al., "Constrained deep networks: Lagrangian optimization via log-barrier
    extensions", arXiv 1904.04205.
    """
    edge = -1 / sharpness**2
    within = excess <= edge
    # The logarithm sees only arguments that it is used for: elsewhere its gradient would be NaN.
    curved = -torch.log(-torch.where(within, excess, edge)) / sharpness
    straight = sharpness * (excess - edge) - math.log(-edge) / sharpness
    return torch.where(within, curved, straight)


def _excess(
    logits: Tensor, bounds: Float[Tensor, "b k 2"], denominators: tuple[Denominator, ...]
) -> Float[Tensor, "b k 2"]:
    """Relative distance beyond the lower and the upper bound; -1, which costs 0, without one."""
    soft = soft_ratios(logits, denominators)
    values, known = filled(widened(bounds), soft)
    low, high = values.unbind(-1)
    asked = torch.stack([known[..., 0] & (low > 0), known[..., 1]], -1)
    below = (low - soft) / torch.where(low > 0, low, 1)
    above = (soft - high) / high.clamp(min=LEAST_UPPER)
    excess = torch.stack([below, above], -1)
    return torch.where(asked, excess, excess.new_tensor(-1.0))
