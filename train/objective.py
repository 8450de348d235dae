"""What is minimised: a weighted sum of named loss terms, built from the settings."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from wsseg.imaging.definitions import RatioDefinition
from wsseg.imaging.errors import WssegError
from wsseg.train.cases.schema import class_denominators
from wsseg.train.config import PRESETS, TrainConfig
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.term_settings import TermSettings
from wsseg.train.terms.areas import widened
from wsseg.train.terms.part import Given, Part
from wsseg.train.terms.pixel_parts import PIXEL_PARTS
from wsseg.train.terms.region_parts import REGION_PARTS

PARTS: dict[type[TermSettings], Callable[..., Part]] = PIXEL_PARTS | REGION_PARTS


@dataclass(frozen=True)
class Term:
    """One named part of the objective. weight: of the progress of the run, 0 to 1."""

    name: str
    part: Part
    weight: Callable[[float], float]


@dataclass(frozen=True)
class Objective:
    """Weighted sum of terms; the weighted parts come back, detached, for the log.

    steps: optimiser steps of the whole run, which the schedules of the terms are fractions of.
    """

    terms: tuple[Term, ...]
    steps: int

    def __call__(
        self, outputs: Outputs, batch: Batch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum to minimise (a scalar with a gradient), and its parts by name.

        step: of the optimiser, counted from 0. A term whose weight is 0 is not computed.
        """
        progress = min(step / self.steps, 1.0)
        nothing = self._nothing(outputs)
        parts = {}
        for term in self.terms:
            weight = term.weight(progress)
            cost = term.part.loss(outputs, batch, progress) if weight else nothing
            parts[term.name] = weight * cost
        total = sum(parts.values(), start=nothing)
        return total, {name: part.detach() for name, part in parts.items()}

    @property
    def needs(self) -> frozenset[str]:
        """The fields of `Batch` and `Outputs` that a term reads, see `Part`."""
        return frozenset[str]().union(*(term.part.reads for term in self.terms))

    def state(self) -> dict[str, Tensor]:
        """What the terms remember from step to step, on the CPU, by term and name."""
        return {
            f"{term.name}.{key}": value
            for term in self.terms
            if term.part.moving
            for key, value in term.part.moving.state().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; WssegError if it is of other terms."""
        own = self.state().keys()
        if own != state.keys():
            raise WssegError(
                f"the state is of other loss terms: it has {', '.join(sorted(state)) or 'nothing'}"
                f" instead of {', '.join(sorted(own)) or 'nothing'}; train again with another --out"
            )
        for term in self.terms:
            if term.part.moving:
                start = f"{term.name}."
                kept = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
                term.part.moving.restore(kept)

    def _nothing(self, outputs: Outputs) -> Tensor:
        """0, with a gradient of 0 for all that the terms teach.

        So that a step in which a term rests still gives every parameter a gradient, which
        distributed training waits for.
        """
        answers = [outputs.logits]
        if "reconstruction" in self.needs:
            answers.append(outputs.reconstruction)
        nothing = outputs.logits.new_zeros(())
        for answer in answers:
            nothing = nothing + widened(answer).sum() * 0
        return nothing


def build_objective(
    config: TrainConfig,
    classes: tuple[str, ...],
    ratios: tuple[RatioDefinition, ...],
    *,
    steps: int,
    prior: tuple[float, ...] = (),
) -> Objective:
    """The objective that the settings name: `terms` if there are any, else those of `preset`.

    steps: optimiser steps of the whole run. prior: mean known ratio of each class in training, NaN
    where unknown, for a `ratio_prior` that states none. Raises WssegError for an unknown preset,
    for two terms of one kind, for a term that does not fit the classes, and for a ratio that names
    an unknown class.
    """
    _require_preset(config)
    chosen = config.loss_terms
    kinds = [term.kind for term in chosen]
    repeated = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if repeated:
        raise WssegError(
            f"terms of the same kind: {', '.join(repeated)}; give each kind once, with the weight "
            f"that it should have"
        )
    given = Given(class_denominators(classes, ratios), prior)
    terms = (Term(t.kind, PARTS[type(t)](t, given), schedule(t)) for t in chosen)
    return Objective(tuple(terms), steps)


def schedule(settings: TermSettings) -> Callable[[float], float]:
    """The weight of a term as a function of the progress of the run, 0 to 1."""

    def weight(progress: float) -> float:
        over = settings.end <= progress and settings.end < 1
        if progress < settings.start or over:
            return 0.0
        risen = (progress - settings.start) / settings.ramp if settings.ramp else 1.0
        return settings.weight * min(risen, 1.0)

    return weight


def _require_preset(config: TrainConfig) -> None:
    if config.terms or config.preset in PRESETS:
        return
    nearest = difflib.get_close_matches(config.preset, PRESETS, n=1, cutoff=0.0)[0]
    raise WssegError(
        f"unknown preset {config.preset!r}: the presets are {', '.join(PRESETS)}; "
        f"did you mean {nearest}?"
    )
