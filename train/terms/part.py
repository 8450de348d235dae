"""A loss term as the objective sees it: a function of the outputs, and what that function reads."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from wsseg.train.cases.schema import Denominator
from wsseg.train.data.batch import Batch, Outputs
from wsseg.train.terms.prior import MovingMean

Loss = Callable[[Outputs, Batch, float], Tensor]
"""The unweighted cost of a batch; the number is the progress of the run, 0 to 1."""


@dataclass(frozen=True)
class Given:
    """What all terms of a run know. prior: the ratio of each class over a data set, NaN unknown."""

    denominators: tuple[Denominator, ...]
    prior: tuple[float, ...] = ()


@dataclass(frozen=True)
class Part:
    """A loss and what it reads.

    reads: fields of `Batch` and `Outputs`, besides logits, image and index; `mask` and `target` go
    with `has_mask` and `target_weight`. labels: fields of `Batch` any one of which, known for a
    case, lets the term teach; none: it teaches from any picture. moving: what it remembers.
    """

    loss: Loss
    reads: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()
    moving: MovingMean | None = None


def taught(loss: Loss, *labels: str) -> Part:
    """A term that reads these labels, and teaches where one of them is known."""
    return Part(loss, frozenset(labels), frozenset(labels))


def untaught(loss: Loss, *reads: str) -> Part:
    """A term that teaches from any picture."""
    return Part(loss, frozenset(reads))
