"""The targets that a training on a table would begin with, for a person to look at."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import RatioDefinition
from wsseg.train.case import Case, CaseTable
from wsseg.train.config import TrainConfig
from wsseg.train.prepare import choose_given, teaching_cases

SIDE = 256


def target_preview(
    table: CaseTable, ratios: tuple[RatioDefinition, ...]
) -> Callable[[Case], NDArray[np.float32]]:
    """A function from a training case to its first target (k, SIDE, SIDE), 0..1.

    A guess is as strong as it is certain. NaN where nothing is taught. How marks grow, and where
    unmarked classes may lie, is chosen from the table, as a training would.
    """
    config = TrainConfig(preset="wsseg", size=SIDE, ratios=ratios)
    given = choose_given(table, config)
    data = teaching_cases(table, config, given)
    places = {case.row: place for place, case in enumerate(data.cases)}

    def target(case: Case) -> NDArray[np.float32]:
        sample = data.item(places[case.row])
        weight = sample.target_weight.numpy()
        strength = np.where(sample.guessed.numpy()[:, None, None], weight, 1.0)
        shown = np.where(weight > 0, sample.target.numpy() * strength, np.nan)
        return shown.astype(np.float32)

    return target
