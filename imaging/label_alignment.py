"""Label maps on the pixels of the image that they are for, whichever way each of them is stored."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.dicom.segmentation import (
    is_segmentation,
    segment_labels,
    slice_place,
    whole_step,
)
from wsseg.imaging.errors import ReadError, reading
from wsseg.imaging.label_values import PLAIN, Numbering
from wsseg.imaging.picture_page import WHITE
from wsseg.imaging.reading import (
    GRID_TOLERANCE,
    Grid,
    grid_difference,
    read_grid,
    read_label_slice,
)

Labels = NDArray[np.uint8]

# Steps across and down of labels that are stored in slices as the image is.
_SIDE_BY_SIDE = (1, 0, 0, 0, 1, 0)

Read = Callable[[int], Labels]
"""Reads the slice of a label file that has this number."""


def read_labels_for(
    image: Path,
    path: Path,
    *,
    slice_index: int = 0,
    volume: int = 0,
    numbering: Numbering = PLAIN,
    background: int = WHITE,
) -> Labels:
    """The labels (row, column) of one slice of an image, in the image's display order.

    path: the label file. One that says where it lies in the patient is put on the slice by that,
    wherever it has a voxel for every pixel; else the labels of a file with one slice belong to
    whichever slice of the image is asked for. A picture, and any file that does not say how it
    lies, counts rows and columns as a DICOM image is stored, and is turned as that is. A DICOM
    segmentation is put on a DICOM image by segment and place, see `segment_labels`.
    numbering, background: as for `read_label_slice`.

    Raises ReadError for labels that cannot be read, and for those that lie elsewhere than a DICOM
    image does.
    """
    grid = read_grid(image, volume)
    with reading(path.name):
        if is_segmentation(path):
            if grid.kind != "dicom":
                raise ReadError(
                    "labels_elsewhere",
                    f"{path.name} is a DICOM segmentation, and the image is no DICOM: convert it "
                    "to a label map of the image's own format",
                )
            place = slice_place(image, slice_index, volume)
            found = segment_labels(path, place, numbering, background=background)
            return grid.turn.apply(found)
    labels = _label_grid(path, volume)
    if other := _other_volumes(grid, labels, path):
        raise ReadError("volumes_differ", other)

    def read(index: int) -> Labels:
        return read_label_slice(
            path, slice_index=index, volume=volume, numbering=numbering, background=background
        )

    section = _section(grid, labels, slice_index)
    if section is not None:
        return _cut(read, section)
    if grid.kind == "dicom" and grid.placed and labels.placed:
        raise ReadError("labels_elsewhere", f"{path.name} {_elsewhere(grid, labels, slice_index)}")
    found = read(slice_index if labels.slices > 1 else 0)
    return found if labels.plane else grid.turn.apply(found)


def _label_grid(path: Path, volume: int) -> Grid:
    """The grid of the labels of a volume, which labels of one volume serve whichever it is."""
    grid = read_grid(path)
    return read_grid(path, volume) if grid.volumes > 1 else grid


def _other_volumes(grid: Grid, labels: Grid, path: Path) -> str:
    """What is wrong with labels in other volumes than the image's, as of one class each."""
    if labels.volumes in (1, grid.volumes):
        return ""
    return (
        f"{path.name} has {labels.volumes} volumes and the image {grid.volumes}: save one label "
        "map of class numbers, or one for each volume of the image"
    )


def label_grid_difference(image: Path, path: Path, *, slice_index: int = 0, volume: int = 0) -> str:
    """Why an image's labels are not on its grid, in words; "" where they are.

    A label file of one slice fits every slice of its size. Raises ReadError.
    """
    with reading(path.name):
        if is_segmentation(path):
            return ""  # put in its place, or refused, as it is read
    grid, labels = read_grid(image, volume), _label_grid(path, volume)
    if other := _other_volumes(grid, labels, path):
        return other
    if labels.slices == 1 < grid.slices or _section(grid, labels, slice_index) is not None:
        return ""
    return grid_difference(image, path, volume)


@dataclass(frozen=True)
class _Section:
    """Where a slice's pixels are in a label map: indices (column, row, slice) of the first pixel
    and steps to the next column and row; shape: of the slice."""

    first: NDArray[np.intp]
    across: NDArray[np.intp]
    down: NDArray[np.intp]
    shape: tuple[int, int]

    def indices(self) -> NDArray[np.intp]:
        """(3, row, column): column, row and slice of each pixel in the label map."""
        rows, columns = np.indices(self.shape)
        first, across, down = (each[:, None, None] for each in (self.first, self.across, self.down))
        places: NDArray[np.intp] = first + across * columns + down * rows
        return places


def _corners(grid: Grid, labels: Grid, slice_index: int) -> NDArray[np.float64] | None:
    """Places (3, 4) of a slice's corners among the labels' (column, row, slice) indices.

    The first pixel, the last of its row, the last of its column, the last; None where one of the
    two does not say how it lies.
    """
    one, other = grid.geometry.affine, labels.geometry.affine
    if one is None or other is None:
        return None
    rows, columns = grid.shape
    ends = [(0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)]
    corners = np.array([(column, row, slice_index, 1) for column, row in ends], np.float64).T
    places: NDArray[np.float64] = (np.linalg.inv(other) @ one @ corners)[:3]
    return places


def _section(grid: Grid, labels: Grid, slice_index: int) -> _Section | None:
    """The voxels of a label map that are the pixels of a slice; None where they are not."""
    found = _corners(grid, labels, slice_index)
    if found is None:
        return None
    nearest = np.rint(found).astype(np.intp)
    size = np.array([*labels.shape[::-1], labels.slices])[:, None]
    if np.abs(found - nearest).max() > GRID_TOLERANCE or (nearest < 0).any():
        return None
    first, right, below, _ = nearest.T
    across, down = (
        whole_step(end - first, pixels)
        for end, pixels in zip((right, below), grid.shape[::-1], strict=True)
    )
    if (nearest >= size).any() or across is None or down is None:
        return None
    return _Section(first, across, down, grid.shape)


def _cut(read: Read, section: _Section) -> Labels:
    if (*section.across, *section.down) == _SIDE_BY_SIDE:
        left, top, index = section.first
        height, width = section.shape
        return read(int(index))[top : top + height, left : left + width]
    columns, rows, slices = section.indices()
    low, high = int(slices.min()), int(slices.max())
    planes = np.stack([read(index) for index in range(low, high + 1)])
    cut: Labels = planes[slices - low, rows, columns]
    return cut


def _elsewhere(grid: Grid, labels: Grid, slice_index: int) -> str:
    """What is wrong with the place of labels that have no voxel for some pixel of a slice."""
    remedy = "draw it on the image's own grid, or save it as a picture of the image's own pixels"
    found = _corners(grid, labels, slice_index)
    affine = labels.geometry.affine
    if found is None or affine is None:
        raise AssertionError("both places are known")
    size = np.array([*labels.shape[::-1], labels.slices])[:, None]
    nearest = np.clip(np.rint(found), 0, size - 1)
    apart = np.linalg.norm(affine[:3, :3] @ (found - nearest), axis=0).max()
    return f"lies elsewhere in the patient, up to {apart:.3g} mm from the image: {remedy}"
