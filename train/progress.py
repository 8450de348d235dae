"""What a running training tells whoever watches it."""

from collections.abc import Mapping
from dataclasses import dataclass

from wsseg.train.select import Choice


@dataclass(frozen=True)
class StepReport:
    """One optimiser step is done. epoch and step count from 1; total is the objective's value."""

    epoch: int
    epochs: int
    step: int
    steps: int
    total: float


@dataclass(frozen=True)
class EpochReport:
    """One epoch is done. epoch counts from 1.

    parts: every weighted part of the objective and their sum `total`, means over the epoch's
    batches. figures: of the validation cases, empty where this epoch was not validated.
    seconds: training and validation together. choice: the epoch whose weights are kept so far.
    """

    epoch: int
    epochs: int
    parts: Mapping[str, float]
    figures: Mapping[str, float]
    learning_rate: float
    seconds: float
    choice: Choice
