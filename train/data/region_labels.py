"""What a case says of its regions besides ratio, marks and mask, as tensors that can be moved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wsseg.train.cases.schema import Case, Region
from wsseg.train.config import Augmentation

# One random change of a training picture, drawn within the settings; `augment` applies it.

# Share of samples that are rotated and shrunk: the others keep the scale at which the network
# will be used.
TURNED_SHARE = 0.5


@dataclass(frozen=True)
class AugmentParams:
    """One drawn change; the default changes nothing.

    quarter_turns: counter-clockwise. degrees: rotation about the centre, clockwise. scale: of the
    picture within its frame, small enough that all of the picture stays in view. contrast:
    relative change about the mean. brightness: added. noise: standard deviation added, drawn from
    `noise_seed`.
    """

    flip_horizontal: bool = False
    flip_vertical: bool = False
    quarter_turns: int = 0
    degrees: float = 0.0
    scale: float = 1.0
    contrast: float = 0.0
    brightness: float = 0.0
    noise: float = 0.0
    noise_seed: int = 0


def draw(
    settings: Augmentation, random: np.random.Generator, *, upright: bool = False
) -> AugmentParams:
    """A change within the settings; `upright`: without a free rotation.

    The same numbers are drawn either way, so that the labels of one case do not change the
    draws of another.
    """
    flips = random.random(2) < (settings.flip_horizontal, settings.flip_vertical)
    turns = int(random.integers(1, 4)) if random.random() < settings.turn else 0
    degrees, scale = _draw_rotation(settings, random)
    if upright:
        degrees = 0.0
    contrast, brightness = random.uniform(-1, 1, 2) * (settings.contrast, settings.brightness)
    return AugmentParams(
        flip_horizontal=bool(flips[0]),
        flip_vertical=bool(flips[1]),
        quarter_turns=turns,
        degrees=degrees,
        scale=scale,
        contrast=float(contrast),
        brightness=float(brightness),
        noise=float(random.uniform(0, settings.noise)),
        noise_seed=int(random.integers(2**32)),
    )


def _draw_rotation(settings: Augmentation, random: np.random.Generator) -> tuple[float, float]:
    steepest = min(settings.rotate_degrees, _steepest(settings.shrink))
    degrees = float(random.uniform(-steepest, steepest))
    largest = max(settings.shrink, largest_scale(degrees))
    scale = float(random.uniform(settings.shrink, largest))
    turned = random.random() < TURNED_SHARE and settings.shrink < 1
    return (degrees, min(scale, largest_scale(degrees))) if turned else (0.0, 1.0)


def largest_scale(degrees: float) -> float:
    """Scale at which a square, rotated about its centre, just fits into its own frame."""
    angle = math.radians(degrees)
    return 1 / (abs(math.cos(angle)) + abs(math.sin(angle)))


def _steepest(scale: float) -> float:
    """Angle, in degrees, up to which a square of this scale stays in its frame."""
    # cos a + sin a = 1 / scale, squared: sin 2a = 1 / scale**2 - 1.
    sine = 1 / scale**2 - 1
    return 180.0 if sine >= 1 else math.degrees(math.asin(sine)) / 2


UNKNOWN = float("nan")
NUMBERS = 11
"""Of one class in `RegionLabels`."""
CENTRE = 0.5
"""Row and column of the frame's centre, as shares of its sides."""


@dataclass(frozen=True)
class RegionLabels:
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
    def free(self) -> "RegionLabels":
        """The labels without boxes and spreads, for losses that read neither."""
        return replace(
            self,
            box=torch.full_like(self.box, UNKNOWN),
            spread=torch.full_like(self.spread, UNKNOWN),
        )

    def moved(self, change: AugmentParams, of_image: Bool[Tensor, " k"]) -> "RegionLabels":
        """The labels of the image that `augment.apply` makes of this one's, which is a square.

        Exact for flips, quarter turns and scales. After a free rotation a box and a spread are
        unknown, because the rotated ones depend on the region's shape: see `upright`. of_image:
        which ratios are shares of the whole image; their bounds shrink with the picture's area.
        """
        labels = self
        if change.flip_horizontal:
            labels = labels._flipped(axis=1)
        if change.flip_vertical:
            labels = labels._flipped(axis=0)
        for _ in range(change.quarter_turns % 4):
            labels = labels._transposed()._flipped(axis=0)
        return labels._scaled(change.scale, of_image)._rotated(change.degrees)

    def _flipped(self, axis: int) -> "RegionLabels":
        """Mirrored along the rows (axis 0) or the columns (axis 1)."""
        box, centroid = self.box.clone(), self.centroid.clone()
        box[:, axis], box[:, axis + 2] = 1 - self.box[:, axis + 2], 1 - self.box[:, axis]
        centroid[:, axis] = 1 - self.centroid[:, axis]
        return replace(self, box=box, centroid=centroid)

    def _transposed(self) -> "RegionLabels":
        """With rows for columns; a quarter turn is this and a flip of the new rows."""
        return replace(
            self,
            box=self.box[:, [1, 0, 3, 2]],
            centroid=self.centroid.flip(1),
            spread=self.spread.flip(1),
        )

    def _scaled(self, scale: float, of_image: Bool[Tensor, " k"]) -> "RegionLabels":
        """Shrunk about the centre of the frame, which keeps its size."""
        return replace(
            self,
            bounds=torch.where(of_image[:, None], self.bounds * scale**2, self.bounds),
            box=(self.box - CENTRE) * scale + CENTRE,
            centroid=(self.centroid - CENTRE) * scale + CENTRE,
            spread=self.spread * scale,
        )

    def _rotated(self, degrees: float) -> "RegionLabels":
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


def unknown_region_labels(k: int) -> RegionLabels:
    """The labels of an image of which nothing is known, for k classes."""
    return _region_labels([(UNKNOWN,) * NUMBERS] * k)


def case_region_labels(case: Case, shape: tuple[int, int]) -> RegionLabels:
    """What a case's row says of its regions. shape: rows and columns of its picture.

    A single bound leaves the other one unknown.
    """
    return _region_labels([_numbers(region, shape) for region in case.regions])


def _numbers(region: Region, shape: tuple[int, int]) -> tuple[float, ...]:
    """All that is said of one class, in the order of the fields of `RegionLabels`."""
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


def _region_labels(table: Sequence[Sequence[float]]) -> RegionLabels:
    """Region labels from one row of numbers per class, in the order of the fields."""
    numbers = torch.tensor(table, dtype=torch.float32).reshape(len(table), NUMBERS)
    return RegionLabels(
        bounds=numbers[:, :2],
        present=numbers[:, 2],
        box=numbers[:, 3:7],
        centroid=numbers[:, 7:9],
        spread=numbers[:, 9:],
    )
