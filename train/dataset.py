"""Cases as tensors: at the network's size for training, at the raw grid for judging."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from numpy.typing import NDArray
from torch import Tensor

from wsseg.imaging.definitions import RatioDefinition, luminance
from wsseg.imaging.errors import WssegError
from wsseg.imaging.slices import read_slice
from wsseg.train.batch import NOT_MARKED, Batch
from wsseg.train.case import Case
from wsseg.train.coverage import shrink_marks, shrink_mask
from wsseg.train.front import Front
from wsseg.train.label_files import case_marks, case_mask
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
    marks: Integer[Tensor, "s s"]
    mask: Bool[Tensor, "k s s"]
    has_mask: bool
    index: int


class Native(NamedTuple):
    """One case at its raw grid: physical units, full masks or None, weak marks as in `Batch`."""

    image: Float[Tensor, "c rows columns"]
    mask: Bool[Tensor, "k rows columns"] | None
    marks: Int[Tensor, "rows columns"]


class CaseDataset:
    """The checked cases of a split; each is read once and kept at the network's size.

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
        mask = _read_mask(case, len(self.classes))
        marks = _read_marks(case, image.shape[1:])
        return Native(
            torch.from_numpy(image),
            None if mask is None else torch.from_numpy(mask),
            torch.from_numpy(marks).long(),
        )

    def _compact(self, index: int) -> Sample:
        if index in self._kept:
            return self._kept[index]
        sample = self._read(index)
        if self._keeps:
            self._kept[index] = sample
        return sample

    def _read(self, index: int) -> Sample:
        case, size, classes = self.cases[index], self._front.size, len(self.classes)
        raw = _read_image(case, self._front.channels)
        with torch.no_grad():
            image = self._front.prepare(torch.from_numpy(raw)[None])[0]
        full = _read_mask(case, classes)
        mask = np.zeros((classes, size, size), bool) if full is None else shrink_mask(full, size)
        marks = shrink_marks(_read_marks(case, raw.shape[1:]), size)
        ratio = [float("nan") if ratio is None else ratio for ratio in case.ratios]
        return Sample(
            # Half precision errs by at most 1/4096 of the window, a sixteenth of an 8-bit step.
            image.half(),
            torch.tensor(ratio, dtype=torch.float32),
            torch.from_numpy(marks),
            torch.from_numpy(mask),
            full is not None,
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


def _read_mask(case: Case, classes: int) -> NDArray[np.bool_] | None:
    labels = case_mask(case, classes)
    if labels is None:
        return None
    mask: NDArray[np.bool_] = labels == np.arange(1, classes + 1, dtype=np.uint8)[:, None, None]
    return mask


def _read_marks(case: Case, shape: tuple[int, int]) -> NDArray[np.uint8]:
    marks = case_marks(case)
    return np.full(shape, NOT_MARKED, np.uint8) if marks is None else marks
