"""Cases as tensors: at the network's size for training, at the raw grid for evaluation."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer, UInt8
from numpy.typing import NDArray
from torch import Tensor

from wsseg.imaging.definitions import RatioDefinition
from wsseg.imaging.dicom import silence_pydicom
from wsseg.imaging.stopping import reading_threads
from wsseg.train.cases.files import (
    FilesOnce,
    class_masks,
    known_look,
    look_of,
    read_image,
    read_marks,
)
from wsseg.train.cases.schema import Case, Look, class_denominators
from wsseg.train.data.batch import Sample
from wsseg.train.data.preprocess import Preprocess, shrink_marks, shrink_mask
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

CACHE_BYTES = 4 << 30
"""Largest memory of prepared cases in one process; larger sets are read again each time."""
WAITING_BYTES = 1 << 30
"""Largest memory of the evidence that waits for the proposals of the whole set."""
READERS = 4


class Native(NamedTuple):
    """One case at its raw grid: physical units, full masks or None, weak marks as in `Batch`."""

    image: Float[Tensor, "c rows columns"]
    mask: Bool[Tensor, "k rows columns"] | None
    marks: Int[Tensor, "rows columns"]


@dataclass
class TargetStore:
    """The targets of a data set by the index of the case; a run changes them as it proceeds.

    growth: how shape-bearing marks become targets; None: no target has weight. proposals: where
    classes may lie in cases that do not locate them, complete before the first target is made.
    pseudo_labels: those of self-training, see `targets.pseudo_labels`. soft: the map of the run's
    teacher in 255ths, see `distillation.teach`.
    """

    growth: Growth | None = None
    proposals: dict[int, tuple[BlobProposal | None, ...]] = field(default_factory=dict)
    pseudo_labels: dict[int, PseudoLabel] = field(default_factory=dict)
    soft: dict[int, UInt8[Tensor, "k s s"]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Draft:
    """A sample without its target, and what the target is made from.

    pixel_target: of a full mask. evidence: what a target grows from; None if it is not needed.
    """

    image: Float[Tensor, "c s s"]
    region_labels: RegionLabels
    marks: Integer[Tensor, "s s"]
    mask: Bool[Tensor, "k s s"] | None
    pixel_target: PixelTarget | None = None
    evidence: Evidence | None = None
    thumbnail: Thumbnail | None = None


class CaseDataset:
    """The checked cases of a split, each read once and kept at the network's size.

    ratios: definitions of the ratios; those that are shares of the whole image (`of_image`, one per
    class) change when the image shrinks. preprocess: channels, window and size. targets: the
    targets of the cases. looks: intensities of the images that are kept, by row. A set above
    `cache_bytes` is read from disk each time instead.
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
            self._drafts.clear()
            return
        # Once for all files: silencing the library for each takes as long as opening one.
        with silence_pydicom, reading_threads(READERS) as pool:
            for _ in pool.map(self._compact, range(len(self))):
                pass

    def item(self, index: int) -> Sample:
        """Return one case at the network's size, without augmentation."""
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
        """Indices of the cases that locate some class, by marks, points, a box or a mask."""
        return [index for index, case in enumerate(self.cases) if case.locates]

    def areas(self, index: int) -> NDArray[np.floating]:
        """Return the bounds of `case_areas`, with NaN for classes whose target is fixed."""
        areas = case_areas(self.cases[index], self.denominators)
        areas[self._compact(index).fixed.numpy()] = np.nan
        return areas

    def taken(self, index: int) -> NDArray[np.bool_]:
        """Return the pixels (row, column) in a fixed target, which no pseudo-label may contain."""
        kept = self._compact(index)
        inside = (kept.target >= FULL / 2) & kept.fixed[:, None, None]
        taken: NDArray[np.bool_] = inside.any(0).numpy()
        return taken

    def evidence(self, index: int) -> Evidence:
        """Return the evidence of one case, which is kept until its target is made."""
        if index not in self._drafts:
            self._drafts[index] = self._read(index, learns=True)
        evidence = self._drafts[index].evidence
        if evidence is None:
            raise AssertionError("the case was read with its evidence")
        return evidence

    def thumbnail(self, index: int, waits: bool) -> Thumbnail:
        """Return one case on the grid of blobs. waits: whether its target needs a proposal."""
        draft = self._drafts.pop(index, None) or self._read(index, learns=True)
        if self._keeps and waits:
            if draft.evidence is not None and self.targets.growth is not None:
                draft = replace(draft, evidence=lightened(draft.evidence, self.targets.growth))
            self._waiting_bytes += 0 if draft.evidence is None else memory_of(draft.evidence)
            if self._waiting_bytes <= WAITING_BYTES:  # else the case is read again
                self._drafts[index] = draft
        elif self._keeps:
            self._kept[index] = self._sample(index, draft)
        if draft.thumbnail is None:
            raise AssertionError("the case was read with its evidence")
        return draft.thumbnail

    def native(self, index: int) -> Native:
        """Return one case at its raw grid, read from disk each time."""
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

    def _read(self, index: int, *, learns: bool) -> _Draft:
        """Read the files of a case. learns: whether a target will be made of them."""
        case, size, classes = self.cases[index], self._preprocess.size, len(self.classes)
        with self._files.of(case):
            raw = read_image(case, self._preprocess.channels)
            full = class_masks(case, classes)
            marks = read_marks(case, raw.shape[1:])
        with torch.no_grad():
            windowed = self._preprocess.windowed_finite(torch.from_numpy(raw)[None])
            image = self._preprocess.resized(windowed)[0]
        if self._keeps:
            look = known_look(case)
            if len(raw) > 1:
                look = look_of(raw.transpose(1, 2, 0))
            elif look is None or look.rgb:
                look = look_of(raw[0])
            self.looks[case.row] = look
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
        if self.targets.growth is None or draft.evidence is None:
            nothing, every = np.zeros((classes, size, size), np.uint8), np.ones(classes, bool)
            target = PixelTarget(nothing, nothing, every, ~every)
        elif draft.pixel_target is not None:
            target = draft.pixel_target
        else:
            evidence = replace(draft.evidence, proposals=self.targets.proposals.get(index, ()))
            target = grown(evidence, self.targets.growth, size)
        ratios = self.cases[index].ratios
        ratio = [float("nan") if ratio is None else ratio for ratio in ratios]
        no_mask = torch.zeros(classes, size, size, dtype=torch.bool)
        return Sample(
            image=draft.image,
            ratio=torch.tensor(ratio, dtype=torch.float32),
            region_labels=draft.region_labels,
            marks=draft.marks,
            mask=no_mask if draft.mask is None else draft.mask,
            has_mask=draft.mask is not None,
            target=torch.from_numpy(target.inside),
            target_weight=torch.from_numpy(target.weight),
            fixed=torch.from_numpy(target.fixed),
            proposed=torch.from_numpy(target.proposed),
            soft=torch.zeros(0, size, size),
            index=index,
        )
