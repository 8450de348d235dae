"""A plane as it is stored and as it is shown: transposed, mirrored, or neither."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

PlaneName = Literal["axial", "coronal", "sagittal", ""]
"""The plane of the body that a slice is nearest to; "" where its source does not say."""

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class Turn:
    """How a stored plane (i, j) becomes (row, column); by default the two are only exchanged.

    transpose: rows run along j, else along i. The flips are those of the result. A picture or a
    DICOM image is stored as (row, column), so that AS_STORED leaves it alone.
    """

    transpose: bool = True
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, stored: NDArray[Value]) -> NDArray[Value]:
        """View a stored plane (i, j, ...) as (row, column, ...)."""
        plane = stored.swapaxes(0, 1) if self.transpose else stored
        return plane[_step(self.flip_rows), _step(self.flip_columns)]

    def undo(self, plane: NDArray[Value]) -> NDArray[Value]:
        """View a plane (row, column, ...) as it is stored: (i, j, ...)."""
        stored = plane[_step(self.flip_rows), _step(self.flip_columns)]
        return stored.swapaxes(0, 1) if self.transpose else stored

    def shape(self, stored: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of a stored plane of (i, j) pixels."""
        return stored[::-1] if self.transpose else stored

    @property
    def mirrors(self) -> bool:
        """Whether the shown plane, as (row, column), is a mirror image of the stored (i, j)."""
        return self.transpose ^ self.flip_rows ^ self.flip_columns

    def to_stored(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        """The (4, 4) map from (column, row, slice, 1) to stored (i, j, k, 1) indices.

        shape: (i, j) size of the stored plane.
        """
        row_axis, column_axis = (1, 0) if self.transpose else (0, 1)
        index = np.zeros((4, 4))
        index[2, 2] = index[3, 3] = 1
        for axis, from_axis, flipped in (
            (column_axis, 0, self.flip_columns),
            (row_axis, 1, self.flip_rows),
        ):
            index[axis, from_axis] = -1 if flipped else 1
            index[axis, 3] = shape[axis] - 1 if flipped else 0
        return index


AS_STORED = Turn(transpose=False)
"""The turn of a picture, whose rows and columns are shown as they are."""


def turn_stack(stack: NDArray[Value], turn: Turn) -> NDArray[Value]:
    """Slices (slice, i, j, ...) turned to (slice, row, column, ...), in the memory that they have.

    Each slice keeps its place in memory, so that a turned scan takes no more of it; what was given
    must not be used any more.
    """
    if turn == AS_STORED:
        return stack
    stack = np.require(stack, requirements=("C", "W"))
    count, size_i, size_j, *further = stack.shape
    turned = stack.reshape(count, *turn.shape((size_i, size_j)), *further)
    for stored, shown in zip(stack, turned, strict=True):
        shown[...] = turn.apply(stored).copy()
    return turned


def _step(flipped: bool) -> slice:
    return slice(None, None, -1 if flipped else 1)
