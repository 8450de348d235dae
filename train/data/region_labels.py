"""Region labels: what a case states of its regions besides ratio, marks and mask, as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from wsseg.train.cases.schema import Case

UNKNOWN = float("nan")
NUMBERS = 11
"""Numbers of one class in `RegionLabels`."""


@dataclass(frozen=True)
class RegionLabels:
    """Bounds, tags, boxes, centroids and spreads of the k classes of one image, float32.

    The fields are those of `Batch`: bounds (low, high) of the ratio; present 1 or 0; box (top,
    left, bottom, right), centroid (row, column) and spread (standard deviation of the rows, of the
    columns) as shares of the frame's sides, rows by its height and columns by its width. Unknown
    numbers are NaN. The centre of pixel (r, c) of an image of h rows and w columns is at
    ((r + 0.5) / h, (c + 0.5) / w).
    """

    bounds: Float[Tensor, "k 2"]
    present: Float[Tensor, " k"]
    box: Float[Tensor, "k 4"]
    centroid: Float[Tensor, "k 2"]
    spread: Float[Tensor, "k 2"]

    @property
    def upright(self) -> bool:
        """Whether a rotation by other than quarter turns would lose a box or a spread."""
        return not bool(self.box.isnan().all() and self.spread.isnan().all())

    @property
    def free(self) -> "RegionLabels":
        """The labels without boxes and spreads, for losses that use neither."""
        return replace(
            self,
            box=torch.full_like(self.box, UNKNOWN),
            spread=torch.full_like(self.spread, UNKNOWN),
        )


def unknown_region_labels(k: int) -> RegionLabels:
    """Return the labels of an image of which nothing is known, for k classes."""
    return _from_numbers([(UNKNOWN,) * NUMBERS] * k)


def case_region_labels(case: Case, shape: tuple[int, int]) -> RegionLabels:
    """Return the region labels of a case, whose image has this shape (rows, columns).

    A single bound leaves the other one unknown.
    """
    numbers = []
    for region in case.regions:
        edges = region.box or (UNKNOWN,) * 4
        row, column = region.centroid or (UNKNOWN, UNKNOWN)
        spread = region.spread or (UNKNOWN, UNKNOWN)
        lengths = (*edges, row + 0.5, column + 0.5, *spread)
        stated = (region.low, region.high, region.present)
        numbers.append(
            (
                *(UNKNOWN if value is None else float(value) for value in stated),
                *(pixels / side for pixels, side in zip(lengths, shape * 4, strict=True)),
            )
        )
    return _from_numbers(numbers)


def _from_numbers(numbers: Sequence[Sequence[float]]) -> RegionLabels:
    """Return the labels of classes, each given by its numbers in the order of the fields."""
    table = torch.tensor(numbers, dtype=torch.float32).reshape(len(numbers), NUMBERS)
    return RegionLabels(
        bounds=table[:, :2],
        present=table[:, 2],
        box=table[:, 3:7],
        centroid=table[:, 7:9],
        spread=table[:, 9:],
    )
