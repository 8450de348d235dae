"""A term on the class ratios of a whole data set, where no ratio of any image is known.

Source: Zhou et al., "Prior-aware Neural Network for Partially-Supervised Multi-Organ
Segmentation", ICCV 2019. The mean over a data set is not a mean of batches' costs; there it is
followed by dual variables, here by a moving average of the mean share.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from wsseg.imaging.errors import WssegError
from wsseg.train.cases.schema import Denominator
from wsseg.train.distributed import world_size
from wsseg.train.terms.areas import area_log_odds, counted_mean, filled

SMALLEST_SHARE = 1e-6
"""A mean share below this, or as close to 1, counts as this: a fifteenth of a pixel of 256^2."""


def mean_shares(
    logits: Float[Tensor, "b k h w"], denominators: tuple[Denominator, ...]
) -> Float[Tensor, " k"]:
    """Mean soft share of each class over the batch, 0..1; shares as in `known_shares`."""
    return torch.sigmoid(area_log_odds(logits, denominators)).mean(0)


def ratio_prior_loss(mean: Float[Tensor, " k"], prior: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """KL(q || m) = q log(q / m) + (1 - q) log((1 - q) / (1 - m)), in nats, mean over the classes.

    mean: m, the mean share of the class. prior: q, the share it should have; NaN contributes 0.
    """
    target, known = filled(prior, mean)
    # Bounded in value only: at the bound, the gradient still says which way to go.
    bounded = mean + (mean.clamp(SMALLEST_SHARE, 1 - SMALLEST_SHARE) - mean).detach()
    gain = torch.xlogy(target, target) - target * torch.log(bounded)
    rest = torch.xlogy(1 - target, 1 - target) - (1 - target) * torch.log1p(-bounded)
    return counted_mean(gain + rest, known)


class MovingMean:
    """The mean share over the last batches: plain at first, then fading by `decay` a batch.

    `state` and `restore` carry it over from one process to the next, so that a resumed run goes on
    exactly. All training processes follow the same mean: each must call `follow` at the same steps.
    """

    def __init__(self, classes: int, decay: float) -> None:
        self.decay = decay
        self.mean = torch.zeros(classes, dtype=torch.float64)
        self.updates = torch.zeros((), dtype=torch.int64)

    def follow(self, batch: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Take in the mean of one batch; the new moving mean, with the batch's gradient.

        The gradient is as if the moving mean were this batch's, so that it does not shrink with
        the decay. With several processes the value is over the batches of all of them.
        """
        seen = batch.detach().to(torch.float64, copy=True)
        if world_size() > 1:
            dist.all_reduce(seen)
            seen /= world_size()
        seen = seen.cpu()
        count = int(self.updates)
        self.mean = self.mean.lerp(seen, 1 - min(self.decay, count / (count + 1)))
        self.updates = self.updates + 1
        return self.mean.to(batch) + (batch - batch.detach())

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs: tensors on the CPU."""
        return {"mean": self.mean.clone(), "updates": self.updates.clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave; WssegError if it is of other classes."""
        if state["mean"].shape != self.mean.shape:
            raise WssegError(
                f"the state of ratio_prior is of {len(state['mean'])} classes instead of "
                f"{len(self.mean)}: train again with another --out"
            )
        self.mean = state["mean"].to(self.mean)
        self.updates = state["updates"].to(self.updates)
