"""Cases as tensors: at the network's size for training, at the raw grid for judging."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from wsseg.imaging.definitions import RatioDefinition, luminance
from wsseg.imaging.errors import WssegError
from wsseg.imaging.slices import read_label_slice, read_slice
from wsseg.train.batch import MARKED_BACKGROUND, Batch
from wsseg.train.case import Case
from wsseg.train.coverage import shrink_marks, shrink_mask
from wsseg.train.front import Front
from wsseg.train.ratios import class_denominators

logger = logging.getLogger(__name__)

# Memory that prepared cases may take in one process before they are read again each time.
CACHE_BYTES = 4 << 30
READERS = 4


@dataclass(frozen=True)
class Sample:
    """One case at the network's size; the fields mean what they mean in `Batch`.

    mask: all False where has_mask is False.
    """

    image: Float[Tensor, "c s s"]
    ratio: Float[Tensor, " k"]
    marks: Int[Tensor, "s s"]
    mask: Bool[Tensor, "k s s"]
    has_mask: bool
    index: int


class Native(NamedTuple):
    """One case at its raw grid: physical units, full masks or None, weak marks as in `Batch`."""

    image: Float[Tensor, "c rows columns"]
    mask: Bool[Tensor, "k rows columns"] | None
    marks: Int[Tensor, "rows columns"]


class CaseDataset:
    """The cases of a split; each is read once and kept at the network's size.

    ratios: definitions that tell which ratios are shares of the whole image (`of_image`, one per
    class): only those change when the picture shrinks. front: gives channels, window and size.
    A set larger than `cache_bytes` is read from disk each time instead.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        classes: tuple[str, ...],
        ratios: tuple[RatioDefinition, ...],
        front: Front,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.cases = tuple(cases)
        self.classes = classes
        self.of_image = torch.tensor([d == "image" for d in class_denominators(classes, ratios)])
        self._front = front
        self._kept: dict[int, Sample] = {}
        # Two bytes an intensity, one a mark, one a class's mask.
        per_pixel = 2 * front.channels + 1 + len(classes)
        self._keeps = len(self.cases) * per_pixel * front.size**2 <= cache_bytes

    def __len__(self) -> int:
        return len(self.cases)

    def fill(self) -> None:
        """Read all cases now, several at a time, if they fit into memory."""
        if not self._keeps:
            logger.info("%d cases do not fit into memory: reading them each epoch", len(self))
            return
        with ThreadPoolExecutor(READERS) as pool:
            for _ in pool.map(self._compact, range(len(self))):
                pass

    def item(self, index: int) -> Sample:
        """One case at the network's size, without augmentation."""
        kept = self._compact(index)
        return Sample(
            kept.image.float(),
            kept.ratio,
            kept.marks.long(),
            kept.mask,
            kept.has_mask,
            kept.index,
        )

    def native(self, index: int) -> Native:
        """One case at its raw grid, read from disk each time."""
        case = self.cases[index]
        image = _read_image(case, self._front.channels)
        shape = (image.shape[1], image.shape[2])
        mask = None if case.mask is None else torch.from_numpy(_read_mask(case, shape, self._k))
        marks = torch.from_numpy(_read_marks(case, shape, self._k))
        return Native(torch.from_numpy(image), mask, marks.long())

    @property
    def _k(self) -> int:
        return len(self.classes)

    def _compact(self, index: int) -> Sample:
        if index in self._kept:
            return self._kept[index]
        sample = self._read(index)
        if self._keeps:
            self._kept[index] = sample
        return sample

    def _read(self, index: int) -> Sample:
        case, size = self.cases[index], self._front.size
        raw = _read_image(case, self._front.channels)
        shape = (raw.shape[1], raw.shape[2])
        with torch.no_grad():
            image = self._front.prepare(torch.from_numpy(raw)[None])[0]
        if case.mask is None:
            mask = np.zeros((self._k, size, size), bool)
        else:
            mask = shrink_mask(_read_mask(case, shape, self._k), size)
        marks = shrink_marks(_read_marks(case, shape, self._k), size)
        ratio = [float("nan") if ratio is None else ratio for ratio in case.ratios]
        return Sample(
            # Half precision errs by at most 1/4096 of the window, a sixteenth of an 8-bit step.
            image.half(),
            torch.tensor(ratio, dtype=torch.float32),
            torch.from_numpy(marks),
            torch.from_numpy(mask),
            case.mask is not None,
            index,
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """The samples stacked to a batch, in their order."""
    return Batch(
        image=torch.stack([sample.image for sample in samples]),
        ratio=torch.stack([sample.ratio for sample in samples]),
        marks=torch.stack([sample.marks for sample in samples]),
        mask=torch.stack([sample.mask for sample in samples]),
        has_mask=torch.tensor([sample.has_mask for sample in samples]),
        index=torch.tensor([sample.index for sample in samples]),
    )


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The places 0..count-1 in the order of one epoch; the same for the same seed and epoch."""
    order: list[int] = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    return order


def batches(order: Sequence[int], size: int, rank: int = 0, world: int = 1) -> Iterator[list[int]]:
    """The share of process `rank` of `world` in every batch of `size` places, in order.

    Shares are contiguous and of one length. The last places that fill no batch are left out (the
    next epoch's order takes them up); an order shorter than one batch is repeated to fill it.
    Raises WssegError where the batch cannot be shared out or is too small for batch norm.
    """
    if size % world or size < 2:
        raise WssegError(
            f"a batch of {size} over {world} processes: the batch must be at least 2, because "
            f"batch norm compares images, and a multiple of the processes; change batch or devices"
        )
    if not order:
        raise WssegError("no training case: give the table rows whose split is train")
    repeated = [order[place % len(order)] for place in range(max(size, len(order)))]
    share = size // world
    for start in range(0, len(repeated) - size + 1, size):
        first = start + rank * share
        yield repeated[first : first + share]


def _read_image(case: Case, channels: int) -> NDArray[np.float32]:
    """The slice (c, row, column) in physical units, with the channels that the network reads."""
    pixels = read_slice(case.image, slice_index=case.slice_index, volume=case.volume)
    if pixels.ndim == 3 and channels == 1:
        pixels = luminance(pixels)
    if pixels.ndim == 2:
        return np.repeat(pixels[None], channels, axis=0)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _read_mask(case: Case, shape: tuple[int, int], classes: int) -> NDArray[np.bool_]:
    assert case.mask is not None
    labels = read_label_slice(case.mask, slice_index=case.slice_index, volume=case.volume)
    _check_shape(case, "mask", labels.shape, shape)
    # Pictures of one structure are often stored as 0 and 255.
    if classes == 1 and set(np.unique(labels)) <= {0, 255}:
        labels = (labels > 0).astype(np.uint8)
    _check_labels(case, "mask", labels, classes)
    return labels[None] == np.arange(1, classes + 1, dtype=np.uint8)[:, None, None]


def _read_marks(case: Case, shape: tuple[int, int], classes: int) -> NDArray[np.uint8]:
    if case.marks is None:
        marks = np.zeros(shape, np.uint8)
    else:
        marks = read_label_slice(case.marks, slice_index=case.slice_index, volume=case.volume)
        _check_shape(case, "marks", marks.shape, shape)
        marks = marks.copy()
    for row, column, label in case.points:
        if not (0 <= row < shape[0] and 0 <= column < shape[1]):
            raise WssegError(
                f"row {case.row}: the point ({row}, {column}) is outside of the image of "
                f"{shape[0]} rows and {shape[1]} columns; give points as row, column, 0-based"
            )
        marks[row, column] = label
    _check_labels(case, "marks", marks[marks != MARKED_BACKGROUND], classes)
    return marks


def _check_shape(case: Case, what: str, found: tuple[int, ...], image: tuple[int, int]) -> None:
    if found != image:
        raise WssegError(
            f"row {case.row}: the {what} has (rows, columns) {found}, the image {image}; "
            f"give a {what} drawn on this image"
        )


def _check_labels(case: Case, what: str, labels: NDArray[np.uint8], classes: int) -> None:
    highest = int(labels.max(initial=0))
    if highest > classes:
        raise WssegError(
            f"row {case.row}: the {what} holds the value {highest}, but the table has {classes} "
            f"classes; use 0 for what belongs to none and 1 to {classes} for the classes"
        )
