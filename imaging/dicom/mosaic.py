"""Siemens mosaics: the slices of a volume as tiles of one picture, taken apart."""

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

_HEADER = (0x0029, "SIEMENS CSA HEADER", 0x10)
_COUNT = (0x0019, "SIEMENS MR HEADER", 0x0A)
# United Imaging writes grids without calling them mosaics.
_GRID = (0x0065, "Image Private Header", 0x50)
_BLOCKS = range(0x10, 0x14)  # more vendors than that never wrote into one group


def _tags_of(*elements: tuple[int, str, int]) -> tuple[int, ...]:
    """Private elements with those that reserve their blocks."""
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
        self, picture: NDArray[np.float32], numbers: Sequence[int], source: str
    ) -> NDArray[np.float32]:
        """The tiles of these numbers, counted along rows, of a picture (row, column[, 3]).

        Raises ReadError where a tile that should be empty shows something.
        """
        grid = picture.reshape(self.side, self.rows, self.side, self.columns, *picture.shape[2:])
        tiles = grid.swapaxes(1, 2).reshape(
            self.side**2, self.rows, self.columns, *picture.shape[2:]
        )
        beyond = tiles[self.count :]
        if beyond.size and beyond.min() < beyond.max():
            raise _refused(
                source,
                f"it shows something beyond the {self.count} that its header tells of",
            )
        return tiles[list(numbers)]


def is_mosaic(sop_class: str, modality: str, image_type: str) -> bool:
    """Whether an image is a mosaic of slices, by its ImageType, values joined by backslashes.

    Of photographs and radiographs the same word says that they were stitched together.
    """
    slices = kind_of(sop_class) != "projection" or modality == "MR"
    return slices and "MOSAIC" in image_type.upper().split("\\")


def check_no_grid(dataset: Dataset, source: str) -> None:
    """Raises ReadError for a grid of slices whose places this version does not know."""
    count = _as_number(_private(dataset, *_GRID))
    if count is not None and count > 1:
        raise _refused(source, f"the places of its {count:g} slices are not read")


def mosaic_of(dataset: Dataset, size: PixelSize | None, source: str) -> Mosaic:
    """How a mosaic is to be taken apart; `size` is its (row, column) pixel distance in mm.

    Raises ReadError where the header does not say how many slices it holds, or contradicts
    itself: one picture of many slices has no ratio that means anything.
    """
    header = _csa_header(dataset)
    count = _count(dataset, header, source)
    side = math.ceil(math.sqrt(count))
    rows, columns = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
    if rows % side or columns % side or (integer(dataset, "NumberOfFrames") or 1) > 1:
        raise _refused(
            source,
            f"{count} slices do not fit into its {rows} x {columns} pixels",
        )
    planes = _planes(dataset, header, (rows // side, columns // side, side, count), size)
    return Mosaic(rows // side, columns // side, side, count, planes)


def _planes(
    dataset: Dataset,
    header: dict[str, list[object]],
    grid: tuple[int, int, int, int],
    size: PixelSize | None,
) -> tuple[Plane, ...]:
    rows, columns, side, count = grid
    corner = numbers(dataset, "ImagePositionPatient", 3)
    orientation = cosines(dataset)
    step = number(dataset, "SpacingBetweenSlices") or _number(header, "SpacingBetweenSlices")
    if orientation is None or corner is None or size is None or not step:
        return (Plane(None, orientation, size),) * count
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    # The position is that of a mosaic laid, as a whole, around the middle of the first slice.
    moved = across * size[1] * columns + down * size[0] * rows
    first = np.array(corner) + moved * (side - 1) / 2
    normal = _normal(header, np.cross(across, down))
    return tuple(
        Plane(tuple(float(x) for x in first + normal * abs(step) * index), orientation, size)
        for index in range(count)
    )


def _normal(header: dict[str, list[object]], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The direction in which tiles follow each other: along the normal or against it."""
    stated = [_as_number(value) for value in header.get("SliceNormalVector", ())]
    if len(stated) != 3 or None in stated:
        return normal
    along = float(np.dot(np.array(stated, np.float64), normal))
    return -normal if along < 0 else normal


def _count(dataset: Dataset, header: dict[str, list[object]], source: str) -> int:
    private = _private(dataset, *_COUNT)
    found = {
        int(value)
        for value in (_as_number(private), _number(header, "NumberOfImagesInMosaic"))
        if value is not None and value >= 1 and value == int(value)
    }
    if not found:
        raise _refused(source, "its header no longer says how many slices it holds")
    if len(found) > 1:
        raise _refused(
            source, f"its header gives two numbers of slices, {min(found)} and {max(found)}"
        )
    return found.pop()


def _refused(source: str, why: str) -> ReadError:
    return ReadError(
        "mosaic",
        f"{source} is a mosaic of many slices in one picture, and {why}: export it with its "
        "private elements, or convert it to NIfTI with the software of the scanner",
    )


def _csa_header(dataset: Dataset) -> dict[str, list[object]]:
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
        tag = (group << 16) + block
        if tag in dataset and str(dataset[tag].value).strip() == creator:
            place = (group << 16) + (block << 8) + element
            return _raw(dataset[place].value) if place in dataset else None
    return None


def _raw(value: object) -> object:
    """Implicit transfer syntaxes do not say that a private element is a number."""
    if isinstance(value, bytes) and len(value) == 2:
        return int.from_bytes(value, "little")
    return value


def _number(header: dict[str, list[object]], name: str) -> float | None:
    values = header.get(name) or [None]
    return _as_number(values[0])


def _as_number(value: object) -> float | None:
    try:
        found = float(str(value))
    except ValueError:
        return None
    return found if math.isfinite(found) else None
