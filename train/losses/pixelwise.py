"""Losses on single pixels: masks, soft targets, marks, other predictions, and confidence.

Confidence, Reconstruction and WeakMark, and `Size` among the losses on areas, are those of
Kulkarni, Raff, Oates, "Learning to Segment using Summary Statistics and Weak Supervision". Marks
are label maps: 1..k where a class is marked, 255 for background, 0 where nothing is marked.
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from torch import Tensor

from wsseg.imaging.errors import WssegError
from wsseg.train.cases.schema import NOT_MARKED
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.losses.base import (
    Context,
    Inputs,
    Loss,
    counted_mean,
    marked_as,
    mean_where,
    supervised,
    unsupervised,
    widened,
)

SMOOTHING_PIXELS = 1.0
"""Added above and below in Dice: an empty mask is then a defined target, and one stray pixel on
an empty mask costs a half, not everything."""


class Confidence(Loss):
    """L_c = mean(1/4 - (1/2 - p)^2), which is mean(p (1 - p)); in 0..1/4.

    Largest at p = 1/2, zero for any map of zeros and ones, so also for an empty map and for a map
    that takes everything: it never says where. Its gradient in z is zero at p = 1/2 and largest at
    p = 0.21 and 0.79. Computed as sigmoid(z) sigmoid(-z), which loses no digits near 0 and 1.
    """

    kind: Literal["confidence"] = "confidence"

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        logits = widened(outputs.logits)
        return (torch.sigmoid(logits) * torch.sigmoid(-logits)).mean()


class Reconstruction(Loss):
    """L_r = ||I - Y||_1, read as a mean: mean absolute difference, in the image's 0..1 scale.

    Y is the auxiliary head's reconstruction of the image I. The paper's norm is a sum, whose size
    would depend on the image's size and the channels.
    """

    kind: Literal["reconstruction"] = "reconstruction"
    inputs: ClassVar[Inputs] = unsupervised("reconstruction")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        return (widened(outputs.reconstruction) - widened(batch.image)).abs().mean()


class WeakMark(Loss):
    """L_ws = -[M log(M p) + (1 - M) log(1 - M p)] for the weak mark M of each class.

    Where M = 0 both logarithms are of what should count as nothing: the first product is 0 log 0,
    undefined as it stands and taken as 0, the second is log 1 = 0. Where M = 1 the first is log p
    and the second 0 log(1 - p), 0 by the same reading at p = 1. What remains is -log p =
    softplus(-z) on the mark. It has no negatives: p = 1 everywhere is its minimum.

    average: "image" divides the sum over the mark by all N pixels (the formula as a mean over the
    image), "mark" by the marked pixels of that image and class, which makes the loss about a
    hundred times stronger; an empty mark costs 0. The paper has one class; with several, the mean
    over the classes is taken.
    """

    kind: Literal["weak_mark"] = "weak_mark"
    average: Literal["image", "mark"] = "image"
    inputs: ClassVar[Inputs] = supervised("marks")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        logits = widened(outputs.logits)
        marked = marked_as(batch.marks, logits.shape[1])
        cost = torch.where(marked, -F.logsigmoid(logits), logits.new_zeros(()))
        sums = cost.sum((-2, -1))
        if self.average == "image":
            return (sums / batch.marks[0].numel()).mean()
        return (sums / marked.sum((-2, -1)).clamp(min=1)).mean()


class CrossEntropy(Loss):
    """Binary cross-entropy on full masks, in nats, mean over the pixels; each class on its own."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    inputs: ClassVar[Inputs] = supervised("mask")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        logits = widened(outputs.logits)
        mask = batch.mask.to(logits.dtype)
        cost = F.binary_cross_entropy_with_logits(logits, mask, reduction="none").mean((-2, -1))
        return counted_mean(cost, batch.has_mask.unsqueeze(1).expand_as(cost))


class Dice(Loss):
    """Soft Dice loss on full masks, see `soft_dice`: 0 for an empty prediction of an empty mask."""

    kind: Literal["dice"] = "dice"
    inputs: ClassVar[Inputs] = supervised("mask")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        cost = soft_dice(outputs.logits, batch.mask)
        return counted_mean(cost, batch.has_mask.unsqueeze(1).expand_as(cost))


def soft_dice(
    logits: Float[Tensor, "b k h w"], target: Tensor, weight: Tensor | float = 1.0
) -> Float[Tensor, "b k"]:
    """1 - (2 sum(w p t) + s) / (sum(w p) + sum(w t) + s), in 0..1, with s one pixel.

    target: t, as are the weights w, (b, k, h, w) or of a shape that broadcasts to it, in 0..1.
    Source: the Dice overlap as a loss, after Milletari et al., "V-Net", 3DV 2016, with plain
    instead of squared sums below.
    """
    probabilities = torch.sigmoid(widened(logits))
    target = target.to(probabilities.dtype)
    if isinstance(weight, Tensor):
        weight = weight.to(probabilities.dtype)
    overlap = (weight * probabilities * target).sum((-2, -1))
    total = (weight * probabilities).sum((-2, -1)) + (weight * target).sum((-2, -1))
    return 1 - (2 * overlap + SMOOTHING_PIXELS) / (total + SMOOTHING_PIXELS)


class PartialCrossEntropy(Loss):
    """mean of -log p over the pixels marked as the class + mean of -log(1 - p) over other marks.

    In nats. A pixel marked as background or as another class is a negative of the class. The two
    means weigh the same however many pixels each has, because a mark of the background is often
    much larger; an empty one is 0. Pixels that are not marked say nothing. Source: the partial
    cross-entropy of Tang et al., "On Regularized Losses for Weakly-supervised CNN Segmentation",
    ECCV 2018, here balanced.
    """

    kind: Literal["partial_cross_entropy"] = "partial_cross_entropy"
    inputs: ClassVar[Inputs] = supervised("marks")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        logits = widened(outputs.logits)
        positive = marked_as(batch.marks, logits.shape[1])
        negative = (batch.marks != NOT_MARKED).unsqueeze(1) & ~positive
        missed = mean_where(-F.logsigmoid(logits), positive)
        wrong = mean_where(-F.logsigmoid(-logits), negative)
        return (missed + wrong).mean()


class PartialDice(Loss):
    """`soft_dice` over the marked pixels only: marks of the class are 1, other marks 0.

    An image without marks costs exactly 0.
    """

    kind: Literal["partial_dice"] = "partial_dice"
    inputs: ClassVar[Inputs] = supervised("marks")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        positive = marked_as(batch.marks, outputs.logits.shape[1])
        marked = (batch.marks != NOT_MARKED).unsqueeze(1)
        return soft_dice(outputs.logits, positive, marked).mean()


class TargetCrossEntropy(Loss):
    """max(w) sum(w c) / sum(w), c = -t log p - (1 - t) log(1 - p) in nats, per image and class.

    t is the soft target of a pixel, made from marks and ratios, and w its weight, both in 0..1. The
    weighted mean over the pixels is multiplied by the largest weight: an image counts less if all
    of its targets are uncertain, but not if few of its pixels have a target. An image whose weights
    are all 0 contributes 0. At p = t what is left is the entropy of the target itself, which is 0
    only where t is 0 or 1.
    """

    kind: Literal["target_cross_entropy"] = "target_cross_entropy"
    inputs: ClassVar[Inputs] = supervised("target")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        logits = widened(outputs.logits)
        target, weight = batch.target.to(logits.dtype), batch.target_weight.to(logits.dtype)
        cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        total = weight.sum((-2, -1))
        mean = (weight * cost).sum((-2, -1)) / torch.where(total > 0, total, 1)
        return (weight.amax((-2, -1)) * mean).mean()


class TargetDice(Loss):
    """max(w) times `soft_dice` with the targets and weights of `TargetCrossEntropy`; in 0..1.

    It is 0 for a target of zeros and ones that is met. Dice draws a target between them to the
    nearer of the two; only the cross-entropy keeps it where it is.
    """

    kind: Literal["target_dice"] = "target_dice"
    inputs: ClassVar[Inputs] = supervised("target")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        cost = soft_dice(outputs.logits, batch.target, batch.target_weight)
        return (batch.target_weight.amax((-2, -1)).to(cost.dtype) * cost).mean()


class Entropy(Loss):
    """-[p log p + (1 - p) log(1 - p)] / log 2, mean over pixels and classes, in 0..1.

    classes: a weight for each class, in any unit, as only their proportion counts; none: all the
    same. Every map of zeros and ones is a minimum, the empty one too: it needs a loss on the size
    beside it. Source: Vu et al., "ADVENT: Adversarial Entropy Minimization for Domain Adaptation
    in Semantic Segmentation", CVPR 2019; with weights and sizes Bateson et al., "Source-free
    domain adaptation for image segmentation", Medical Image Analysis 2022.
    """

    kind: Literal["entropy"] = "entropy"
    classes: tuple[PositiveFloat, ...] = ()

    def begin(self, context: Context) -> Context:
        """Return the context; WssegError if the weights are of another number of classes."""
        classes = len(context.denominators)
        if len(self.classes) not in (0, classes):
            raise WssegError(
                f"entropy has {len(self.classes)} class weights, but there are {classes} classes: "
                f"give one for each, or none"
            )
        return context

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        logits = widened(outputs.logits)
        inside = torch.sigmoid(logits) * F.logsigmoid(logits)
        outside = torch.sigmoid(-logits) * F.logsigmoid(-logits)
        entropy = -(inside + outside).mean((0, 2, 3)) / math.log(2)
        if not self.classes:
            return entropy.mean()
        weights = entropy.new_tensor(self.classes)
        return (entropy * weights / weights.sum()).sum()


class Equivariance(Loss):
    """Mean of |p - p'|, in 0..1, with p' predicted from a moved view, and moved back to this frame.

    Both predictions receive gradients. Source: the equivariant regularisation of Wang et al.,
    "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic Segmentation",
    CVPR 2020.
    """

    kind: Literal["equivariance"] = "equivariance"
    inputs: ClassVar[Inputs] = unsupervised("moved")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        assert outputs.moved is not None, "the learner fills what the objective reads"
        moved = torch.sigmoid(widened(outputs.moved))
        return (torch.sigmoid(widened(outputs.logits)) - moved).abs().mean()


class Teacher(Loss):
    """Mean of (p - q)^2, in 0..1, with q the probability by the averaged network, without gradient.

    Source: Tarvainen, Valpola, "Mean teachers are better role models", NeurIPS 2017.
    """

    kind: Literal["teacher"] = "teacher"
    inputs: ClassVar[Inputs] = unsupervised("teacher")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        assert outputs.teacher is not None, "the learner fills what the objective reads"
        probabilities = torch.sigmoid(widened(outputs.logits))
        return (probabilities - outputs.teacher.detach().to(probabilities.dtype)).square().mean()


class Distillation(Loss):
    """T^2 KL(q_T || p_T) in nats, mean over pixels and classes; at least 0, and 0 only at p = q.

    p_T = sigmoid(z / T), and q_T is the probability q in 0..1 by the finished run that `distill`
    names, softened likewise, so that its logit, too, is divided by T > 0. T^2 makes up for
    gradients that shrink as 1 / T^2. Each class is a choice of its own between inside and outside;
    the teacher's entropy, a constant, is taken off the cross-entropy, so that a student that agrees
    costs nothing. q receives no gradient. temperature: T; above 1 uncertain pixels count for more.
    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """

    kind: Literal["distillation"] = "distillation"
    temperature: Annotated[float, Field(ge=0.1, le=100)] = 1.0
    inputs: ClassVar[Inputs] = unsupervised("soft")

    def __call__(self, outputs: Outputs, batch: Batch, context: Context) -> Float[Tensor, ""]:
        logits = widened(outputs.logits) / self.temperature
        target = softened(batch.soft.detach().to(logits.dtype), self.temperature)
        cross = F.binary_cross_entropy_with_logits(logits, target)
        entropy = (torch.special.entr(target) + torch.special.entr(1 - target)).mean()
        divergence: Tensor = cross - entropy
        return self.temperature * self.temperature * divergence


def softened(probability: Float[Tensor, "*s"], temperature: float) -> Float[Tensor, "*s"]:
    """q^(1/T) / (q^(1/T) + (1 - q)^(1/T)): sigmoid(logit(q) / T), defined at 0 and 1 as well."""
    inside, outside = probability ** (1 / temperature), (1 - probability) ** (1 / temperature)
    return inside / (inside + outside)


PixelLoss = (
    Confidence
    | Reconstruction
    | WeakMark
    | CrossEntropy
    | Dice
    | PartialCrossEntropy
    | PartialDice
    | TargetCrossEntropy
    | TargetDice
    | Entropy
    | Equivariance
    | Teacher
    | Distillation
)
