"""What is minimised: a weighted sum of named loss terms, built from the settings."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from wsseg.imaging.definitions import Frozen, RatioDefinition
from wsseg.imaging.errors import WssegError
from wsseg.train.batch import Batch, Outputs
from wsseg.train.config import (
    PRESETS,
    Confidence,
    CrossEntropy,
    Dice,
    Reconstruction,
    Size,
    TermConfig,
    TrainConfig,
    WeakMark,
)
from wsseg.train.losses import confidence_loss, reconstruction_loss, size_loss, weak_mark_loss
from wsseg.train.ratios import Denominator, class_denominators
from wsseg.train.supervised import cross_entropy_loss, dice_loss

Loss = Callable[[Outputs, Batch], Tensor]


@dataclass(frozen=True)
class Term:
    """One named part of the objective. weight: of the optimiser step, counted from 0."""

    name: str
    loss: Loss
    weight: Callable[[int], float]


@dataclass(frozen=True)
class Objective:
    """Weighted sum of terms; the weighted parts come back, detached, for the log."""

    terms: tuple[Term, ...]

    def __call__(
        self, outputs: Outputs, batch: Batch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum to minimise (a scalar with a gradient), and its parts by name."""
        parts = {term.name: term.weight(step) * term.loss(outputs, batch) for term in self.terms}
        total = sum(parts.values(), start=outputs.logits.new_zeros(()))
        return total, {name: part.detach() for name, part in parts.items()}


def build_objective(
    config: TrainConfig, classes: tuple[str, ...], ratios: tuple[RatioDefinition, ...]
) -> Objective:
    """The objective that the settings name: `terms` if there are any, else those of `preset`.

    Raises WssegError for an unknown preset, for two terms of one kind, and for a ratio that names
    an unknown class.
    """
    chosen = config.terms or _preset(config.preset)
    kinds = [term.kind for term in chosen]
    repeated = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if repeated:
        raise WssegError(
            f"terms of the same kind: {', '.join(repeated)}; give each kind once, with the weight "
            f"that it should have"
        )
    denominators = class_denominators(classes, ratios)
    return Objective(tuple(_term(settings, denominators) for settings in chosen))


def _preset(name: str) -> tuple[TermConfig, ...]:
    if name in PRESETS:
        return PRESETS[name]
    nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
    raise WssegError(
        f"unknown preset {name!r}: the presets are {', '.join(PRESETS)}; did you mean {nearest}?"
    )


def _term(settings: TermConfig, denominators: tuple[Denominator, ...]) -> Term:
    build = BUILDERS[type(settings)]
    return Term(settings.kind, build(settings, denominators), lambda step: settings.weight)


def _confidence(settings: Confidence, denominators: tuple[Denominator, ...]) -> Loss:
    return lambda outputs, batch: confidence_loss(outputs.logits)


def _reconstruction(settings: Reconstruction, denominators: tuple[Denominator, ...]) -> Loss:
    return lambda outputs, batch: reconstruction_loss(outputs.reconstruction, batch.image)


def _weak_mark(settings: WeakMark, denominators: tuple[Denominator, ...]) -> Loss:
    return lambda outputs, batch: weak_mark_loss(
        outputs.logits, batch.marks, average=settings.average
    )


def _size(settings: Size, denominators: tuple[Denominator, ...]) -> Loss:
    return lambda outputs, batch: size_loss(outputs.logits, batch.ratio, denominators)


def _cross_entropy(settings: CrossEntropy, denominators: tuple[Denominator, ...]) -> Loss:
    return lambda outputs, batch: cross_entropy_loss(outputs.logits, batch.mask, batch.has_mask)


def _dice(settings: Dice, denominators: tuple[Denominator, ...]) -> Loss:
    return lambda outputs, batch: dice_loss(outputs.logits, batch.mask, batch.has_mask)


BUILDERS: dict[type[Frozen], Callable[..., Loss]] = {
    Confidence: _confidence,
    Reconstruction: _reconstruction,
    WeakMark: _weak_mark,
    Size: _size,
    CrossEntropy: _cross_entropy,
    Dice: _dice,
}
