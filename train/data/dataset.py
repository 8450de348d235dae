"""Cases as tensors: at the network's size for training, at the raw grid for judging."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from wsseg.imaging.definitions import RatioDefinition
from wsseg.train.cases.facts import FilesOnce, look_of
from wsseg.train.cases.files import class_masks, read_image, read_marks
from wsseg.train.cases.schema import Case, Look, class_denominators
from wsseg.train.data.area_resize import shrink_marks, shrink_mask
from wsseg.train.data.batch import Batch
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.data.region_labels import RegionLabels, case_region_labels
from wsseg.train.targets.case_targets import (
    FULL,
    PixelTarget,
    Thumbnail,
    case_areas,
    case_evidence,
    grown,
    lightened,
    mask_target,
    memory_of,
    thumbnail_of,
)
from wsseg.train.targets.evidence import Evidence, Growth
from wsseg.train.targets.localise import BlobProposal
from wsseg.train.targets.pseudo_labels import PseudoLabel, blend

logger = logging.getLogger(__name__)

# Memory that prepared cases may take in one process before they are read again each time.
CACHE_BYTES = 4 << 30
# Memory of what targets are grown from, while they wait for what is guessed of the whole set.
WAITING_BYTES = 1 << 30
READERS = 4


@dataclass(frozen=True)
class Sample:
    """One case at the network's size; the fields mean what they mean in `Batch`.

    mask: all False where has_mask is False. final, guessed: classes whose target self-training
    leaves, and replaces.
    """

    image: Float[Tensor, "c s s"]
    ratio: Float[Tensor, " k"]
    region_labels: RegionLabels
    marks: Integer[Tensor, "s s"]
    mask: Bool[Tensor, "k s s"]
    has_mask: bool
    target: Shaped[Tensor, "k s s"]
    target_weight: Shaped[Tensor, "k s s"]
    fixed: Bool[Tensor, " k"]
    proposed: Bool[Tensor, " k"]
    soft: Float[Tensor, "j s s"]
    index: int


class Native(NamedTuple):
    """One case at its raw grid: physical units, full masks or None, weak marks as in `Batch`."""

    image: Float[Tensor, "c rows columns"]
    mask: Bool[Tensor, "k rows columns"] | None
    marks: Int[Tensor, "rows columns"]


@dataclass
class TargetStore:
    """What the cases of a data set are taught, by their position; a run changes it on its way.

    growth: how shape-bearing marks become targets; None: no target has weight. guesses: where
    classes may lie that no case locates, to be known before a target is made. cuts: what
    self-training found, see `targets.pseudo_labels`. soft: the map of the run's teacher in 255ths,
    see `distillation.teach`.
    """

    growth: Growth | None = None
    proposals: dict[int, tuple[BlobProposal | None, ...]] = field(default_factory=dict)
    pseudo_labels: dict[int, PseudoLabel] = field(default_factory=dict)
    soft: dict[int, UInt8[Tensor, "k s s"]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Draft:
    """All of a sample but its target, and what that is made of.

    lesson: of a full mask. evidence: what a target grows from; None where none is to be learnt.
    """

    image: Float[Tensor, "c s s"]
    region_labels: RegionLabels
    marks: Integer[Tensor, "s s"]
    mask: Bool[Tensor, "k s s"] | None
    pixel_target: PixelTarget | None = None
    evidence: Evidence | None = None
    thumbnail: Thumbnail | None = None


class CaseDataset:
    """The checked cases of a split; the files of each are read once, and it is kept at the
    network's size.

    ratios: tell which ratios are shares of the whole image (`of_image`, one per class): only those
    change when the picture shrinks. preprocess: channels, window and size. targets: what is taught.
    looks: by row, where the values of the images that are kept lie. A set above `cache_bytes` is
    read from disk each time instead.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        classes: tuple[str, ...],
        ratios: tuple[RatioDefinition, ...],
        preprocess: Preprocess,
        *,
        targets: TargetStore | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.cases = tuple(cases)
        self.classes = classes
        self.targets = TargetStore() if targets is None else targets
        self.denominators = class_denominators(classes, ratios)
        self.of_image = torch.tensor([below == "image" for below in self.denominators])
        self.looks: dict[int, Look] = {}
        self._preprocess = preprocess
        self._files = FilesOnce(self.cases)
        self._kept: dict[int, Sample] = {}
        self._drafts: dict[int, _Draft] = {}
        self._waiting_bytes = 0
        # Two bytes an intensity, one a mark; one a class's mask, its target and its weight.
        per_pixel = 2 * preprocess.channels + 1 + 3 * len(classes)
        self._keeps = len(self.cases) * per_pixel * preprocess.size**2 <= cache_bytes

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
        target, weight = kept.target.float() / FULL, kept.target_weight.float() / FULL
        targets = self.targets
        if index in targets.pseudo_labels:
            target, weight = blend(target, weight, kept.proposed, targets.pseudo_labels[index])
        return replace(
            kept,
            image=kept.image.float(),
            marks=kept.marks.long(),
            target=target,
            target_weight=weight,
            soft=targets.soft[index].float() / FULL if targets.soft else kept.soft,
        )

    @property
    def located(self) -> list[int]:
        """Positions of the cases that say where some class is: by marks, points, a box, a mask."""
        return [place for place, case in enumerate(self.cases) if case.locates]

    def areas(self, index: int) -> NDArray[np.floating]:
        """Bounds of each class's share of the image, see `case_areas`; NaN for a final target."""
        areas = case_areas(self.cases[index], self.denominators)
        areas[self._compact(index).fixed.numpy()] = np.nan
        return areas

    def taken(self, index: int) -> NDArray[np.bool_]:
        """Pixels (rows, columns) within the final target of any class: no cut may have them."""
        kept = self._compact(index)
        inside = (kept.target >= FULL / 2) & kept.fixed[:, None, None]
        taken: NDArray[np.bool_] = inside.any(0).numpy()
        return taken

    def evidence(self, index: int) -> Evidence:
        """What is known of one case, on the grid that its target is grown on; kept until then."""
        if index not in self._drafts:
            self._drafts[index] = self._read(index, learns=True)
        evidence = self._drafts[index].evidence
        if evidence is None:
            raise AssertionError("it was read to learn from")
        return evidence

    def thumbnail(self, index: int, *, waits: bool) -> Thumbnail:
        """One case on the grid of blobs. waits: whether its target does, for what is guessed."""
        draft = self._drafts.pop(index, None) or self._read(index, learns=True)
        if self._keeps and waits:
            self._set_aside(index, draft)
        elif self._keeps:
            self._kept[index] = self._sample(index, draft)
        if draft.thumbnail is None:
            raise AssertionError("it was read to learn from")
        return draft.thumbnail

    def native(self, index: int) -> Native:
        """One case at its raw grid, read from disk each time."""
        case = self.cases[index]
        with self._files.of(case):
            image = read_image(case, self._preprocess.channels)
            mask = class_masks(case, len(self.classes))
            marks = read_marks(case, image.shape[1:])
        return Native(
            torch.from_numpy(image),
            None if mask is None else torch.from_numpy(mask),
            torch.from_numpy(marks).long(),
        )

    def _compact(self, index: int) -> Sample:
        if index in self._kept:
            return self._kept[index]
        draft = self._drafts.pop(index, None)
        if draft is None:
            draft = self._read(index, learns=self.targets.growth is not None)
        sample = self._sample(index, draft)
        if self._keeps:
            self._kept[index] = sample
        return sample

    def _set_aside(self, index: int, draft: _Draft) -> None:
        """Keep what a target will be made of, as long as there is room: else it is read again."""
        if draft.evidence is not None and self.targets.growth is not None:
            draft = replace(draft, evidence=lightened(draft.evidence, self.targets.growth))
        self._waiting_bytes += 0 if draft.evidence is None else memory_of(draft.evidence)
        if self._waiting_bytes <= WAITING_BYTES:
            self._drafts[index] = draft

    def _read(self, index: int, *, learns: bool) -> _Draft:
        """The files of a case. learns: whether a target will be made of it."""
        case, size, classes = self.cases[index], self._preprocess.size, len(self.classes)
        with self._files.of(case):
            raw = read_image(case, self._preprocess.channels)
            full = class_masks(case, classes)
            marks = read_marks(case, raw.shape[1:])
        with torch.no_grad():
            windowed = self._preprocess.windowed_finite(torch.from_numpy(raw)[None])
            image = self._preprocess.resized(windowed)[0]
        if self._keeps:
            self.looks[case.row] = look_of(raw[0] if len(raw) == 1 else raw.transpose(1, 2, 0))
        draft = _Draft(
            # Half precision errs by at most 1/4096 of the window, a sixteenth of an 8-bit step.
            image=image.half(),
            region_labels=case_region_labels(case, raw.shape[1:]),
            marks=torch.from_numpy(shrink_marks(marks, (size, size))),
            mask=None if full is None else torch.from_numpy(shrink_mask(full, size)),
        )
        if not learns:
            return draft
        known = case_evidence(case, windowed[0].numpy(), marks, self.denominators)
        return replace(
            draft,
            pixel_target=None if full is None else mask_target(full, size),
            evidence=known,
            thumbnail=thumbnail_of(known, full),
        )

    def _sample(self, index: int, draft: _Draft) -> Sample:
        size, classes = self._preprocess.size, len(self.classes)
        taught = self._first_target(index, draft)
        ratios = self.cases[index].ratios
        ratio = [float("nan") if ratio is None else ratio for ratio in ratios]
        nothing = torch.zeros(classes, size, size, dtype=torch.bool)
        return Sample(
            image=draft.image,
            ratio=torch.tensor(ratio, dtype=torch.float32),
            region_labels=draft.region_labels,
            marks=draft.marks,
            mask=nothing if draft.mask is None else draft.mask,
            has_mask=draft.mask is not None,
            target=torch.from_numpy(taught.inside),
            target_weight=torch.from_numpy(taught.weight),
            fixed=torch.from_numpy(taught.fixed),
            proposed=torch.from_numpy(taught.proposed),
            soft=torch.zeros(0, size, size),
            index=index,
        )

    def _first_target(self, index: int, draft: _Draft) -> PixelTarget:
        """The first target: the mask where there is one, else what is grown."""
        size, classes = self._preprocess.size, len(self.classes)
        if self.targets.growth is None or draft.evidence is None:
            nothing = np.zeros((classes, size, size), np.uint8)
            every = np.ones(classes, bool)
            return PixelTarget(nothing, nothing, every, ~every)
        if draft.pixel_target is not None:
            return draft.pixel_target
        proposals = self.targets.proposals.get(index, ())
        return grown(replace(draft.evidence, proposals=proposals), self.targets.growth, size)


def collate(samples: Sequence[Sample]) -> Batch:
    """The samples stacked to a batch, in their order."""
    return Batch(
        image=torch.stack([sample.image for sample in samples]),
        ratio=torch.stack([sample.ratio for sample in samples]),
        **{
            name: torch.stack([getattr(sample.region_labels, name) for sample in samples])
            for name in ("bounds", "present", "box", "centroid", "spread")
        },
        marks=torch.stack([sample.marks for sample in samples]),
        mask=torch.stack([sample.mask for sample in samples]),
        has_mask=torch.tensor([sample.has_mask for sample in samples]),
        target=torch.stack([sample.target for sample in samples]),
        target_weight=torch.stack([sample.target_weight for sample in samples]),
        soft=torch.stack([sample.soft for sample in samples]),
        index=torch.tensor([sample.index for sample in samples]),
    )
