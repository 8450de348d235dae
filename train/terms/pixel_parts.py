"""From settings to loss: the terms that look at pixels one by one, or at neighbours."""

from collections.abc import Callable

from torch import Tensor

from wsseg.imaging.errors import WssegError
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.term_config import (
    Confidence,
    CrossEntropy,
    Dice,
    Distillation,
    Entropy,
    Equivariance,
    GatedCrf,
    PartialCrossEntropy,
    PartialDice,
    Reconstruction,
    TargetCrossEntropy,
    TargetDice,
    Teacher,
    WeakMark,
)
from wsseg.train.term_settings import TermSettings
from wsseg.train.terms.consistency import equivariance_loss, teacher_loss
from wsseg.train.terms.distillation import distillation_loss
from wsseg.train.terms.entropy import entropy_loss
from wsseg.train.terms.gated_crf import Kernel, gated_crf_loss
from wsseg.train.terms.paper import confidence_loss, reconstruction_loss, weak_mark_loss
from wsseg.train.terms.part import Given, Part, taught, untaught
from wsseg.train.terms.partial import partial_cross_entropy_loss, partial_dice_loss
from wsseg.train.terms.supervised import cross_entropy_loss, dice_loss
from wsseg.train.terms.targets import target_cross_entropy_loss, target_dice_loss


def _confidence(settings: Confidence, given: Given) -> Part:
    return untaught(lambda outputs, batch, progress: confidence_loss(outputs.logits))


def _reconstruction(settings: Reconstruction, given: Given) -> Part:
    return untaught(
        lambda outputs, batch, progress: reconstruction_loss(outputs.reconstruction, batch.image),
        "reconstruction",
    )


def _weak_mark(settings: WeakMark, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: weak_mark_loss(
            outputs.logits, batch.marks, average=settings.average
        ),
        "marks",
    )


def _cross_entropy(settings: CrossEntropy, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: cross_entropy_loss(
            outputs.logits, batch.mask, batch.has_mask
        ),
        "mask",
    )


def _dice(settings: Dice, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: dice_loss(outputs.logits, batch.mask, batch.has_mask),
        "mask",
    )


def _partial_cross_entropy(settings: PartialCrossEntropy, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: partial_cross_entropy_loss(outputs.logits, batch.marks),
        "marks",
    )


def _partial_dice(settings: PartialDice, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: partial_dice_loss(outputs.logits, batch.marks), "marks"
    )


def _target_cross_entropy(settings: TargetCrossEntropy, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: target_cross_entropy_loss(
            outputs.logits, batch.target, batch.target_weight
        ),
        "target",
    )


def _target_dice(settings: TargetDice, given: Given) -> Part:
    return taught(
        lambda outputs, batch, progress: target_dice_loss(
            outputs.logits, batch.target, batch.target_weight
        ),
        "target",
    )


def _entropy(settings: Entropy, given: Given) -> Part:
    classes = len(given.denominators)
    if len(settings.classes) not in (0, classes):
        raise WssegError(
            f"entropy has {len(settings.classes)} class weights, but there are {classes} classes: "
            f"give one for each, or none"
        )
    return untaught(lambda outputs, batch, progress: entropy_loss(outputs.logits, settings.classes))


def _gated_crf(settings: GatedCrf, given: Given) -> Part:
    kernel = Kernel(settings.cells, settings.radius, settings.position, settings.intensity)
    return untaught(
        lambda outputs, batch, progress: gated_crf_loss(
            outputs.logits, batch.image, batch.marks, kernel
        ),
        "marks",
    )


def _equivariance(settings: Equivariance, given: Given) -> Part:
    def loss(outputs: Outputs, batch: Batch, progress: float) -> Tensor:
        if outputs.moved is None:
            raise AssertionError("the learner fills what the objective reads")
        return equivariance_loss(outputs.logits, outputs.moved)

    return untaught(loss, "moved")


def _teacher(settings: Teacher, given: Given) -> Part:
    def loss(outputs: Outputs, batch: Batch, progress: float) -> Tensor:
        if outputs.teacher is None:
            raise AssertionError("the learner fills what the objective reads")
        return teacher_loss(outputs.logits, outputs.teacher)

    return untaught(loss, "teacher")


def _distillation(settings: Distillation, given: Given) -> Part:
    return untaught(
        lambda outputs, batch, progress: distillation_loss(
            outputs.logits, batch.soft, temperature=settings.temperature
        ),
        "soft",
    )


PIXEL_PARTS: dict[type[TermSettings], Callable[..., Part]] = {
    Confidence: _confidence,
    Reconstruction: _reconstruction,
    WeakMark: _weak_mark,
    CrossEntropy: _cross_entropy,
    Dice: _dice,
    PartialCrossEntropy: _partial_cross_entropy,
    PartialDice: _partial_dice,
    TargetCrossEntropy: _target_cross_entropy,
    TargetDice: _target_dice,
    Entropy: _entropy,
    GatedCrf: _gated_crf,
    Equivariance: _equivariance,
    Teacher: _teacher,
    Distillation: _distillation,
}
