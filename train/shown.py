"""Cases as their images are shown: a table counts rows and columns of DICOM images as stored."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.slices import read_grid
from wsseg.imaging.turn import AS_STORED, Turn
from wsseg.train.case import Box, Case, Region

Number = TypeVar("Number", int, float)


def as_counted(case: Case, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A case's labels (row, column), read in display order, by the rows and columns of its table.

    Raises ReadError for an image whose header cannot be read.
    """
    return read_grid(case.image, case.volume).turn.undo(labels)


def shown(case: Case) -> Case:
    """A checked case whose points and regions count rows and columns of the image as shown.

    Raises ReadError for an image whose header cannot be read.
    """
    if not case.points and all(region.placeless for region in case.regions):
        return case
    grid = read_grid(case.image, case.volume)
    if grid.turn == AS_STORED:
        return case
    place = _Counted(grid.turn, grid.shape)
    return replace(
        case,
        points=tuple((*place.point((row, column)), number) for row, column, number in case.points),
        regions=tuple(place.region(region) for region in case.regions),
    )


class _Counted:
    """What becomes of places when a picture is turned. shape: rows and columns as shown."""

    def __init__(self, turn: Turn, shape: tuple[int, int]) -> None:
        self._turn = turn
        self._last = shape[0] - 1, shape[1] - 1

    def point(self, point: tuple[Number, Number]) -> tuple[Number, Number]:
        """Row and column, whole numbers being centres of pixels."""
        row, column = point[::-1] if self._turn.transpose else point
        return (
            self._last[0] - row if self._turn.flip_rows else row,
            self._last[1] - column if self._turn.flip_columns else column,
        )

    def box(self, box: Box) -> Box:
        one = self.point((box.top, box.left))
        other = self.point((box.bottom - 1, box.right - 1))
        (top, bottom), (left, right) = (sorted(ends) for ends in zip(one, other, strict=True))
        return Box(top, left, bottom + 1, right + 1)

    def region(self, region: Region) -> Region:
        spread = region.spread
        return replace(
            region,
            box=region.box and self.box(region.box),
            extremes=tuple(map(self.point, region.extremes)),
            centroid=region.centroid and self.point(region.centroid),
            spread=spread[::-1] if spread and self._turn.transpose else spread,
        )
