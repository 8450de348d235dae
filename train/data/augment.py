"""Augmentation that preserves area ratios: its parameters are drawn first, and then applied."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from wsseg.train.cases.schema import NOT_MARKED
from wsseg.train.config import Augmentation
from wsseg.train.data.batch import Sample
from wsseg.train.data.region_labels import UNKNOWN, RegionLabels

TINY = 1e-6
ROTATED_SHARE = 0.5
"""Share of samples that are rotated and shrunk: the others keep the scale at which the network is
used."""
CENTRE = 0.5
"""Row and column of the frame's centre, as shares of its sides."""


@dataclass(frozen=True)
class AugmentParams:
    """The parameters of one augmentation; by default the sample is unchanged.

    quarter_turns: counter-clockwise. degrees: rotation about the centre, clockwise. scale: of the
    image within its frame, small enough that all of the image stays in view. contrast: relative
    change about the mean. brightness: added to the intensities. noise: standard deviation of added
    noise, drawn from `noise_seed`.
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


def augment(
    sample: Sample,
    settings: Augmentation,
    of_image: Bool[Tensor, " k"],
    *,
    seed: int,
    epoch: int,
    repeat: int = 0,
) -> Sample:
    """Return the sample of an epoch; it is the same for equal seed, epoch, case and repeat.

    of_image: which ratios are shares of the whole image, see `CaseDataset`. repeat: how often this
    case has already occurred in the epoch.
    """
    random = np.random.default_rng((seed, epoch, sample.index, repeat))
    return apply(
        draw_params(settings, random, upright=sample.region_labels.upright), sample, of_image
    )


def draw_params(
    settings: Augmentation, random: np.random.Generator, *, upright: bool = False
) -> AugmentParams:
    """Draw parameters within the settings; `upright`: without a free rotation.

    The same numbers are drawn either way, so that the labels of one case do not change the draws
    of another.
    """
    flips = random.random(2) < (settings.flip_horizontal, settings.flip_vertical)
    turns = int(random.integers(1, 4)) if random.random() < settings.turn else 0
    # A square of scale s stays in its frame up to the angle a with cos a + sin a = 1 / s. Squared:
    # sin 2a = 1 / s**2 - 1.
    sine = 1 / settings.shrink**2 - 1
    fitting = 180.0 if sine >= 1 else math.degrees(math.asin(sine)) / 2
    steepest = min(settings.rotate_degrees, fitting)
    degrees = float(random.uniform(-steepest, steepest))
    largest = largest_scale(degrees)
    scale = min(float(random.uniform(settings.shrink, max(settings.shrink, largest))), largest)
    if not (random.random() < ROTATED_SHARE and settings.shrink < 1):
        degrees, scale = 0.0, 1.0
    contrast, brightness = random.uniform(-1, 1, 2) * (settings.contrast, settings.brightness)
    return AugmentParams(
        flip_horizontal=bool(flips[0]),
        flip_vertical=bool(flips[1]),
        quarter_turns=turns,
        degrees=0.0 if upright else degrees,
        scale=scale,
        contrast=float(contrast),
        brightness=float(brightness),
        noise=float(random.uniform(0, settings.noise)),
        noise_seed=int(random.integers(2**32)),
    )


def largest_scale(degrees: float) -> float:
    """Return the largest scale at which a square, rotated about its centre, fits into its frame."""
    angle = math.radians(degrees)
    return 1 / (abs(math.cos(angle)) + abs(math.sin(angle)))


def apply(params: AugmentParams, sample: Sample, of_image: Bool[Tensor, " k"]) -> Sample:
    """Return the augmented sample; intensities change first, so that the empty border is 0.

    A ratio of the whole image becomes ratio * scale**2, which is what its pixels then cover; a
    ratio of one area to another stays. Beyond the image, a teacher's map has no class either.
    """
    mean = sample.image.mean()
    image = (sample.image - mean) * (1 + params.contrast) + mean + params.brightness
    if params.noise:
        noise = np.random.default_rng(params.noise_seed).standard_normal(image.shape, np.float32)
        image = image + torch.from_numpy(noise * params.noise)
    image = image.clamp(0, 1)
    classes = len(sample.mask)
    # Targets count by their weight: they must not fade next to pixels without a target.
    weighted = sample.target * sample.target_weight
    smooth = _flip_and_turn(torch.cat([weighted, sample.target_weight, image, sample.soft]), params)
    labels = _flip_and_turn(torch.cat([sample.marks[None], sample.mask]), params)
    parts = [classes, classes, len(image), len(sample.soft)]
    weighted, weight, image, soft = torch.split(_rotate(smooth, params), parts)
    marks, mask = torch.split(_rotate(labels, params), [1, classes])
    if params.scale != 1 or params.degrees != 0:
        marks = _keep_marks(labels[:1], marks, params)
    return replace(
        sample,
        image=image,
        ratio=torch.where(of_image, sample.ratio * params.scale**2, sample.ratio),
        region_labels=transform_region_labels(sample.region_labels, params, of_image),
        marks=marks[0],
        mask=mask.bool(),
        target=torch.where(weight > 0, weighted / weight.clamp(min=TINY), 0.0),
        target_weight=weight,
        soft=soft,
    )


def transform_region_labels(
    labels: RegionLabels, params: AugmentParams, of_image: Bool[Tensor, " k"]
) -> RegionLabels:
    """Return the region labels of the image, a square, after `apply`.

    They are exact for flips, quarter turns and scales. After a free rotation a box and a spread are
    unknown, because the rotated ones depend on the region's shape: see `RegionLabels.upright`.
    of_image: which ratios are shares of the whole image; their bounds shrink with its area.
    """
    box, centroid, spread = labels.box, labels.centroid, labels.spread
    if params.flip_horizontal:
        box, centroid = _mirrored(box, centroid, 1)
    if params.flip_vertical:
        box, centroid = _mirrored(box, centroid, 0)
    for _ in range(params.quarter_turns % 4):
        # A quarter turn exchanges rows and columns, and then flips the new rows.
        box, centroid, spread = box[:, [1, 0, 3, 2]], centroid.flip(1), spread.flip(1)
        box, centroid = _mirrored(box, centroid, 0)
    scale = params.scale
    box, centroid = (box - CENTRE) * scale + CENTRE, (centroid - CENTRE) * scale + CENTRE
    spread = spread * scale
    if params.degrees != 0:
        box, spread = torch.full_like(box, UNKNOWN), torch.full_like(spread, UNKNOWN)
        # Rows point down, so that clockwise is from columns to rows.
        angle = torch.deg2rad(torch.tensor(params.degrees))
        row, column = (centroid - CENTRE).unbind(1)
        rotated = (
            angle.sin() * column + angle.cos() * row,
            angle.cos() * column - angle.sin() * row,
        )
        centroid = torch.stack(rotated, 1) + CENTRE
    bounds = torch.where(of_image[:, None], labels.bounds * scale**2, labels.bounds)
    return replace(labels, bounds=bounds, box=box, centroid=centroid, spread=spread)


def _mirrored(box: Tensor, centroid: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return boxes and centroids, shares of the frame, mirrored along rows (0) or columns (1)."""
    box, centroid = box.clone(), centroid.clone()
    box[:, axis], box[:, axis + 2] = 1 - box[:, axis + 2], 1 - box[:, axis]
    centroid[:, axis] = 1 - centroid[:, axis]
    return box, centroid


def _flip_and_turn(stack: Tensor, params: AugmentParams) -> Tensor:
    """Return the stack after flips and quarter turns, which move pixels without changing them."""
    if params.flip_horizontal:
        stack = stack.flip(2)
    if params.flip_vertical:
        stack = stack.flip(1)
    return torch.rot90(stack, params.quarter_turns, (1, 2))


def _rotate(stack: Tensor, params: AugmentParams) -> Tensor:
    """Rotate and shrink about the centre: bilinear for intensities, nearest for labels."""
    if params.scale == 1 and params.degrees == 0:
        return stack
    smooth = stack.is_floating_point()
    rotated: Tensor = transforms.affine(
        stack if smooth else stack.float(),  # the nearest mode needs floats as well
        angle=params.degrees,
        translate=[0, 0],
        scale=params.scale,
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR if smooth else InterpolationMode.NEAREST,
        fill=0,
    )
    return rotated.to(stack.dtype)


def _keep_marks(before: Tensor, after: Tensor, params: AugmentParams) -> Tensor:
    """Put back each marked pixel (1, s, s) whose label `_rotate` lost around its new position."""
    labels, marks = before[0].numpy(), after[0].numpy().copy()
    rows, columns = np.nonzero(labels != NOT_MARKED)
    # Rows point down, so that clockwise is from columns to rows.
    centre, angle = (len(labels) - 1) / 2, math.radians(params.degrees)
    cosine, sine = params.scale * math.cos(angle), params.scale * math.sin(angle)
    x, y = columns - centre, rows - centre
    new_rows = np.rint(sine * x + cosine * y + centre).astype(np.intp)
    new_columns = np.rint(cosine * x - sine * y + centre).astype(np.intp)
    for label in np.unique(labels[rows, columns]):
        near = ndimage.binary_dilation(marks == label, np.ones((3, 3)))
        lost = (labels[rows, columns] == label) & ~near[new_rows, new_columns]
        marks[new_rows[lost], new_columns[lost]] = label
    return torch.from_numpy(marks)[None]
