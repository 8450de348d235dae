"""The base of every loss: common settings, inputs, and averages over pixels and images.

The notation of every loss is z for a logit, p = sigmoid(z), N for the number of pixels of an image,
S for a soft ratio and v for a known ratio. A loss is computed per image and class, then averaged
over classes and images. An unknown label contributes 0 and still counts in the average, so that a
batch split evenly over processes has the same mean as the whole. Half-precision inputs are widened
to float32 first. Every loss and its gradient are finite for |z| up to 1e4.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from pydantic import AfterValidator, Field, PositiveFloat, model_validator
from torch import Tensor

from wsseg.imaging.definitions import Denominator, Frozen
from wsseg.imaging.errors import WssegError
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.distributed import world_size

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"{interval[0]} and {interval[1]}: the lower one comes first")
    return interval


Interval = Annotated[tuple[Share, Share], AfterValidator(_ordered)]


class MovingMean:
    """The moving mean of the shares of each class: of all batches at first, then with a `decay`.

    `state` and `restore` carry it from one process to the next, so that a resumed run continues
    exactly. All training processes follow the same mean: each must call `follow` at the same steps.
    """

    def __init__(self, classes: int, decay: float) -> None:
        self.decay = decay
        self.mean = torch.zeros(classes, dtype=torch.float64)
        self.updates = torch.zeros((), dtype=torch.int64)

    def follow(self, batch: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Include the mean of one batch, and return the new moving mean with that batch's gradient.

        The gradient is as if the moving mean were the mean of this batch, so that it does not
        shrink with the decay. With several processes the value is over the batches of all of them.
        """
        mean = batch.detach().to(torch.float64, copy=True)
        if world_size() > 1:
            dist.all_reduce(mean)
            mean /= world_size()
        count = int(self.updates)
        self.mean = self.mean.lerp(mean.cpu(), 1 - min(self.decay, count / (count + 1)))
        self.updates = self.updates + 1
        return self.mean.to(batch) + (batch - batch.detach())

    def state(self) -> dict[str, Tensor]:
        """Return what `restore` needs: tensors on the CPU."""
        return {"mean": self.mean.clone(), "updates": self.updates.clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned; WssegError if it is of other classes."""
        if state["mean"].shape != self.mean.shape:
            raise WssegError(
                f"the state of ratio_prior is of {len(state['mean'])} classes instead of "
                f"{len(self.mean)}: train again with another --out"
            )
        self.mean = state["mean"].to(self.mean)
        self.updates = state["updates"].to(self.updates)


@dataclass(frozen=True)
class Context:
    """What a loss is told about its run, besides the outputs and the batch.

    denominators: what the ratio of each class is measured against. prior: the mean known ratio of
    each class over the training cases, NaN where unknown. progress: the share of the run that is
    done, 0 to 1. moving: the mean that the loss follows from step to step, if `begin` makes one.
    """

    denominators: tuple[Denominator, ...]
    prior: tuple[float, ...] = ()
    progress: float = 0.0
    moving: MovingMean | None = None


@dataclass(frozen=True)
class Inputs:
    """The fields that a loss reads.

    reads: fields of `Batch` and `Outputs`, besides logits, image and index; `mask` and `target`
    include `has_mask` and `target_weight`. labels: fields of `Batch`, any one of which must be
    known for a case to supervise the loss; without any, every image contributes to it.
    """

    reads: frozenset[str]
    labels: frozenset[str]


def supervised(*labels: str) -> Inputs:
    """Return the inputs of a loss that these labels supervise wherever one of them is known."""
    return Inputs(frozenset(labels), frozenset(labels))


def unsupervised(*reads: str) -> Inputs:
    """Return the inputs of a loss to which every image contributes."""
    return Inputs(frozenset(reads), frozenset())


class Loss(Frozen, ABC):
    """A loss with its settings: its weight, and when it counts, in fractions of the whole run.

    The weight is 0 before `start`, rises linearly to `weight` over `ramp`, and is 0 from `end` on.
    A subclass adds its `kind`, further settings, its `inputs`, and the formula as `__call__`. It
    can be chosen once it is listed in `wsseg.train.losses`.
    """

    weight: PositiveFloat = 1.0
    start: Share = 0.0
    ramp: Share = 0.0
    end: Share = 1.0
    kind: str = ""

    inputs: ClassVar[Inputs] = unsupervised()

    @property
    def reads(self) -> frozenset[str]:
        """The fields of `Batch` and `Outputs` that are read with these settings, see `Inputs`."""
        return self.inputs.reads

    @property
    def labels(self) -> frozenset[str]:
        """The fields of `Batch` that supervise with these settings, see `Inputs`."""
        return self.inputs.labels

    def weight_at(self, progress: float) -> float:
        """Return the weight at this progress of the run, 0 to 1."""
        over = self.end <= progress and self.end < 1
        if progress < self.start or over:
            return 0.0
        risen = (progress - self.start) / self.ramp if self.ramp else 1.0
        return self.weight * min(risen, 1.0)

    def begin(self, context: Context) -> Context:
        """Return the context for a new run; WssegError if the settings do not fit the run."""
        return context

    @abstractmethod
    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        """Return the unweighted loss of a batch."""

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> "Loss":
        if not self.start < self.end:
            raise ValueError(f"start {self.start} of a term must be before its end {self.end}")
        return self


def widened(values: Tensor) -> Tensor:
    """Return the values in float32, or in float64 if they already are."""
    return values if values.dtype == torch.float64 else values.float()


def filled(values: Float[Tensor, "*s"], like: Tensor) -> tuple[Tensor, Bool[Tensor, "*s"]]:
    """Return the values in the precision of `like`, 0 in place of NaN, and which are known.

    NaN must be replaced before any arithmetic: NaN times 0 is still NaN, also in a gradient.
    """
    known = ~torch.isnan(values)
    return torch.where(known, values, torch.zeros_like(values)).to(like.dtype), known


def counted_mean(cost: Float[Tensor, "*s"], known: Bool[Tensor, "*s"]) -> Float[Tensor, ""]:
    """Return the mean over all entries, to which the unknown ones contribute 0."""
    return torch.where(known, cost, torch.zeros_like(cost)).mean()


def mean_where(
    cost: Float[Tensor, "b k h w"], where: Bool[Tensor, "b k h w"]
) -> Float[Tensor, "b k"]:
    """Return the mean of each image and class over the chosen pixels, 0 where none is chosen."""
    total = torch.where(where, cost, torch.zeros_like(cost)).sum((-2, -1))
    return total / where.sum((-2, -1)).clamp(min=1)


def marked_as(marks: Int[Tensor, "b h w"], classes: int) -> Bool[Tensor, "b k h w"]:
    """Return where each class, label 1..k, is marked."""
    labels = torch.arange(1, classes + 1, device=marks.device)
    return marks.unsqueeze(1) == labels.view(1, -1, 1, 1)
