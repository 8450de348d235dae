"""Changes to training pictures that keep their area ratios true: drawn first, then applied."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from wsseg.train.cases.schema import NOT_MARKED
from wsseg.train.config import Augmentation
from wsseg.train.data.dataset import Sample
from wsseg.train.data.region_labels import AugmentParams, draw

TINY = 1e-6


def augment(
    sample: Sample,
    settings: Augmentation,
    of_image: Bool[Tensor, " k"],
    *,
    seed: int,
    epoch: int,
    repeat: int = 0,
) -> Sample:
    """The sample as one epoch sees it; the same for the same seed, epoch, case and repeat.

    of_image: which ratios are shares of the whole image, see `CaseDataset`. repeat: how often the
    epoch has seen this case before.
    """
    random = np.random.default_rng((seed, epoch, sample.index, repeat))
    change = draw(settings, random, upright=sample.region_labels.upright)
    return apply(change, sample, of_image)


def apply(change: AugmentParams, sample: Sample, of_image: Bool[Tensor, " k"]) -> Sample:
    """The changed sample: intensities first, then places, so that the empty border is 0.

    A ratio of the whole image becomes ratio * scale**2, which is what its pixels then cover; a
    ratio of one area to another stays. Beyond the picture a teacher's map, too, has no class.
    """
    classes, image = len(sample.mask), _change_intensities(sample.image, change)
    # By its weight: between a taught pixel and one that is not, the target must not fade.
    taught = sample.target * sample.target_weight
    smooth = _move(torch.cat([taught, sample.target_weight, image, sample.soft]), change)
    labels = _move(torch.cat([sample.marks[None], sample.mask]), change)
    parts = [classes, classes, len(image), len(sample.soft)]
    taught, weight, image, soft = torch.split(_rotate(smooth, change), parts)
    target = torch.where(weight > 0, taught / weight.clamp(min=TINY), 0.0)
    marks, mask = torch.split(_rotate(labels, change), [1, classes])
    if change.scale != 1 or change.degrees != 0:
        marks = _keep_marks(labels[:1], marks, change)
    ratio = torch.where(of_image, sample.ratio * change.scale**2, sample.ratio)
    return replace(
        sample,
        image=image,
        ratio=ratio,
        region_labels=sample.region_labels.moved(change, of_image),
        marks=marks[0],
        mask=mask.bool(),
        target=target,
        target_weight=weight,
        soft=soft,
    )


def _change_intensities(image: Tensor, change: AugmentParams) -> Tensor:
    mean = image.mean()
    changed = (image - mean) * (1 + change.contrast) + mean + change.brightness
    if change.noise:
        random = np.random.default_rng(change.noise_seed)
        noise = random.standard_normal(image.shape, np.float32) * change.noise
        changed = changed + torch.from_numpy(noise)
    return changed.clamp(0, 1)


def _move(stack: Tensor, change: AugmentParams) -> Tensor:
    """Flips and quarter turns, which move pixels without changing them."""
    if change.flip_horizontal:
        stack = stack.flip(2)
    if change.flip_vertical:
        stack = stack.flip(1)
    return torch.rot90(stack, change.quarter_turns, (1, 2))


def _rotate(stack: Tensor, change: AugmentParams) -> Tensor:
    """Rotation and shrinking about the centre: bilinear for intensities, nearest for labels."""
    if change.scale == 1 and change.degrees == 0:
        return stack
    smooth = stack.is_floating_point()
    turned: Tensor = transforms.affine(
        stack if smooth else stack.float(),  # its nearest mode, too, samples floats
        angle=change.degrees,
        translate=[0, 0],
        scale=change.scale,
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR if smooth else InterpolationMode.NEAREST,
        fill=0,
    )
    return turned.to(stack.dtype)


def _keep_marks(before: Tensor, after: Tensor, change: AugmentParams) -> Tensor:
    """Put back each marked pixel (1, s, s) whose label is gone from around its new place."""
    labels, kept = before[0].numpy(), after[0].numpy().copy()
    rows, columns = np.nonzero(labels != NOT_MARKED)
    new_rows, new_columns = _new_places(rows, columns, len(labels), change)
    for label in np.unique(labels[rows, columns]):
        near = ndimage.binary_dilation(kept == label, np.ones((3, 3)))
        lost = (labels[rows, columns] == label) & ~near[new_rows, new_columns]
        kept[new_rows[lost], new_columns[lost]] = label
    return torch.from_numpy(kept)[None]


def _new_places(
    rows: NDArray[np.intp], columns: NDArray[np.intp], size: int, change: AugmentParams
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pixels that pixels move to under `_rotate`; y points down, so clockwise is positive."""
    centre = (size - 1) / 2
    angle = math.radians(change.degrees)
    cosine, sine = change.scale * math.cos(angle), change.scale * math.sin(angle)
    x, y = columns - centre, rows - centre
    moved = (sine * x + cosine * y + centre, cosine * x - sine * y + centre)
    new_rows, new_columns = (np.rint(place).astype(np.intp) for place in moved)
    return new_rows, new_columns
