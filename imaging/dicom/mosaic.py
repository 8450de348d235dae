"""Siemens mosaics: images whose tiles are the slices of a volume."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from wsseg.imaging.dicom.file import cosines, integer, number, numbers
from wsseg.imaging.dicom.geometry import PixelSize, Plane
from wsseg.imaging.dicom.sop_classes import kind_of
from wsseg.imaging.errors import ReadError

with warnings.catch_warnings():
    # The package warns of its image readers, which are not used here.
    warnings.simplefilter("ignore", UserWarning)
    from nibabel.nicom import csareader

# Private elements: group, creator, and element within the block that the creator has reserved.
_HEADER = (0x0029, "SIEMENS CSA HEADER", 0x10)
_COUNT = (0x0019, "SIEMENS MR HEADER", 0x0A)
# United Imaging writes grids without calling them mosaics.
_GRID = (0x0065, "Image Private Header", 0x50)
_BLOCKS = range(0x10, 0x14)  # more vendors than that never wrote into one group


def _tags_of(*elements: tuple[int, str, int]) -> tuple[int, ...]:
    """Tags of private elements and of those that reserve their blocks."""
    return tuple(
        tag
        for group, _, element in elements
        for block in _BLOCKS
        for tag in ((group << 16) + block, (group << 16) + (block << 8) + element)
    )


# Of every image, and of mosaics alone.
GRID_TAGS = _tags_of(_GRID)
PRIVATE_TAGS = _tags_of(_HEADER, _COUNT)
MOSAIC_KEYWORDS = ("Rows", "Columns", "ImageType", "SpacingBetweenSlices", "NumberOfFrames")

_MOST_TILES = 1 << 14  # of a volume of one scan

_CsaHeader = dict[str, list[object]]


@dataclass(frozen=True)
class Mosaic:
    """Tiles of `rows` x `columns` pixels, `side` across and down, the first `count` of them used.

    planes: where each used tile lies, in the order of the tiles.
    """

    rows: int
    columns: int
    side: int
    count: int
    planes: tuple[Plane, ...]

    def tiles(
        self, picture: NDArray[np.float32], indices: Sequence[int], source: str
    ) -> NDArray[np.float32]:
        """The tiles (tile, row, column[, 3]) at `indices`, counted along rows, of a picture.

        picture: (row, column[, 3]). Raises ReadError where a tile that should be empty is not.
        """
        grid = picture.reshape(self.side, self.rows, self.side, self.columns, *picture.shape[2:])
        tiles = grid.swapaxes(1, 2).reshape(
            self.side**2, self.rows, self.columns, *picture.shape[2:]
        )
        beyond = tiles[self.count :]
        if beyond.size and beyond.min() < beyond.max():
            raise _refused(source, f"it has content beyond the {self.count} slices in its header")
        return tiles[list(indices)]


def is_mosaic(sop_class: str, modality: str, image_type: str) -> bool:
    """Whether an image is a mosaic of slices, by its ImageType, values joined by backslashes.

    In photographs and radiographs the same word means that they were stitched together.
    """
    slices = kind_of(sop_class) != "projection" or modality == "MR"
    return slices and "MOSAIC" in image_type.upper().split("\\")


def check_no_grid(dataset: Dataset, source: str) -> None:
    """Raises ReadError for a grid of slices of which this version does not know the positions."""
    count = _as_number(_private(dataset, *_GRID))
    if count is not None and count > 1:
        raise _refused(source, f"the positions of its {count:g} slices are not read")


def mosaic_of(dataset: Dataset, size: PixelSize | None, source: str) -> Mosaic:
    """The arrangement of a mosaic's tiles; `size` is its (row, column) pixel distance in mm.

    Raises ReadError where the header does not state the number of slices, or contradicts
    itself: one picture of many slices has no ratio that means anything.
    """
    header = _csa_header(dataset)
    counts = {
        int(value)
        for value in (
            _as_number(_private(dataset, *_COUNT)),
            _first_number(header, "NumberOfImagesInMosaic"),
        )
        if value is not None and value >= 1 and value == int(value)
    }
    if not counts:
        raise _refused(source, "its header no longer says how many slices it holds")
    if len(counts) > 1:
        raise _refused(
            source, f"its header gives two numbers of slices, {min(counts)} and {max(counts)}"
        )
    count = counts.pop()
    side = math.ceil(math.sqrt(count))
    rows, columns = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
    if (
        count > _MOST_TILES
        or rows % side
        or columns % side
        or (integer(dataset, "NumberOfFrames") or 1) > 1
    ):
        raise _refused(source, f"{count} slices do not fit into its {rows} x {columns} pixels")
    rows, columns = rows // side, columns // side
    corner = numbers(dataset, "ImagePositionPatient", 3)
    orientation = cosines(dataset)
    step = number(dataset, "SpacingBetweenSlices") or _first_number(header, "SpacingBetweenSlices")
    if orientation is None or corner is None or size is None or not step:
        return Mosaic(rows, columns, side, count, (Plane(None, orientation, size),) * count)
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    # The position is that of a mosaic laid, as a whole, around the middle of the first slice.
    moved = across * size[1] * columns + down * size[0] * rows
    first = np.array(corner) + moved * (side - 1) / 2
    normal = np.cross(across, down)
    stated = [_as_number(value) for value in header.get("SliceNormalVector", ())]
    if len(stated) == 3 and None not in stated:
        # Tiles follow each other along the normal or against it.
        normal = -normal if float(np.dot(np.array(stated, np.float64), normal)) < 0 else normal
    planes = tuple(
        Plane(tuple(float(x) for x in first + normal * abs(step) * index), orientation, size)
        for index in range(count)
    )
    return Mosaic(rows, columns, side, count, planes)


def _refused(source: str, why: str) -> ReadError:
    return ReadError(
        "mosaic",
        f"{source} is a mosaic of many slices in one picture, and {why}: export it with its "
        "private elements, or convert it to NIfTI with the software of the scanner",
    )


def _csa_header(dataset: Dataset) -> _CsaHeader:
    """The values of the private header, by name; none where it is absent or damaged."""
    stored = _private(dataset, *_HEADER)
    if not isinstance(stored, bytes):
        return {}
    try:
        tags = csareader.read(stored)["tags"]
    except Exception:  # the library checks little, and fails in many ways on damage
        return {}
    return {name: list(tag["items"]) for name, tag in tags.items()}


def _private(dataset: Dataset, group: int, creator: str, element: int) -> object:
    """The value of a private element, in whichever block its creator has reserved."""
    for block in _BLOCKS:
        reservation = (group << 16) + block
        if reservation in dataset and str(dataset[reservation].value).strip() == creator:
            tag = (group << 16) + (block << 8) + element
            value = dataset[tag].value if tag in dataset else None
            # Implicit transfer syntaxes do not state that a private element is a number.
            if isinstance(value, bytes) and len(value) == 2:
                return int.from_bytes(value, "little")
            return value
    return None


def _first_number(header: _CsaHeader, name: str) -> float | None:
    values = header.get(name) or [None]
    return _as_number(values[0])


def _as_number(value: object) -> float | None:
    try:
        parsed = float(str(value))
    except ValueError:
        return None
    return parsed if math.isfinite(parsed) else None
