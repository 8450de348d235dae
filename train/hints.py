"""What a case says of its regions besides ratio, marks and mask, as tensors that can be moved."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wsseg.train.case import Case, Region
from wsseg.train.change import Change

UNKNOWN = float("nan")
NUMBERS = 11
"""Of one class in `Hints`."""
CENTRE = 0.5
"""Row and column of the frame's centre, as shares of its sides."""


@dataclass(frozen=True)
class Hints:
    """Bounds, tags, boxes, centroids and spreads of one picture's k classes, float32.

    The fields are those of `Batch`: bounds (low, high) of the ratio; present 1 or 0; box (top,
    left, bottom, right), centroid (row, column) and spread (standard deviation of the rows, of the
    columns) as shares of the frame's sides, rows by its height and columns by its width. NaN
    stands for each number that is not known. The centre of pixel (r, c) of a picture of h rows and
    w columns lies at ((r + 0.5) / h, (c + 0.5) / w).
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
    def free(self) -> "Hints":
        """The hints without boxes and spreads, for terms that read neither."""
        return replace(
            self,
            box=torch.full_like(self.box, UNKNOWN),
            spread=torch.full_like(self.spread, UNKNOWN),
        )

    def moved(self, change: Change, of_image: Bool[Tensor, " k"]) -> "Hints":
        """The hints of the picture that `augment.apply` makes of this one's, which is a square.

        Exact for flips, quarter turns and scales. After a free rotation a box and a spread are
        unknown, because the rotated ones depend on the region's shape: see `upright`. of_image:
        which ratios are shares of the whole image; their bounds shrink with the picture's area.
        """
        hints = self
        if change.flip_horizontal:
            hints = hints._flipped(axis=1)
        if change.flip_vertical:
            hints = hints._flipped(axis=0)
        for _ in range(change.quarter_turns % 4):
            hints = hints._transposed()._flipped(axis=0)
        return hints._scaled(change.scale, of_image)._rotated(change.degrees)

    def _flipped(self, axis: int) -> "Hints":
        """Mirrored along the rows (axis 0) or the columns (axis 1)."""
        box, centroid = self.box.clone(), self.centroid.clone()
        box[:, axis], box[:, axis + 2] = 1 - self.box[:, axis + 2], 1 - self.box[:, axis]
        centroid[:, axis] = 1 - self.centroid[:, axis]
        return replace(self, box=box, centroid=centroid)

    def _transposed(self) -> "Hints":
        """With rows for columns; a quarter turn is this and a flip of the new rows."""
        return replace(
            self,
            box=self.box[:, [1, 0, 3, 2]],
            centroid=self.centroid.flip(1),
            spread=self.spread.flip(1),
        )

    def _scaled(self, scale: float, of_image: Bool[Tensor, " k"]) -> "Hints":
        """Shrunk about the centre of the frame, which keeps its size."""
        return replace(
            self,
            bounds=torch.where(of_image[:, None], self.bounds * scale**2, self.bounds),
            box=(self.box - CENTRE) * scale + CENTRE,
            centroid=(self.centroid - CENTRE) * scale + CENTRE,
            spread=self.spread * scale,
        )

    def _rotated(self, degrees: float) -> "Hints":
        """Rotated clockwise about the centre of the frame."""
        if degrees == 0:
            return self
        # Rows point down, so that clockwise is from columns to rows.
        angle = torch.deg2rad(torch.tensor(degrees))
        row, column = (self.centroid - CENTRE).unbind(1)
        turned = (
            angle.sin() * column + angle.cos() * row,
            angle.cos() * column - angle.sin() * row,
        )
        return replace(
            self,
            box=torch.full_like(self.box, UNKNOWN),
            centroid=torch.stack(turned, 1) + CENTRE,
            spread=torch.full_like(self.spread, UNKNOWN),
        )


def empty_hints(k: int) -> Hints:
    """The hints of a picture of which nothing is known, for k classes."""
    return _hints([(UNKNOWN,) * NUMBERS] * k)


def case_hints(case: Case, shape: tuple[int, int]) -> Hints:
    """What a case's row says of its regions. shape: rows and columns of its picture.

    A single bound leaves the other one unknown.
    """
    return _hints([_numbers(region, shape) for region in case.regions])


def _numbers(region: Region, shape: tuple[int, int]) -> tuple[float, ...]:
    """All that is said of one class, in the order of the fields of `Hints`."""
    box, centroid, spread = region.box, region.centroid, region.spread
    edges = (UNKNOWN,) * 4 if box is None else box
    centre = (UNKNOWN,) * 2 if centroid is None else (centroid[0] + 0.5, centroid[1] + 0.5)
    deviations = (UNKNOWN,) * 2 if spread is None else spread
    shares = zip((*edges, *centre, *deviations), shape * 4, strict=True)
    return (
        UNKNOWN if region.low is None else region.low,
        UNKNOWN if region.high is None else region.high,
        UNKNOWN if region.present is None else float(region.present),
        *(pixels / side for pixels, side in shares),
    )


def _hints(table: Sequence[Sequence[float]]) -> Hints:
    """Hints of a row of numbers a class, in the order of the fields."""
    numbers = torch.tensor(table, dtype=torch.float32).reshape(len(table), NUMBERS)
    return Hints(
        bounds=numbers[:, :2],
        present=numbers[:, 2],
        box=numbers[:, 3:7],
        centroid=numbers[:, 7:9],
        spread=numbers[:, 9:],
    )
