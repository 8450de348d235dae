"""The targets that a training on a table would begin with, for a person to look at."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import RatioDefinition
from wsseg.train.case import Case, CaseTable
from wsseg.train.config import TrainConfig
from wsseg.train.dataset import CaseDataset
from wsseg.train.prepare import build_front, choose_given

SIDE = 256


def target_preview(
    table: CaseTable, ratios: tuple[RatioDefinition, ...]
) -> Callable[[Case], NDArray[np.float32]]:
    """A function from a training case to its first target (k, SIDE, SIDE), 0..1.

    NaN where nothing is taught. How marks grow is chosen from the table, as a training would.
    """
    config = TrainConfig(preset="wsseg", size=SIDE, ratios=ratios)
    given = choose_given(table, config)
    front = build_front(config, given)

    def target(case: Case) -> NDArray[np.float32]:
        data = CaseDataset([case], table.classes, ratios, front, growth=given["growth"])
        sample = data.item(0)
        taught: NDArray[np.float32] = sample.target.numpy()
        return np.where(sample.target_weight.numpy() > 0, taught, np.nan).astype(np.float32)

    return target
