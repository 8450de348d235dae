"""What is minimised: a weighted sum of losses, built from the settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from wsseg.imaging.definitions import RatioDefinition
from wsseg.imaging.errors import WssegError
from wsseg.train.cases.schema import class_denominators
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.losses.base import Context, Loss, widened


@dataclass(frozen=True)
class Term:
    """A term of the objective: a loss, and what it is told about the run."""

    loss: Loss
    context: Context

    @property
    def name(self) -> str:
        """The kind of its loss, which an objective has once."""
        return self.loss.kind


@dataclass(frozen=True)
class Objective:
    """Weighted sum of terms; the weighted parts come back, detached, for the log.

    steps: optimiser steps of the whole run, which the schedules of the losses are fractions of.
    """

    terms: tuple[Term, ...]
    steps: int

    def __call__(
        self, outputs: Outputs, batch: Batch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum to minimise (a scalar with a gradient), and its parts by name.

        step: the step of the optimiser, from 0. A loss whose weight is 0 is not computed.
        """
        progress = min(step / self.steps, 1.0)
        nothing = self._nothing(outputs)
        parts = {}
        for term in self.terms:
            weight = term.loss.weight_at(progress)
            context = replace(term.context, progress=progress)
            cost = term.loss(outputs, batch, context) if weight else nothing
            parts[term.name] = weight * cost
        total = sum(parts.values(), start=nothing)
        return total, {name: part.detach() for name, part in parts.items()}

    @property
    def needs(self) -> frozenset[str]:
        """The fields of `Batch` and `Outputs` that a loss reads, see `Inputs`."""
        return frozenset[str]().union(*(term.loss.reads for term in self.terms))

    def state(self) -> dict[str, Tensor]:
        """Return what the terms carry from step to step, on the CPU, by term and name."""
        return {
            f"{term.name}.{key}": value
            for term in self.terms
            if (moving := term.context.moving)
            for key, value in moving.state().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned; WssegError if it is of other terms."""
        own = self.state().keys()
        if own != state.keys():
            raise WssegError(
                f"the state is of other loss terms: it has {', '.join(sorted(state)) or 'nothing'}"
                f" instead of {', '.join(sorted(own)) or 'nothing'}; train again with another --out"
            )
        for term in self.terms:
            if moving := term.context.moving:
                moving.restore({key: state[f"{term.name}.{key}"] for key in moving.state()})

    def _nothing(self, outputs: Outputs) -> Tensor:
        """Return 0, with a gradient of 0 for every output that the losses train.

        So a step in which a term rests still gives every parameter a gradient, which distributed
        training waits for.
        """
        nothing = outputs.logits.new_zeros(()) + widened(outputs.logits).sum() * 0
        if "reconstruction" in self.needs:
            nothing = nothing + widened(outputs.reconstruction).sum() * 0
        return nothing


def build_objective(
    losses: Sequence[Loss],
    classes: tuple[str, ...],
    ratios: tuple[RatioDefinition, ...],
    *,
    steps: int,
    prior: tuple[float, ...] = (),
) -> Objective:
    """Build the weighted sum of these losses for these classes.

    steps: optimiser steps of the whole run. prior: mean known ratio of each class in training, NaN
    where unknown. Raises WssegError for two losses of one kind, for a loss that does not fit the
    classes, and for a ratio that names an unknown class.
    """
    kinds = [loss.kind for loss in losses]
    repeated = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if repeated:
        raise WssegError(
            f"terms of the same kind: {', '.join(repeated)}; give each kind once, with the weight "
            f"that it should have"
        )
    context = Context(class_denominators(classes, ratios), prior)
    return Objective(tuple(Term(loss, loss.begin(context)) for loss in losses), steps)
